//! Where a conversion keeps what it will need again: in memory while that is little, then in a temporary file.
//!
//! The file lies in the directory that `TMPDIR` names (else `/tmp`) and has no name: it goes with the process, however
//! that ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use jaunt_formats::spool::Spool;

/// Bytes of one spool that stay in memory: all of a layer of some ten thousand files.
const IN_MEMORY: usize = 512 << 10;

/// A spool that is memory first and a file later.
#[derive(Default)]
pub struct Spill {
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    len: u64,
}

/// An empty one.
pub fn spill() -> Box<dyn Spool> {
    Box::<Spill>::default()
}

impl Spool for Spill {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            if self.memory.len() + bytes.len() <= IN_MEMORY {
                self.memory.extend_from_slice(bytes);
                return Ok(());
            }
            let file = self.file.insert(tempfile::tempfile()?);
            file.write_all_at(&self.memory, 0)?;
            self.len = self.memory.len() as u64;
            self.memory = Vec::new();
        }
        if let Some(file) = &self.file {
            file.write_all_at(bytes, self.len)?;
            self.len += bytes.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(buffer, at),
            None => self.memory.read_at(buffer, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_memory_and_from_a_file() {
        let bytes: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut spill = Spill::default();
        for (at, piece) in bytes.chunks(70_001).enumerate() {
            spill.append(piece).unwrap();
            let mut back = vec![0; piece.len()];
            spill.read_at(&mut back, at as u64 * 70_001).unwrap();
            assert!(back == piece, "piece {at}");
        }
        assert!(spill.file.is_some() && spill.memory.is_empty());
        let mut back = vec![0; bytes.len()];
        spill.read_at(&mut back, 0).unwrap();
        assert!(back == bytes);
        assert!(spill.read_at(&mut [0; 2], bytes.len() as u64 - 1).is_err());
    }
}
