//! Reads a TOC that anybody may have written.

use super::layout::Position;
use super::toc::Toc;
use crate::Digest;
use crate::compression::{FrameDecoder, ZstdError};

/// podman's limit; a TOC of a million files has about as much.
pub const MAX_TOC_LEN: u64 = 150 << 20;

/// Why a TOC is not one.
#[derive(Debug, thiserror::Error)]
pub enum TocError {
    /// It would be larger than [`MAX_TOC_LEN`].
    #[error("TOC of {0} bytes is larger than the limit of {MAX_TOC_LEN}")]
    TooLarge(u64),
    /// The bytes are not those the descriptor names.
    #[error("TOC has digest {actual} instead of {expected}")]
    Digest {
        /// What the annotation says.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// It does not decompress to what the annotation says.
    #[error("TOC does not decompress: {0}")]
    Compression(#[from] ZstdError),
    /// It is not the JSON it should be.
    #[error("TOC is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that is not ours to guess at.
    #[error("TOC has version {0}; this program reads version 1")]
    Version(u32),
}

/// Decodes the compressed TOC that lay at `position`, after checking it against its digest.
pub fn decode_toc(compressed: &[u8], position: &Position, digest: Digest) -> Result<Toc, TocError> {
    if position.raw_len > MAX_TOC_LEN {
        return Err(TocError::TooLarge(position.raw_len));
    }
    let actual = Digest::of(compressed);
    if actual != digest {
        return Err(TocError::Digest { expected: digest, actual });
    }
    let len = usize::try_from(position.raw_len).map_err(|_| TocError::TooLarge(position.raw_len))?;
    let mut json = vec![0; len];
    FrameDecoder::new().decode(compressed, &mut json)?;
    let toc: Toc = serde_json::from_slice(&json)?;
    if toc.version == 1 { Ok(toc) } else { Err(TocError::Version(toc.version)) }
}
