//! Frames of boot packs: verified against the pack's table, then decoded.

use bytes::Bytes;
use jaunt_formats::boot::Frame;
use jaunt_formats::compression::ZstdError;

use crate::decode::decode;

/// The verified content of one frame.
pub struct FrameBytes(Bytes);

/// Why bytes are not the frame that a table names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They were changed on their way, or are another number.
    #[error("its digest does not match")]
    Digest,
    /// They match, and do not decode to what the table says: the table itself is wrong.
    #[error("it does not decode: {0}")]
    Decode(#[from] ZstdError),
}

/// Verifies and decodes a frame.
///
/// # Errors
/// The bytes are not the frame's.
pub fn verify_frame(frame: &Frame, compressed: &[u8]) -> Result<FrameBytes, FrameError> {
    if *blake3::hash(compressed).as_bytes() != frame.digest {
        return Err(FrameError::Digest);
    }
    Ok(FrameBytes(decode(compressed, frame.content_len as usize)?.into()))
}

impl FrameBytes {
    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}
