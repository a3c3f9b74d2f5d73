//! The only way from fetched bytes to tar bytes.
//!
//! Whatever a layer's [`DigestScope`] is, it is dealt with here and nowhere else. [`TarBytes`] cannot be made
//! outside this module: what is kept, and what a reader is given, has been verified, span by span or, of a layer that
//! was streamed whole ([`whole`]), by its diffID. [`FrameBytes`] of a boot pack are verified by the pack's table; no layer's
//! store takes them.

mod frame;
pub(crate) mod whole;

use std::ops::Range;

use bytes::Bytes;
use jaunt_formats::compression::ZstdError;
use jaunt_formats::{Digest, DigestScope, Span, TarOffset};

pub use self::frame::{FrameBytes, FrameError, verify_frame};
use crate::decode::{decode, decode_prefix};

/// Verified bytes of a layer's tar, and where they belong.
#[derive(Clone, Debug)]
pub struct TarBytes {
    offset: TarOffset,
    bytes: Bytes,
}

/// Why a span's bytes are not what its index says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Another number of bytes than the span has.
    #[error("{actual} compressed bytes arrived where the span has {expected}")]
    Length {
        /// What the index says.
        expected: u32,
        /// What came.
        actual: usize,
    },
    /// The digest differs: the bytes were changed on their way or at their source.
    #[error("the span's digest does not match ({0:?})")]
    Digest(DigestScope),
    /// The digest matched but the bytes do not decode: the index itself is wrong.
    #[error("the span does not decode: {0}")]
    Decode(#[from] ZstdError),
}

/// Verifies and decodes one span.
///
/// # Errors
/// The bytes are not the span's.
pub fn verify(span: &Span, scope: DigestScope, compressed: &[u8]) -> Result<TarBytes, VerifyError> {
    if compressed.len() != span.compressed_len as usize {
        return Err(VerifyError::Length { expected: span.compressed_len, actual: compressed.len() });
    }
    if scope == DigestScope::Compressed && *blake3::hash(compressed).as_bytes() != span.digest.0 {
        return Err(VerifyError::Digest(scope));
    }
    let decoded = match scope {
        DigestScope::Compressed => decode(compressed, span.tar_len as usize)?,
        // The digest is that of a file's content; its last frame may also carry what follows it in the tar.
        DigestScope::Uncompressed => decode_prefix(compressed, span.tar_len as usize)?,
    };
    if scope == DigestScope::Uncompressed && *Digest::of(&decoded).as_bytes() != span.digest.0 {
        return Err(VerifyError::Digest(scope));
    }
    Ok(TarBytes { offset: span.tar_offset, bytes: decoded.into() })
}

impl TarBytes {
    /// The tar range they cover.
    pub fn range(&self) -> Range<u64> {
        self.offset.0..self.offset.0 + self.bytes.len() as u64
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The part that lies in `range`, which may be empty.
    pub fn slice(&self, range: &Range<u64>) -> &[u8] {
        let own = self.range();
        let within =
            |at: u64| usize::try_from(at.clamp(own.start, own.end) - own.start).unwrap_or(usize::MAX);
        self.bytes.get(within(range.start)..within(range.end)).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use jaunt_formats::{BlobOffset, SpanDigest};

    use super::*;

    /// Bytes that need no verifying, for tests of what comes behind it.
    pub(crate) fn trusted(offset: u64, bytes: &[u8]) -> TarBytes {
        TarBytes { offset: TarOffset(offset), bytes: Bytes::copy_from_slice(bytes) }
    }

    fn span(compressed: &[u8], tar_len: usize, digest: [u8; 32]) -> Span {
        Span {
            blob_offset: BlobOffset(0),
            compressed_len: compressed.len().try_into().unwrap(),
            tar_offset: TarOffset(512),
            tar_len: tar_len.try_into().unwrap(),
            digest: SpanDigest(digest),
        }
    }

    #[test]
    fn either_scope_accepts_its_own_digest_and_no_other() {
        let tar = b"some tar bytes".repeat(50);
        let compressed = crate::decode::tests::frames(&tar, 100);
        let blake = *blake3::hash(&compressed).as_bytes();
        let sha = *Digest::of(&tar).as_bytes();
        for (scope, good, bad) in
            [(DigestScope::Compressed, blake, sha), (DigestScope::Uncompressed, sha, blake)]
        {
            let verified = verify(&span(&compressed, tar.len(), good), scope, &compressed).unwrap();
            assert_eq!(verified.bytes(), &tar);
            assert_eq!(verified.slice(&(0..520)), &tar[..8]);
            assert_eq!(verified.slice(&(600..9999)), &tar[88..]);
            assert_eq!(verified.slice(&(0..512)), b"");
            let refused = verify(&span(&compressed, tar.len(), bad), scope, &compressed).unwrap_err();
            assert_eq!(refused, VerifyError::Digest(scope));
        }
    }

    #[test]
    fn content_may_share_its_last_frame_only_where_the_digest_is_its_own() {
        let tar = b"content, then padding and headers".repeat(50);
        let (compressed, len) = (crate::decode::tests::frames(&tar, tar.len()), 700);
        let content = *Digest::of(&tar[..len]).as_bytes();
        let verified =
            verify(&span(&compressed, len, content), DigestScope::Uncompressed, &compressed).unwrap();
        assert_eq!(verified.bytes(), &tar[..len]);
        let blake = *blake3::hash(&compressed).as_bytes();
        let refused = verify(&span(&compressed, len, blake), DigestScope::Compressed, &compressed);
        assert!(matches!(refused, Err(VerifyError::Decode(_))));
    }

    #[test]
    fn changed_short_and_lying_spans_are_refused() {
        let tar = vec![1; 4096];
        let compressed = crate::decode::tests::frames(&tar, 4096);
        let digest = *blake3::hash(&compressed).as_bytes();
        let scope = DigestScope::Compressed;
        let mut flipped = compressed.clone();
        flipped[compressed.len() / 2] ^= 1;
        assert_eq!(
            verify(&span(&compressed, 4096, digest), scope, &flipped).unwrap_err(),
            VerifyError::Digest(scope)
        );
        let short = &compressed[..compressed.len() - 1];
        assert!(matches!(
            verify(&span(&compressed, 4096, digest), scope, short),
            Err(VerifyError::Length { .. })
        ));
        for lie in [1, 4095, 4097, 100_000] {
            assert!(matches!(
                verify(&span(&compressed, lie, digest), scope, &compressed),
                Err(VerifyError::Decode(_))
            ));
        }
    }
}
