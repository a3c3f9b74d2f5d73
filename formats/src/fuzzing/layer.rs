//! Tars, and layers in zstd:chunked: scanned, converted, decoded, described, merged.

use crate::compression::{Compression, FrameDecoder, FrameEncoder};
use crate::launch::{self, Blob, LaunchIndex, LaunchLayer};
use crate::tar::{BLOCK, Event, Member, ScanError, Scanner};
use crate::tree::TreeBuilder;
use crate::zstd_chunked::{
    Annotations, BlobWriter, ConvertedLayer, Planner, Position, SpanCompressor, SpanPlan, decode_toc,
    foreign, read_entries,
};
use crate::{BlobOffset, DiffId, Digest, DigestScope, SpanDigest};

/// Fast: the level makes no difference to what is tested.
const LEVEL: i32 = 1;
const BLOCK_LEN: usize = 512;

/// The scanner: it makes no difference how a tar is sliced, and every byte is in one event.
pub fn tar(data: &[u8]) {
    let tar = sealed(data);
    let whole = scan(&tar, usize::MAX);
    let step = usize::from(*data.first().unwrap_or(&0)) * 7 + 1;
    assert_eq!(whole, scan(&tar, step), "slices of {step} bytes");
    if let Ok((members, len)) = whole {
        assert_eq!(len, tar.len());
        for member in members {
            assert!(member.content.start <= member.content.end && member.content.end <= len as u64);
            assert_eq!(member.content.start % BLOCK, 0);
        }
    }
}

fn scan(tar: &[u8], step: usize) -> Result<(Vec<Member>, usize), ScanError> {
    let (mut members, mut len) = (Vec::new(), 0);
    let mut scanner = Scanner::new();
    for slice in tar.chunks(step.min(tar.len().max(1))) {
        scanner.push(slice, &mut |event| match event {
            Event::Header(bytes) | Event::Content(bytes) | Event::Padding(bytes) | Event::Trailing(bytes) => {
                len += bytes.len();
            }
            Event::Member(member) => members.push(*member),
            Event::GlobalHeader => {}
        })?;
    }
    scanner.finish()?;
    Ok((members, len))
}

/// Makes the checksum of everything that could be a header right: else no change of one would be seen.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    for block in tar.as_chunks_mut::<BLOCK_LEN>().0.iter_mut().filter(|block| block.iter().any(|&b| b != 0)) {
        // Content is left alone, but for what looks like a header.
        if block[257..262] == *b"ustar" || block[148..156] == *b"checksum" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    tar
}

/// The whole way of a layer: the blob decodes to the tar, its own documents describe it, its tree is sound.
pub fn layer(data: &[u8]) {
    let tar = sealed(data);
    let Some((blob, layer)) = convert(&tar, LEVEL) else { return };
    assert_eq!(layer.diff_id, DiffId(Digest::of(&tar)));
    assert!(decode(&blob, &layer) == tar, "the blob does not decode to the tar");
    assert_eq!(Digest::of(&blob), layer.digest);
    if let Some(annotations) = Annotations::parse(&layer.annotations).expect("our own") {
        described(&blob, &layer, &annotations);
    }
    let mut tree = TreeBuilder::new();
    // The layer twice: the second is laid over the first.
    if tree.push_log(&layer.entries).is_ok() {
        tree.push_log(&layer.entries).expect("it was laid once");
        let layers = [launch_layer(&layer), launch_layer(&layer)];
        let index = launch::write(&layers, tree.finish()).expect("small");
        let index = LaunchIndex::open(index).expect("our own");
        launch::check(&index).expect("our own");
    }
}

pub(crate) fn convert(tar: &[u8], level: i32) -> Option<(Vec<u8>, ConvertedLayer)> {
    let mut planner = Planner::new(level).expect("a valid level");
    let mut plans: Vec<SpanPlan> = Vec::new();
    planner.push(tar, &mut |span| plans.push(span)).ok()?;
    let plan = planner.finish(&mut |span| plans.push(span)).ok()?;
    let mut compressor = SpanCompressor::new(level).expect("a valid level");
    let (mut writer, mut blob) = (BlobWriter::new(), Vec::new());
    for plan in &plans {
        let span = compressor.compress(plan).expect("a span compresses");
        writer.push(&span).expect("memory");
        blob.extend_from_slice(&span.bytes);
    }
    let layer = writer.finish(plan, level, &mut |piece| blob.extend(piece)).expect("a blob ends");
    Some((blob, layer))
}

pub(crate) fn decode(blob: &[u8], layer: &ConvertedLayer) -> Vec<u8> {
    let (mut tar, mut decoder) = (Vec::new(), FrameDecoder::new());
    for span in &layer.spans {
        let bytes = slice(blob, span.blob_range());
        assert_eq!(span.digest, SpanDigest(blake3::hash(bytes).into()));
        assert_eq!(span.tar_offset.0, tar.len() as u64);
        tar.extend(decoder.decode_to_vec(bytes, span.tar_len as usize).expect("a span decodes"));
    }
    tar
}

/// A reader of TOC and tar-split learns the same as one of the tar.
pub(crate) fn described(blob: &[u8], layer: &ConvertedLayer, annotations: &Annotations) {
    let at = |position: &Position| slice(blob, position.offset.0..position.offset.0 + position.len);
    let tar_split = annotations.tar_split.expect("our own has one");
    let entries = read_entries(annotations, at(&annotations.toc), at(&tar_split)).expect("our own");
    let logged = layer.entries.to_vec().expect("memory");
    assert_eq!(entries, logged);
    let whole = Blob { digest: layer.digest, len: layer.len, compression: Compression::Zstd };
    let tail = foreign::tail(annotations, layer.len).expect("our own");
    let read = foreign::read(layer.diff_id, whole, annotations, slice(blob, tail));
    // Spans of tiny files may be more than an index can have; entries are the same in any case.
    if let Ok(read) = read {
        assert_eq!(read.entries, logged);
        assert_eq!(read.layer.tar_len, layer.tar_len);
    }
}

pub(crate) fn launch_layer(layer: &ConvertedLayer) -> LaunchLayer {
    let blob = Blob { digest: layer.digest, len: layer.len, compression: Compression::Zstd };
    LaunchLayer {
        diff_id: layer.diff_id,
        original: blob,
        converted: blob,
        tar_len: layer.tar_len,
        scope: DigestScope::Compressed,
        spans: layer.spans.clone(),
    }
}

/// A table of contents: as it is, and compressed first.
pub fn toc(data: &[u8]) {
    let position = |raw_len: usize, len: usize| Position {
        offset: BlobOffset(8),
        len: len as u64,
        raw_len: raw_len as u64,
    };
    let _ = decode_toc(data, &position(data.len() * 4, data.len()), Digest::of(data));
    let compressed = compress(data);
    let _ = decode_toc(&compressed, &position(data.len(), compressed.len()), Digest::of(&compressed));
}

/// TOC and tar-split of a layer that others made: `u16` length of the TOC's entries, they, the tar-split.
pub fn foreign(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let (entries, tar_split) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let split = compress(tar_split);
    let end = format!(",\"tarSplitDigest\":\"{}\"}}", Digest::of(&split));
    let json = [b"{\"version\":1,\"entries\":", entries, end.as_bytes()].concat();
    let toc = compress(&json);
    let start = 8 + (1 << 20);
    let annotations = Annotations {
        toc_digest: Digest::of(&toc),
        toc: Position { offset: BlobOffset(start), len: toc.len() as u64, raw_len: json.len() as u64 },
        tar_split: Some(Position {
            offset: BlobOffset(start + toc.len() as u64),
            len: split.len() as u64,
            raw_len: tar_split.len() as u64,
        }),
    };
    let tail = [toc, split].concat();
    let blob =
        Blob { digest: Digest::of(b""), len: start + tail.len() as u64, compression: Compression::Zstd };
    let diff_id = DiffId(Digest::of(b""));
    let Ok(read) = foreign::read(diff_id, blob, &annotations, &tail) else { return };
    // What is accepted can be mounted, or is refused when it is laid; never half.
    let mut tree = TreeBuilder::new();
    if tree.push_layer(read.entries).is_ok()
        && let Ok(index) = launch::write(&[read.layer], tree.finish())
        && let Ok(index) = LaunchIndex::open(index)
    {
        launch::check(&index).expect("what is written is sound");
    }
}

fn compress(data: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    FrameEncoder::new(LEVEL).expect("a valid level").encode(data, &mut compressed).expect("it fits");
    compressed
}

fn slice(blob: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    let at = |offset: u64| usize::try_from(offset).expect("in memory");
    &blob[at(range.start)..at(range.end)]
}
