//! Bytes as the disk has them, past what the kernel keeps of them in memory.
//!
//! With `O_DIRECT`, which also leaves that alone: what programs use of a file stays in the page cache, and nothing else gets
//! there. On a file system that has none, through the page cache, of which the piece that was read is given back.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::Errno;

/// What offsets, lengths and buffers are multiples of: enough for every disk there is.
const ALIGN: usize = 4096;

/// Where bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadFrom {
    /// Wherever the kernel has them.
    Cache,
    /// Where they will be when the kernel has forgotten them.
    Disk,
}

/// `len` bytes of a file from `offset`.
pub(super) fn read(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    match unbuffered(path, offset, len) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => buffered(path, offset, len),
        read => read,
    }
}

fn unbuffered(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(direct).open(path)?;
    let before = usize::try_from(offset % ALIGN as u64).map_err(io::Error::other)?;
    let wanted = (before + len).next_multiple_of(ALIGN);
    let mut room = vec![0; wanted + ALIGN];
    let aligned = room.as_ptr().align_offset(ALIGN);
    let piece = room.get_mut(aligned..aligned + wanted).ok_or(Errno::INVAL)?;
    let mut read = 0;
    while read < before + len {
        match file.read_at(&mut piece[read..], offset - before as u64 + read as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    room.truncate(aligned + before + len);
    Ok(room.split_off(aligned + before))
}

fn buffered(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let forget = || fadvise(&file, offset, NonZeroU64::new(len as u64), Advice::DontNeed);
    forget()?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    forget()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_a_file_is_read_either_way_and_what_is_beyond_its_end_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let bytes: Vec<u8> = (0..30_001_u32).map(|at| ((at * 7) >> 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        for (offset, len) in [(0, 1), (0, 30_001), (4095, 2), (4096, 4096), (8191, 12_289), (30_000, 1)] {
            let expected = &bytes[offset..offset + len];
            assert!(read(&path, offset as u64, len).unwrap() == expected, "{offset} {len}");
            assert!(buffered(&path, offset as u64, len).unwrap() == expected, "{offset} {len}");
        }
        for reading in [read, buffered] {
            assert_eq!(reading(&path, 30_000, 2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert!(reading(&directory.path().join("none"), 0, 1).is_err());
        }
    }
}
