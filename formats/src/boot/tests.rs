//! Packs are written, read, compared with their index, and refused where they are not sound.

use super::layout::{EXTENT_LEN, HEADER_LEN, table_len};
use super::*;
use crate::compression::FrameDecoder;
use crate::launch::{Blob, Compression, LaunchLayer};
use crate::{BlobOffset, DiffId, DigestScope, Span, SpanDigest};

const INDEX: &[u8] = b"index";

fn extent(layer: u16, offset: u64, len: u32) -> Extent {
    Extent { layer, tar_offset: TarOffset(offset), len }
}

fn content(extent: &Extent) -> Vec<u8> {
    let byte = |at: u64| u8::try_from((at * at / 7 + u64::from(extent.layer)) % 251).unwrap();
    extent.tar_range().map(byte).collect()
}

fn pack(extents: &[Extent]) -> Pack {
    let mut writer = PackWriter::new(Digest::of(INDEX), PACK_LEVEL).unwrap();
    extents.iter().for_each(|extent| writer.push(*extent, &content(extent)).unwrap());
    writer.finish().unwrap()
}

/// Layers of so many bytes of tar, each one span.
fn layers(lens: &[u32]) -> Vec<LaunchLayer> {
    let layer = |len: &u32| {
        let blob = Blob { digest: Digest::of(b""), len: 1 << 30, compression: Compression::Zstd };
        let span = Span {
            blob_offset: BlobOffset(0),
            compressed_len: 1,
            tar_offset: TarOffset(0),
            tar_len: *len,
            digest: SpanDigest([0; 32]),
        };
        let scope = DigestScope::Compressed;
        LaunchLayer {
            diff_id: DiffId(Digest::of(b"")),
            original: blob,
            converted: blob,
            tar_len: (*len).into(),
            scope,
            spans: vec![span],
        }
    };
    lens.iter().map(layer).collect()
}

fn sample() -> Vec<Extent> {
    vec![extent(1, 4096, 4096), extent(0, 0, 3 << 20), extent(1, 0, 4096), extent(1, 9000, 5)]
}

#[test]
fn what_is_packed_comes_back_in_order_and_its_first_frames_are_small() {
    let packed = pack(&sample());
    let table = &packed.bytes[..packed.table.len()];
    let read = packed.table.to_string().parse::<TablePlace>().unwrap().open(table).unwrap();
    assert_eq!(read.blob_len(), packed.bytes.len() as u64);
    assert_eq!(read.content_len(), (3 << 20) + 2 * 4096 + 5);
    assert_eq!(read.check(Digest::of(INDEX), &layers(&[3 << 20, 10_000])), Ok(()));
    let lens: Vec<u32> = read.frames.iter().map(|frame| frame.content_len).collect();
    assert_eq!(lens[..3], [64 << 10, 256 << 10, 1 << 20]);
    let (mut decoder, mut seen) = (FrameDecoder::new(), Vec::new());
    for frame in &read.frames {
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let bytes = &packed.bytes[at(frame.blob.start)..at(frame.blob.end)];
        assert_eq!(*blake3::hash(bytes).as_bytes(), frame.digest);
        let mut decoded = &decoder.decode_to_vec(bytes, frame.content_len as usize).unwrap()[..];
        for extent in &read.extents[frame.extents.clone()] {
            let (own, rest) = decoded.split_at(extent.len as usize);
            assert!(own == content(extent), "{extent:?}");
            (decoded, seen) = (rest, [seen, vec![*extent]].concat());
        }
    }
    assert_eq!(seen, read.extents);
    assert_eq!(packed, pack(&sample()), "the same content gives the same pack");
}

#[test]
fn a_pack_of_another_image_is_refused() {
    let packed = pack(&sample());
    let read = BootPack::read(&packed.bytes[..packed.table.len()]).unwrap();
    let expected = Digest::of(b"other");
    assert_eq!(read.check(expected, &[]), Err(BootError::Index { expected, actual: Digest::of(INDEX) }));
    for lens in [&[3 << 20][..], &[3 << 20, 9000], &[(3 << 20) - 1, 10_000]] {
        assert!(matches!(
            read.check(Digest::of(INDEX), &layers(lens)),
            Err(BootError::Record { what: "extent", .. })
        ));
    }
}

#[test]
fn a_table_that_is_not_the_one_named_is_refused() {
    let packed = pack(&sample());
    let mut table = packed.bytes[..packed.table.len()].to_vec();
    assert!(packed.table.open(&table[..table.len() - 1]).is_err());
    table[HEADER_LEN] ^= 1;
    assert!(packed.table.open(&table).is_err());
    for bad in ["", "1", "64", "x@sha256:00", "+200@", "99999999999@sha256:", "-1@"] {
        assert!(bad.parse::<TablePlace>().is_err(), "{bad}");
    }
    let digest = Digest::of(b"");
    for len in [0, HEADER_LEN as u64 - 1, table_len(MAX_RECORDS as usize, MAX_RECORDS as usize) + 1] {
        assert!(format!("{len}@{digest}").parse::<TablePlace>().is_err(), "{len}");
    }
}

#[test]
fn tables_that_contradict_themselves_are_refused() {
    let packed = pack(&sample());
    let table = &packed.bytes[..packed.table.len()];
    let frames = HEADER_LEN + EXTENT_LEN * BootPack::read(table).unwrap().extents.len();
    let changes: [(usize, &[u8], &str); 13] = [
        (0, b"x", "magic"),
        (8, &[2], "version 2"),
        (12, &[0xff; 4], "extents, more than"),
        (16, &[0xff; 4], "frames, more than"),
        (12, &[1, 0], "bytes long"),
        (20, &[1], "add up"),
        (24, &[1], "add up"),
        (31, &[1], "bytes of content, more than"),
        (HEADER_LEN, &[0xff; 8], "beyond any tar"),
        (HEADER_LEN + 8, &[0; 4], "empty, too long"),
        (HEADER_LEN + 14, &[1], "unknown fields"),
        (frames, &[0; 4], "empty or too long"),
        (frames + 4, &[0; 4], "holds no extents"),
    ];
    for (at, bytes, what) in changes {
        let mut bad = table.to_vec();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let error = BootPack::read(&bad).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    assert_eq!(BootPack::read(&[]), Err(BootError::Magic));
    let twice = pack(&[extent(0, 0, 100), extent(0, 99, 1)]);
    let error = BootPack::read(&twice.bytes[..twice.table.len()]).unwrap_err();
    assert!(error.to_string().contains("overlaps"), "{error}");
}

#[test]
fn a_pack_of_nothing_is_a_pack() {
    let packed = pack(&[]);
    let read = BootPack::read(&packed.bytes).unwrap();
    assert_eq!((read.content_len(), read.blob_len()), (0, packed.bytes.len() as u64));
}

#[test]
fn content_must_have_the_length_of_its_extent() {
    let mut writer = PackWriter::new(Digest::of(INDEX), PACK_LEVEL).unwrap();
    assert!(writer.push(extent(0, 0, 3), b"four").is_err());
}
