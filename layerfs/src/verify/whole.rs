//! A layer's whole tar, in a file: nothing of it is believed before all of it hashes to the diffID.
//!
//! Blocks have checksums in memory, so that what the disk changes afterwards is found out as well.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use jaunt_formats::{DiffId, Digest, Span};
use sha2::{Digest as _, Sha256};

use super::TarBytes;

/// Bytes that are written, and checked when they are read, at once: 8 bytes of memory a block are 32 KiB a gigabyte.
pub(crate) const BLOCK: usize = 256 << 10;

/// A tar that is not all there yet, nor believed.
pub(crate) struct TarWriter {
    file: File,
    expected: u64,
    len: u64,
    hash: Sha256,
    sums: Vec<u64>,
}

/// A tar that is a layer's.
pub(crate) struct WholeTar {
    file: File,
    len: u64,
    sums: Vec<u64>,
}

/// Why a tar is not a layer's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WholeTarError {
    /// It goes on where it should end.
    #[error("it decodes to more than the {0} bytes of the layer")]
    TooLong(u64),
    /// It ends where it should go on.
    #[error("it decodes to {actual} bytes instead of the layer's {expected}")]
    TooShort {
        /// What the index says.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// It is another tar.
    #[error("it decodes to a tar with digest {0}, which is not the layer's")]
    Digest(Digest),
    /// The disk.
    #[error("the disk does not take it")]
    Disk(#[source] io::Error),
}

impl TarWriter {
    /// Writes a tar of `expected` bytes to an empty file.
    pub(crate) fn new(file: File, expected: u64) -> Self {
        Self { file, expected, len: 0, hash: Sha256::new(), sums: Vec::new() }
    }

    /// Takes the next [`BLOCK`] bytes; only the last may be fewer.
    pub(crate) fn push(&mut self, block: &[u8]) -> Result<(), WholeTarError> {
        if block.is_empty() {
            return Ok(());
        }
        let end = self.len + block.len() as u64;
        if end > self.expected {
            return Err(WholeTarError::TooLong(self.expected));
        }
        self.file.write_all_at(block, self.len).map_err(WholeTarError::Disk)?;
        self.hash.update(block);
        self.sums.push(checksum(CrcAlgorithm::Crc64Nvme, block));
        self.len = end;
        Ok(())
    }

    /// All has come: is it the layer?
    pub(crate) fn finish(self, diff_id: DiffId) -> Result<WholeTar, WholeTarError> {
        let (expected, actual) = (self.expected, self.len);
        if actual < expected {
            return Err(WholeTarError::TooShort { expected, actual });
        }
        let digest = Digest::from_bytes(self.hash.finalize().into());
        if digest != diff_id.0 {
            return Err(WholeTarError::Digest(digest));
        }
        Ok(WholeTar { file: self.file, len: self.len, sums: self.sums })
    }
}

impl WholeTar {
    /// The bytes of a span.
    ///
    /// # Errors
    /// The disk fails, or no longer has what was written.
    pub(crate) fn span(&self, span: &Span) -> io::Result<TarBytes> {
        Ok(TarBytes { offset: span.tar_offset, bytes: self.read(&span.tar_range())? })
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// As for [`span`](Self::span).
    pub(crate) fn read(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let outside = || io::Error::other("a range outside the tar");
        if range.end > self.len {
            return Err(outside());
        }
        let block = |at: u64| usize::try_from(at / BLOCK as u64).map_err(io::Error::other);
        let (first, last) = (block(range.start)?, block(range.end.saturating_sub(1).max(range.start))?);
        let start = first as u64 * BLOCK as u64;
        let len = (last as u64 + 1) * BLOCK as u64;
        let len = usize::try_from(len.min(self.len) - start).map_err(io::Error::other)?;
        let mut blocks = vec![0; len];
        self.file.read_exact_at(&mut blocks, start)?;
        let sums = self.sums.get(first..=last).ok_or_else(outside)?;
        for (block, sum) in blocks.chunks(BLOCK).zip(sums) {
            if checksum(CrcAlgorithm::Crc64Nvme, block) != *sum {
                return Err(io::Error::other("the disk has changed what was written"));
            }
        }
        let at = usize::try_from(range.start - start).map_err(io::Error::other)?;
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        Ok(Bytes::from(blocks).slice(at..at + len))
    }
}

#[cfg(test)]
mod tests {
    use jaunt_formats::{BlobOffset, SpanDigest, TarOffset};

    use super::*;

    fn write(bytes: &[u8], expected: usize) -> Result<TarWriter, WholeTarError> {
        let mut writer = TarWriter::new(tempfile::tempfile().unwrap(), expected as u64);
        bytes.chunks(BLOCK).try_for_each(|block| writer.push(block)).map(|()| writer)
    }

    fn span(start: usize, end: usize) -> Span {
        Span {
            blob_offset: BlobOffset(0),
            compressed_len: 1,
            tar_offset: TarOffset(start as u64),
            tar_len: (end - start) as u32,
            digest: SpanDigest([0; 32]),
        }
    }

    #[test]
    fn only_the_layer_itself_is_believed_and_only_while_the_disk_keeps_it() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|at| (at.wrapping_mul(at) >> 5) as u8).collect();
        let diff_id = DiffId(Digest::of(&bytes));
        let tar = write(&bytes, bytes.len()).unwrap().finish(diff_id).unwrap();
        for (start, end) in
            [(0, 700_000), (0, 1), (BLOCK - 1, BLOCK + 1), (BLOCK, 2 * BLOCK), (699_999, 700_000)]
        {
            assert_eq!(tar.span(&span(start, end)).unwrap().bytes(), &bytes[start..end]);
        }
        assert!(tar.span(&span(699_999, 700_001)).is_err());
        tar.file.write_all_at(&[!bytes[BLOCK]], BLOCK as u64).unwrap();
        assert!(tar.span(&span(0, BLOCK)).is_ok());
        assert!(tar.span(&span(BLOCK - 1, BLOCK + 1)).is_err());
    }

    #[test]
    fn longer_shorter_and_other_tars_are_refused() {
        let bytes = vec![7; BLOCK + 5];
        let diff_id = DiffId(Digest::of(&bytes));
        assert!(matches!(write(&bytes, BLOCK + 4), Err(WholeTarError::TooLong(_))));
        let short = write(&bytes, BLOCK + 6).unwrap().finish(diff_id);
        assert!(matches!(short, Err(WholeTarError::TooShort { .. })));
        let other = write(&bytes, bytes.len()).unwrap().finish(DiffId(Digest::of(b"other")));
        assert!(matches!(other, Err(WholeTarError::Digest(digest)) if digest == diff_id.0));
    }
}
