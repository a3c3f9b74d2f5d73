//! Spans: the unit of fetching, verification and decoding.
//!
//! A span is a contiguous blob range, one or more whole zstd frames, that decodes on its own to a
//! contiguous range of the layer's tar. Spans of a layer are sorted by tar offset and do not overlap.

use std::ops::Range;

use crate::{BlobOffset, TarOffset};

/// Which bytes a span's digest covers, decided once for a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DigestScope {
    /// BLAKE3 over the compressed span, checked before decoding. What Jaunt writes.
    Compressed = 1,
    /// SHA-256 over the decoded bytes, checked after decoding. What a zstd:chunked TOC offers.
    Uncompressed = 2,
}

/// 32 bytes: BLAKE3 or SHA-256, as the layer's [`DigestScope`] says.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanDigest(pub [u8; 32]);

impl std::fmt::Debug for SpanDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One span of one layer. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where the first frame starts in the blob.
    pub blob_offset: BlobOffset,
    /// Bytes of blob to fetch.
    pub compressed_len: u32,
    /// Where the decoded bytes start in the tar.
    pub tar_offset: TarOffset,
    /// Bytes of tar the span decodes to, exactly.
    pub tar_len: u32,
    /// Digest of the compressed or of the decoded bytes.
    pub digest: SpanDigest,
}

impl Span {
    /// Bytes a span may have in either space. Ours are some 512 KiB; a claim beyond this is an attack on memory.
    pub const MAX_LEN: u32 = 64 << 20;

    /// The blob range to fetch.
    pub fn blob_range(&self) -> Range<u64> {
        self.blob_offset.0..self.blob_offset.0 + u64::from(self.compressed_len)
    }

    /// The tar range the span decodes to.
    pub fn tar_range(&self) -> Range<u64> {
        self.tar_offset.0..self.tar_offset.0 + u64::from(self.tar_len)
    }
}
