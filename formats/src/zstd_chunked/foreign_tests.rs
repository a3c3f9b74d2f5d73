use std::collections::HashMap;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::super::samples::{Documents, convert, foreign_tar, sample};
use super::super::{ConvertedLayer, Planner};
use super::*;
use crate::compression::FrameDecoder;
use crate::launch::{self, Compression, LaunchIndex};
use crate::media_type::{CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION};
use crate::tree::TreeBuilder;
use crate::{EntryKind, EntryPath};

/// A layer with something of everything, made by the script beside it and
/// `skopeo copy --dest-compress-format zstd:chunked`, version 1.22.
const SKOPEO: &[u8] = include_bytes!("../../testdata/zstd-chunked-by-skopeo-1.22.tar.zst");
const SKOPEO_TAR_LEN: usize = 4_659_200;

fn skopeo_annotations() -> Annotations {
    let map = [
        (
            CHUNKED_MANIFEST_CHECKSUM,
            "sha256:3d76ebb6b30c55354371b90d147a4b2a4e655eb753d5c18f891add10c786cf11",
        ),
        (CHUNKED_MANIFEST_POSITION, "37196:1897:7544:1"),
        (CHUNKED_TARSPLIT_POSITION, "39101:1831:44102"),
    ];
    let map: HashMap<_, _> = map.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Annotations::parse(&map).unwrap().unwrap()
}

fn blob_of(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), len: bytes.len() as u64, compression: Compression::Zstd }
}

fn part(bytes: &[u8], range: Range<u64>) -> &[u8] {
    &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

fn read_blob(bytes: &[u8], annotations: &Annotations) -> Result<ForeignLayer, ForeignError> {
    let blob = blob_of(bytes);
    let tail = tail(annotations, blob.len)?;
    read(DiffId(Digest::of(b"unknown")), blob, annotations, part(bytes, tail))
}

/// Decodes every span and compares it with the tar; and the index that the layer gives is sound.
fn check(bytes: &[u8], tar: &[u8], foreign: &ForeignLayer) {
    for span in &foreign.layer.spans {
        let frames = part(bytes, span.blob_range());
        let decoded = FrameDecoder::new().decode_prefix(frames, span.tar_len as usize).unwrap();
        assert!(decoded == part(tar, span.tar_range()), "{span:?}");
        assert_eq!(span.digest.0, *Sha256::digest(&decoded), "{span:?}");
    }
    let mut tree = TreeBuilder::new();
    tree.push_layer(foreign.entries.clone()).unwrap();
    let index = launch::write(std::slice::from_ref(&foreign.layer), tree.finish()).unwrap();
    let index = LaunchIndex::open(index).unwrap();
    launch::check(&index).unwrap();
    assert_eq!(index.layers(), std::slice::from_ref(&foreign.layer));
}

#[test]
fn a_layer_by_skopeo_is_read_whole() {
    let mut tar = vec![0; SKOPEO_TAR_LEN];
    FrameDecoder::new().decode(SKOPEO, &mut tar).unwrap();
    let foreign = read_blob(SKOPEO, &skopeo_annotations()).unwrap();
    let mut planner = Planner::new(3).unwrap();
    planner.push(&tar, &mut |_| ()).unwrap();
    assert!(foreign.entries == planner.finish(&mut |_| ()).unwrap().entries.to_vec().unwrap());
    assert_eq!((foreign.layer.tar_len, foreign.layer.covers_tar()), (tar.len() as u64, true));
    check(SKOPEO, &tar, &foreign);

    let spans_of = |name: &str| {
        let path = EntryPath::parse(name.as_bytes()).unwrap();
        let entry = foreign.entries.iter().find(|entry| entry.path == path).unwrap();
        let EntryKind::Regular { size, content: crate::Content::Contiguous(at) } = &entry.kind else {
            panic!("{entry:?}")
        };
        let within = |span: &&Span| (at.0..at.0 + size).contains(&span.tar_offset.0);
        foreign.layer.spans.iter().filter(within).count()
    };
    assert_eq!(spans_of("usr/chunked"), 1, "ten chunks, but less than a MiB");
    assert_eq!(spans_of("usr/big"), 12, "one for each chunk");
    assert_eq!(spans_of("usr/zeros"), 1);
}

#[test]
fn our_own_layers_are_read_without_their_launch_artifact() {
    let tar = sample().bytes;
    let (bytes, layer) = convert(&tar, 4096);
    let foreign = read_blob(&bytes, &annotations_of(&layer)).unwrap();
    assert!(foreign.entries == layer.entries.to_vec().unwrap());
    assert!(!foreign.layer.covers_tar(), "headers ride in files' frames");
    check(&bytes, &tar, &foreign);
}

fn annotations_of(layer: &ConvertedLayer) -> Annotations {
    Annotations::parse(&layer.annotations).unwrap().unwrap()
}

#[test]
fn annotations_that_cannot_be_are_refused() {
    let good = skopeo_annotations();
    let len = SKOPEO.len() as u64;
    let split = good.tar_split.unwrap();
    let at = |position: Position, offset| Position { offset: BlobOffset(offset), ..position };
    assert_eq!(tail(&good, len).unwrap(), 37_196..39_101 + 1831);
    for (toc, tar_split, what) in [
        (good.toc, None, "no tar-split"),
        (at(good.toc, len), Some(split), "outside the blob"),
        (at(good.toc, 7), Some(split), "outside the blob"),
        (good.toc, Some(at(split, len - 10)), "outside the blob"),
        (good.toc, Some(at(split, good.toc.offset.0 + 1)), "overlap"),
        (at(good.toc, 100), Some(split), "far apart"),
        (Position { len: 1 << 40, ..good.toc }, Some(split), "outside the blob"),
    ] {
        let annotations = Annotations { toc, tar_split, ..good.clone() };
        let error = tail(&annotations, len).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let huge = Annotations { toc: Position { len: 65 << 20, ..good.toc }, ..good.clone() };
    let huge = Annotations { tar_split: Some(at(split, huge.toc.offset.0 + huge.toc.len)), ..huge };
    assert!(matches!(tail(&huge, 1 << 40), Err(ForeignError::TooLarge(_))));
    let blob = blob_of(SKOPEO);
    let short = read(DiffId(blob.digest), blob, &good, &SKOPEO[..100]);
    assert!(matches!(short, Err(ForeignError::Tail { actual: 100, .. })));
}

/// The entries of the TOC of a file of 10 bytes with two chunks.
fn entries() -> [TocEntry; 2] {
    let digest = Some(Digest::of(b"x"));
    let chunk = |offset, chunk_offset, chunk_size| TocEntry {
        offset,
        chunk_offset,
        chunk_size,
        chunk_digest: digest,
        ..TocEntry::default()
    };
    let mut entries = [chunk(100, 0, 4), chunk(150, 4, 6)];
    (entries[0].end_offset, entries[0].digest) = (200, digest);
    entries
}

#[test]
fn chunks_end_where_either_writer_says() {
    let ranges = |entries: &[TocEntry]| -> Vec<_> {
        chunks(entries, 10).unwrap().into_iter().map(|chunk| (chunk.blob, chunk.offset, chunk.len)).collect()
    };
    let by_podman = entries();
    let mut by_us = entries();
    (by_us[0].end_offset, by_us[1].end_offset) = (150, 200);
    for entries in [by_podman, by_us] {
        assert_eq!(ranges(&entries), [(100..150, 0, 4), (150..200, 4, 6)]);
    }
    let alone = TocEntry { offset: 5, end_offset: 9, ..TocEntry::default() };
    assert_eq!(ranges(&[alone]), [(5..9, 0, 10)]);
}

#[test]
fn chunks_that_are_no_file_are_refused() {
    type Change = fn(&mut [TocEntry; 2]);
    let changes: [(Change, &str); 9] = [
        (|e| e[1].offset = 90, "out of order"),
        (|e| e[1].offset = 100, "out of order"),
        (|e| e[0].offset = -1, "negative"),
        (|e| e[0].end_offset = 0, "out of order"),
        (|e| e[1].chunk_offset = 3, "leave a gap"),
        (|e| e[1].chunk_offset = 5, "leave a gap"),
        (|e| e[0].chunk_size = 0, "leave a gap"),
        (|e| e[1].chunk_size = i64::MAX, "do not add up"),
        (|e| e[1].chunk_size = 5, "do not add up"),
    ];
    for (change, what) in changes {
        let mut entries = entries();
        change(&mut entries);
        let error = chunks(&entries, 10).map(|_| ()).unwrap_err();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let (bytes, layer) = convert(&sample().bytes, 4096);
    let frames_end = annotations_of(&layer).toc.offset.0 - SKIPPABLE_HEADER_LEN;
    let read = |change: &dyn Fn(&mut [serde_json::Value])| {
        let mut documents = Documents::of(&bytes, &layer);
        let entries = documents.toc["entries"].as_array_mut().unwrap();
        let mut noise = entries.split_mut(|entry| entry["name"] != "usr/noise").filter(|run| !run.is_empty());
        change(noise.next().unwrap());
        let (annotations, toc, tar_split) = documents.seal(frames_end + SKIPPABLE_HEADER_LEN);
        let tail = [toc, tar_split].concat();
        let blob = Blob { len: frames_end + SKIPPABLE_HEADER_LEN + tail.len() as u64, ..blob_of(&[]) };
        super::read(layer.diff_id, blob, &annotations, &tail)
    };
    assert!(read(&|_| ()).unwrap().entries == layer.entries.to_vec().unwrap());
    type Change = fn(&mut [serde_json::Value]);
    let changes: [(Change, &str); 6] = [
        (|chunks| chunks[0]["offset"] = 0.into(), "overlap others"),
        (|chunks| chunks.last_mut().unwrap()["endOffset"] = u32::MAX.into(), "outside of the blob's"),
        (|chunks| chunks[0]["offset"] = u32::MAX.into(), "out of order"),
        (|chunks| chunks[1]["chunkOffset"] = 1.into(), "leave a gap"),
        (|chunks| chunks[0]["chunkSize"] = 1.into(), "leave a gap"),
        (|chunks| chunks[1]["chunkDigest"] = serde_json::Value::Null, "has no digest"),
    ];
    for (change, what) in changes {
        let error = read(&change).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("usr/noise"), "{what}: {error}");
    }
}

#[test]
fn spans_that_cannot_be_are_none() {
    let digest = SpanDigest([0; 32]);
    assert!(span(10..20, 0..320_000, digest).is_some());
    for (blob, tar) in [
        (10..10, 0..1),
        (10..20, 5..5),
        (Range { start: 20, end: 10 }, 0..1),
        (10..20, 0..400_000),
        (0..u64::from(Span::MAX_LEN) + 1, 0..1),
        (0..1 << 20, 0..u64::from(Span::MAX_LEN) + 1),
    ] {
        assert_eq!(span(blob.clone(), tar.clone(), digest), None, "{blob:?} {tar:?}");
    }
}

proptest! {
    #[test]
    fn every_file_of_any_tar_is_in_spans(tar in foreign_tar()) {
        let (bytes, layer) = convert(&tar, 4096);
        let foreign = read_blob(&bytes, &annotations_of(&layer)).unwrap();
        prop_assert!(foreign.entries == layer.entries.to_vec().unwrap());
        check(&bytes, &tar, &foreign);
    }
}
