//! The process beside a worker that stores pages in the kernel: see [`super::push`].
//!
//! ```text
//! each record:  length of the path u32 | length of the bytes u32 | inode number u64 | offset u64 | the path | the bytes
//! ```
//! Integers are in host order. A path of no length is the file of the record before. It ends with its input, or with the first thing
//! that cannot be done.
//!
//! Before the first file of a directory, the directory is listed: so the kernel knows all its names with one answer for dozens of them,
//! and nobody asks for each, nor for the listing. Programs look at the neighbours of what they read.

use std::collections::HashSet;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jaunt_formats::entry::PATH_MAX;
use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::abi::{NOTIFY_STORE, NotifyStore, OutHeader, PageRecord};
use super::push::PIECE;

/// What the path of a file of the mount may lead over.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);
/// Names of a mount that the kernel is told of at most, about a KiB each: more than are near what starts touch.
const MOST_NAMES: usize = 16 << 10;
/// Those of one directory.
const MOST_IN_ONE: usize = 2 << 10;
/// Bytes of a directory that are listed at a time.
const LISTED: usize = 32 << 10;

/// Stores what `input` brings in the inodes of a mount: `root` is the chain's root directory, `device` the connection's. To be called in
/// a process that does not serve the mount.
///
/// # Errors
/// The input is none, or the mount or its connection is gone.
pub fn store_pages(root: &Path, mut input: impl Read, device: impl AsFd) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut directories = Directories { listed: HashSet::new(), room: MOST_NAMES };
    let (mut path, mut bytes) = (Vec::new(), Vec::new());
    // For as long as it is open, the kernel has an inode that pages can be stored in.
    let mut file: Option<OwnedFd> = None;
    while let Some(record) = next(&mut input)? {
        if record.path_len > 0 {
            path.resize(record.path_len as usize, 0);
            input.read_exact(&mut path)?;
            directories.list_that_of(&path, &root);
            file = rustix::fs::openat2(&root, &path[..], flags, Mode::empty(), WITHIN).ok();
        }
        bytes.resize(record.len as usize, 0);
        input.read_exact(&mut bytes)?;
        if file.is_some() {
            store(&device, &record, &bytes)?;
        }
    }
    Ok(())
}

/// The directories that the kernel knows all names of.
struct Directories {
    listed: HashSet<Vec<u8>>,
    /// Names that it may still be told of.
    room: usize,
}

impl Directories {
    /// Lists the one that a file below `root` is in. What cannot be listed is asked for name by name.
    fn list_that_of(&mut self, path: &[u8], root: impl AsFd) {
        let directory = path.iter().rposition(|byte| *byte == b'/').map_or(&b"."[..], |end| &path[..end]);
        if self.room == 0 || self.listed.contains(directory) {
            return;
        }
        self.listed.insert(directory.to_vec());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(directory) = rustix::fs::openat2(root, directory, flags, Mode::empty(), WITHIN) else {
            return;
        };
        let mut buffer = Vec::with_capacity(LISTED);
        let mut names = RawDir::new(directory, buffer.spare_capacity_mut());
        let room = self.room.min(MOST_IN_ONE);
        let told = (0..room).take_while(|_| names.next().is_some_and(|name| name.is_ok())).count();
        self.room -= told;
    }
}

/// The next record, if there is one.
fn next(input: &mut impl Read) -> io::Result<Option<PageRecord>> {
    let mut record = PageRecord::new_zeroed();
    match input.read_exact(record.as_mut_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    if record.path_len as usize > PATH_MAX || record.len > PIECE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record of pages is too long"));
    }
    Ok(Some(record))
}

fn store(device: impl AsFd, record: &PageRecord, bytes: &[u8]) -> io::Result<()> {
    let body = NotifyStore { nodeid: record.number, offset: record.offset, size: record.len, padding: 0 };
    let len = size_of::<OutHeader>() + size_of::<NotifyStore>() + bytes.len();
    let len = u32::try_from(len).map_err(io::Error::other)?;
    let header = OutHeader { len, error: NOTIFY_STORE, unique: 0 };
    let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body.as_bytes()), IoSlice::new(bytes)];
    match rustix::io::writev(device, &parts) {
        // The kernel has let go of the inode, or has another under that name: it asks when it needs something.
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_listed_once_and_no_more_of_them_than_there_is_room_for() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["a", "b/c"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
            for file in 0..10 {
                std::fs::write(root.path().join(format!("{directory}/{file}")), b"").unwrap();
            }
        }
        std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
        let crowded = root.path().join("a");
        let root = std::fs::File::open(root.path()).unwrap();
        let mut directories = Directories { listed: HashSet::new(), room: 40 };
        // Each has an entry for itself and one for what it is in.
        for (path, room) in [
            ("a/1", 28),
            ("a/2", 28),
            ("none/1", 28),
            ("../x", 28),
            ("link/1", 28),
            ("a/1/x", 28),
            ("top", 23),
            ("b/c/9", 11),
        ] {
            directories.list_that_of(path.as_bytes(), &root);
            assert_eq!(directories.room, room, "{path}");
        }
        let mut directories = Directories { listed: HashSet::new(), room: 5 };
        directories.list_that_of(b"b/c/1", &root);
        assert_eq!(directories.room, 0);
        for file in 10..=MOST_IN_ONE {
            std::fs::File::create(crowded.join(format!("{file}"))).unwrap();
        }
        let mut directories = Directories { listed: HashSet::new(), room: 5 * MOST_IN_ONE };
        directories.list_that_of(b"a/1", &root);
        assert_eq!(directories.room, 4 * MOST_IN_ONE);
    }

    #[test]
    fn records_that_are_none_are_refused_before_anything_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let device = std::fs::File::open("/dev/null").unwrap();
        let store = |input: &[u8]| store_pages(directory.path(), input, &device);
        assert!(store(b"").is_ok() && store(b"cut").is_ok());
        let long = |path_len, len| PageRecord { path_len, len, number: 1, offset: 0 };
        for record in [long(PATH_MAX as u32 + 1, 1), long(1, PIECE + 1)] {
            assert_eq!(store(record.as_bytes()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let cut = [long(3, 9).as_bytes(), b"abc123"].concat();
        assert_eq!(store(&cut).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // A device that cannot be written to is none of its business while there is no such file.
        let none = [long(3, 3).as_bytes(), b"abc123"].concat();
        assert!(store(&none).is_ok());
        std::fs::write(directory.path().join("abc"), b"").unwrap();
        assert!(store(&none).is_err());
    }
}
