//! Bytes that are set aside while a layer is converted: what is kept of a million entries need not be in memory.
//!
//! A spool is written once, from its start to its end, and then read in that order, as often as is wanted. Where
//! the bytes lie is for the caller to say, since nothing here does I/O.

use std::io::{self, BufReader, Read};

/// Bytes collected before they are handed to the spool, and read back at once.
const BATCH: usize = 64 << 10;

/// A place for bytes.
pub trait Spool: Send + Sync {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// The place has no room, or fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Fills the buffer with the bytes from `at` on.
    ///
    /// # Errors
    /// The place fails, or has fewer bytes.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl Spool for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let start = usize::try_from(at).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(buffer.len())?));
        let bytes = range.and_then(|range| self.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// Makes an empty spool.
pub type NewSpool = fn() -> Box<dyn Spool>;

/// A spool that is memory all the same: for small layers, and for tests.
pub fn in_memory() -> Box<dyn Spool> {
    Box::new(Vec::new())
}

/// Fills a spool.
pub(crate) struct SpoolWriter {
    spool: Box<dyn Spool>,
    batch: Vec<u8>,
    spooled: u64,
}

impl SpoolWriter {
    pub fn new(spool: NewSpool) -> Self {
        Self { spool: spool(), batch: Vec::new(), spooled: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.batch.extend_from_slice(bytes);
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    pub fn finish(mut self) -> io::Result<Spooled> {
        self.flush()?;
        Ok(Spooled { spool: self.spool, len: self.spooled })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spool.append(&self.batch)?;
        self.spooled += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }
}

/// A full spool.
pub(crate) struct Spooled {
    spool: Box<dyn Spool>,
    len: u64,
}

impl Spooled {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// All of it, from the start.
    pub fn reader(&self) -> BufReader<SpoolReader<'_>> {
        BufReader::with_capacity(BATCH, SpoolReader { spooled: self, at: 0 })
    }
}

pub(crate) struct SpoolReader<'s> {
    spooled: &'s Spooled,
    at: u64,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.spooled.len - self.at).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        self.spooled.spool.read_at(&mut buffer[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_in_order_and_again() {
        let bytes: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = SpoolWriter::new(in_memory);
        bytes.chunks(777).for_each(|piece| writer.push(piece).unwrap());
        let spooled = writer.finish().unwrap();
        assert_eq!(spooled.len(), bytes.len() as u64);
        for _ in 0..2 {
            let mut back = Vec::new();
            spooled.reader().read_to_end(&mut back).unwrap();
            assert!(back == bytes);
        }
        assert!(bytes.read_at(&mut [0; 2], bytes.len() as u64 - 1).is_err());
        assert!(bytes.read_at(&mut [0; 2], u64::MAX).is_err());
    }
}
