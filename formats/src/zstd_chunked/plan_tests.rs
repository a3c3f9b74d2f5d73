use super::super::weight::ENTRY_WEIGHT;
use super::*;
use crate::tar::fixture::Tar;

fn plan(tar: &[u8], step: usize) -> (Vec<SpanPlan>, LayerPlan) {
    let mut planner = Planner::new(3).unwrap();
    let mut spans = Vec::new();
    for slice in tar.chunks(step) {
        planner.push(slice, &mut |span| spans.push(span)).unwrap();
    }
    let layer = planner.finish(&mut |span| spans.push(span)).unwrap();
    (spans, layer)
}

/// Lengths of the frames of each span.
fn shape(tar: &Tar) -> Vec<Vec<u32>> {
    plan(&tar.bytes, 1 << 20)
        .0
        .iter()
        .map(|span| span.frames.iter().map(|frame| frame.len).collect())
        .collect()
}

const K: u32 = 1024;

#[test]
fn frames_start_at_content_and_carry_what_follows() {
    let tar = Tar::default().dir("d").file("a", b"1").file("empty", b"").file("b", &[0; 512]).end();
    // Directory and first header; a, two headers; b and the end.
    assert_eq!(shape(&tar), [[1024, 512 + 2 * 512, 512 + 1024]]);
}

#[test]
fn large_files_are_cut_and_small_ones_share_a_span() {
    let tar = Tar::default().file("big", &vec![0; 1_100 << 10]).file("small", b"x").end();
    assert_eq!(shape(&tar), [vec![512], vec![512 * K], vec![512 * K], vec![76 * K + 512, 512 + 1024]]);
    let exact = Tar::default().file("exact", &vec![0; 512 << 10]).end();
    assert_eq!(shape(&exact), [vec![512], vec![512 * K + 1024]], "the end rides along");
}

#[test]
fn a_span_is_closed_before_the_frame_that_would_pass_its_length() {
    let half = vec![0; 256 << 10];
    let tar = Tar::default().file("a", &half).file("b", &half).file("c", &half).end();
    // b's frame would fit but for its header.
    assert_eq!(shape(&tar), [vec![512, 256 * K + 512], vec![256 * K + 512], vec![256 * K + 1024]]);
}

#[test]
fn long_runs_of_headers_are_cut_too() {
    let tar = (0..2100).fold(Tar::default(), |tar, n| tar.dir(&format!("d{n}"))).file("f", &[1; 100]).end();
    assert_eq!(shape(&tar), [vec![512 * K], vec![512 * K], vec![(2101 - 2048) * 512, 512 + 1024]]);
    let trailing = Tar::default().file("f", &[1; 100]).end().raw(&vec![0; 1 << 20]);
    assert_eq!(shape(&trailing), [vec![512], vec![512 + 512 * K], vec![512 * K], vec![1024]]);
}

#[test]
fn every_frame_starts_at_a_block_and_parts_name_their_files() {
    let tar = Tar::default().dir("d").file("big", &vec![7; 700_001]).file("s", b"abc").end();
    let (spans, layer) = plan(&tar.bytes, 1000);
    let mut at = 0;
    let mut parts = Vec::new();
    for span in &spans {
        assert_eq!(span.tar_offset.0, at);
        for frame in &span.frames {
            assert_eq!(at % 512, 0);
            at += u64::from(frame.len);
            parts.extend(frame.part);
        }
    }
    assert_eq!((at, layer.tar_len), (tar.bytes.len() as u64, tar.bytes.len() as u64));
    let part = |entry, offset, len, whole| Part { entry, offset, len, whole };
    assert_eq!(parts, [part(1, 0, FRAME_LEN, false), part(1, 524_288, 175_713, false), part(2, 0, 3, true)]);
    assert_eq!(layer.diff_id.0, Digest::of(&tar.bytes));
}

#[test]
fn slicing_makes_no_difference() {
    let tar = (0..40_u32).fold(Tar::default(), |tar, n| {
        tar.dir(&format!("d{n}")).file(&format!("f{n}"), &vec![7; (n * n * 977) as usize])
    });
    let tar = tar.end();
    let (whole, _) = plan(&tar.bytes, usize::MAX);
    for step in [97, 512, 100_000] {
        assert!(plan(&tar.bytes, step).0 == whole, "slices of {step}");
    }
}

#[test]
fn layers_that_no_toc_can_describe_say_why() {
    let file = Tar::default().file("f", b"x");
    for (tar, want) in [
        (file.clone().file("./f", b"y"), Obstacle::Duplicate),
        (file.clone().pax(&[("path", b"\xff")]).file("g", b""), Obstacle::Text),
        (file.clone().extension(b'g', b""), Obstacle::GlobalHeader),
        (file.clone().pax(&[("mtime", b"253402300800")]).file("g", b""), Obstacle::Time),
        (
            file.clone().pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9")]).file("s", b"x"),
            Obstacle::Size,
        ),
        (file.clone().link(b'7', "contiguous", ""), Obstacle::Type),
        (file.clone().end().raw(b"junk"), Obstacle::Padding),
        (Tar { bytes: [&file.bytes[..1023], b"x"].concat() }, Obstacle::Padding),
    ] {
        assert_eq!(plan(&tar.end().bytes, 4096).1.toc.err(), Some(want));
    }
    assert!(plan(&file.end().bytes, 4096).1.toc.is_ok());
}

#[test]
fn a_layer_of_metadata_alone_is_refused_before_it_fills_the_memory() {
    let tar = (0..20).fold(Tar::default(), |tar, n| tar.file(&format!("name-{n}"), b"")).end();
    for (limit, fits) in [(20 * (ENTRY_WEIGHT + 7), true), (10 * ENTRY_WEIGHT, false)] {
        let mut planner = Planner::new(3).unwrap();
        planner.max_metadata = limit;
        let pushed = planner.push(&tar.bytes, &mut |_| ());
        assert_eq!(pushed.is_ok(), fits);
        assert!(fits || matches!(pushed, Err(PlanError::TooMuchMetadata)));
    }
}
