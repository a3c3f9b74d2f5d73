//! zstd decoding with one context a thread: a new context for each span costs a third of the speed.

use std::cell::RefCell;

use zstd_safe::DCtx;

thread_local! {
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Why bytes do not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// zstd refused; also when the output would be longer than it may be.
    #[error("zstd: {0}")]
    Zstd(&'static str),
    /// They decode to fewer bytes than they must.
    #[error("decoded to {actual} bytes instead of {expected}")]
    Length {
        /// What the index says.
        expected: usize,
        /// What came out.
        actual: usize,
    },
}

/// Decodes a run of whole frames to exactly `len` bytes. Never writes, nor allocates, more than that.
///
/// # Errors
/// The bytes are no zstd frames, or decode to another length.
pub fn decode(frames: &[u8], len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = Vec::with_capacity(len);
    CONTEXT
        .with_borrow_mut(|context| context.decompress(&mut decoded, frames))
        .map_err(|code| DecodeError::Zstd(zstd_safe::get_error_name(code)))?;
    if decoded.len() == len {
        Ok(decoded)
    } else {
        Err(DecodeError::Length { expected: len, actual: decoded.len() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `bytes` as zstd frames of `frame_len` bytes each.
    pub(crate) fn frames(bytes: &[u8], frame_len: usize) -> Vec<u8> {
        bytes
            .chunks(frame_len)
            .flat_map(|chunk| {
                let mut frame = Vec::with_capacity(zstd_safe::compress_bound(chunk.len()));
                zstd_safe::compress(&mut frame, chunk, 3).unwrap();
                frame
            })
            .collect()
    }

    #[test]
    fn a_bomb_stops_at_its_declared_length() {
        let bomb = frames(&vec![0; 64 << 20], 64 << 20);
        assert!(bomb.len() < 16 << 10);
        assert!(matches!(decode(&bomb, 1 << 20), Err(DecodeError::Zstd(_))));
    }

    #[test]
    fn frames_decode_as_one_stream() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(decode(&frames(&bytes, 7777), bytes.len()), Ok(bytes));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode(b"not zstd at all", 10).is_err());
        assert_eq!(decode(b"", 1), Err(DecodeError::Length { expected: 1, actual: 0 }));
    }
}
