//! zstd decoding with one context a thread: a new context for each span costs a third of the speed.

use std::cell::RefCell;

use jaunt_formats::compression::{FrameDecoder, ZstdError};

thread_local! {
    static DECODER: RefCell<FrameDecoder> = RefCell::new(FrameDecoder::new());
}

/// Decodes a run of whole frames to exactly `len` bytes. Never writes, nor allocates, more than that.
///
/// # Errors
/// The bytes are no zstd frames, or decode to another length.
pub fn decode(frames: &[u8], len: usize) -> Result<Vec<u8>, ZstdError> {
    DECODER.with_borrow_mut(|decoder| decoder.decode_to_vec(frames, len))
}

/// As [`decode`], but the last frame may hold more than is wanted of it: never more than a megabyte, which is dropped.
///
/// # Errors
/// The bytes are no zstd frames, or decode to another length.
pub fn decode_prefix(frames: &[u8], len: usize) -> Result<Vec<u8>, ZstdError> {
    DECODER.with_borrow_mut(|decoder| decoder.decode_prefix(frames, len))
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
        assert!(matches!(decode(&bomb, 1 << 20), Err(ZstdError::Library(_))));
    }

    #[test]
    fn frames_decode_as_one_stream() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(decode(&frames(&bytes, 7777), bytes.len()), Ok(bytes));
    }

    #[test]
    fn what_a_frame_holds_behind_a_prefix_is_dropped_if_it_is_little() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let frame = frames(&bytes, bytes.len());
        for len in [0, 1, 4096, bytes.len()] {
            assert_eq!(decode_prefix(&frame, len).as_deref(), Ok(&bytes[..len]));
        }
        assert!(decode_prefix(&frame, bytes.len() + 1).is_err());
        let bomb = frames(&vec![0; 64 << 20], 64 << 20);
        assert!(decode_prefix(&bomb, 1).is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode(b"not zstd at all", 10).is_err());
        assert_eq!(decode(b"", 1), Err(ZstdError::Length { expected: 1, actual: 0 }));
    }
}
