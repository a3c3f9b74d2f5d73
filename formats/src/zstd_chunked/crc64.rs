//! CRC-64/ISO (GO-ISO): polynomial x^64 + x^4 + x^3 + x + 1, reflected, all ones in and out.
//!
//! tar-split wants one for every file, so it runs over nearly every byte of a layer: by carry-less
//! multiplication where the processor has it, ten times as fast as by tables of sixteen bytes a step.

use crc_fast::{CrcAlgorithm, Digest};

/// A checksum in the making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc64(Digest);

impl Crc64 {
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64GoIso))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> u64 {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_values() {
        let of = |bytes: &[u8]| {
            let mut crc = Crc64::new();
            crc.update(bytes);
            crc.finish()
        };
        assert_eq!(of(b"hello\n"), 0x614c_3eee_e2d8_1000);
        assert_eq!(of(b"123456789"), 0xb909_56c7_75a4_1001);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn pieces_make_no_difference() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let mut whole = Crc64::new();
        whole.update(&bytes);
        let mut single = Crc64::new();
        bytes.iter().for_each(|byte| single.update(&[*byte]));
        let mut odd = Crc64::new();
        bytes.chunks(37).for_each(|piece| odd.update(piece));
        assert_eq!((whole.finish(), whole.finish()), (single.finish(), odd.finish()));
    }
}
