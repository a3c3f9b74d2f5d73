//! The layers of a launch index, and what must hold of their spans before anything is fetched.

use std::ops::Range;

use zerocopy::little_endian::U64;

use super::layout::{LayerRecord, SpanRecord};
use super::{Blob, Compression};
use crate::{BlobOffset, DiffId, Digest, DigestScope, Span, SpanDigest, TarOffset};

/// One layer of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchLayer {
    /// SHA-256 of its tar.
    pub diff_id: DiffId,
    /// The blob that the image's manifest names.
    pub original: Blob,
    /// The blob that the spans are cut from.
    pub converted: Blob,
    /// Length of its tar in bytes.
    pub tar_len: u64,
    /// What the spans' digests cover.
    pub scope: DigestScope,
    /// The spans, in order. They cover the tar without a gap; only where the scope is
    /// [`DigestScope::Uncompressed`] may bytes that are no file's content lie between them.
    pub spans: Vec<Span>,
}

impl LaunchLayer {
    /// Whether every byte of the tar is in a span. Only such a layer can be checked span by span against
    /// its diffID.
    pub fn covers_tar(&self) -> bool {
        self.covers(&(0..self.tar_len))
    }

    /// Whether every byte of a range of the tar is in a span.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let first = self.spans.partition_point(|span| span.tar_range().end <= range.start);
        let mut at = range.start;
        for span in &self.spans[first..] {
            if at >= range.end || span.tar_offset.0 > at {
                break;
            }
            at = span.tar_range().end;
        }
        at >= range.end
    }
}

/// Reads a layer's record, with its spans out of all.
pub(super) fn read_layer(record: &LayerRecord, spans: &[SpanRecord]) -> Result<LaunchLayer, &'static str> {
    let first = record.first_span.get() as usize;
    let last = first.checked_add(record.spans.get() as usize).ok_or("spans out of range")?;
    let spans = spans.get(first..last).ok_or("spans out of range")?;
    let blob = |digest: [u8; 32], len: U64, compression| {
        let compression = compression_of(compression).ok_or("unknown compression")?;
        Ok::<_, &'static str>(Blob { digest: Digest::from_bytes(digest), len: len.get(), compression })
    };
    let layer = LaunchLayer {
        diff_id: DiffId(Digest::from_bytes(record.diff_id)),
        original: blob(record.original_digest, record.original_len, record.original_compression)?,
        converted: blob(record.converted_digest, record.converted_len, record.converted_compression)?,
        tar_len: record.tar_len.get(),
        scope: match record.digest_scope {
            1 => DigestScope::Compressed,
            2 => DigestScope::Uncompressed,
            _ => return Err("unknown digest scope"),
        },
        spans: spans.iter().map(read_span).collect(),
    };
    check_spans(&layer)?;
    Ok(layer)
}

fn read_span(record: &SpanRecord) -> Span {
    Span {
        blob_offset: BlobOffset(record.blob_offset.get()),
        compressed_len: record.compressed_len.get(),
        tar_offset: TarOffset(record.tar_offset.get()),
        tar_len: record.tar_len.get(),
        digest: SpanDigest(record.digest),
    }
}

/// Spans must lie in the order of tar and blob, within both, none larger than a node should hold in memory;
/// and they must cover the tar, unless only files' content has digests.
fn check_spans(layer: &LaunchLayer) -> Result<(), &'static str> {
    let (mut tar_end, mut blob_end) = (0, 0);
    let gaps = layer.scope == DigestScope::Uncompressed;
    for span in &layer.spans {
        let follows =
            span.tar_offset.0 == tar_end || gaps && (tar_end..layer.tar_len).contains(&span.tar_offset.0);
        if !follows || span.tar_len == 0 {
            return Err("spans leave a gap, overlap, or are empty");
        }
        if span.tar_len > Span::MAX_LEN || span.compressed_len > Span::MAX_LEN || span.compressed_len == 0 {
            return Err("a span is larger than 64 MiB, or empty");
        }
        let blob_range =
            span.blob_offset.checked_add(span.compressed_len.into()).map(|end| span.blob_offset.0..end.0);
        if !blob_range.is_some_and(|range| range.start >= blob_end && range.end <= layer.converted.len) {
            return Err("spans are out of order or lie outside the blob");
        }
        (tar_end, blob_end) = (span.tar_range().end, span.blob_range().end);
    }
    let ends = tar_end == layer.tar_len || gaps && tar_end < layer.tar_len;
    if ends { Ok(()) } else { Err("spans do not cover the layer's tar") }
}

fn compression_of(code: u8) -> Option<Compression> {
    Some(match code {
        0 => Compression::None,
        1 => Compression::Gzip,
        2 => Compression::Zstd,
        _ => return None,
    })
}
