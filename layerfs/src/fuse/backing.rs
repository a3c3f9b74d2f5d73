//! Which of a connection's open files the kernel reads by itself, and by what.
//!
//! A file is handed to the kernel under a number (a *backing id*) that belongs to the connection: it outlives the
//! process that registered it. While an inode is open with one, the kernel refuses every other way to open it, another
//! number for the same file included; while it is open without one, it refuses numbers. So what was decided for an
//! inode holds for as long as the mount lives, whichever process serves it, and is written down before the
//! kernel hears of it:
//!
//! ```text
//! inode number u64 | backing id u32, 0 for none | the same u32, inverted        (little-endian, appended)
//! ```
//!
//! A process that dies between the two leaves a number that nobody uses, until the mount ends.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fs::Ino;

/// The decisions of one connection.
#[derive(Debug, Default)]
pub struct BackingIds(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    ids: HashMap<u64, u32>,
    record: Option<File>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Decision {
    inode: U64,
    id: U32,
    inverted: U32,
}

impl BackingIds {
    /// Those of a new connection, recorded in a new file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::with(File::create(path)?, HashMap::new())
    }

    /// Those that an earlier process has recorded. Whatever follows a record that is none was never acted upon.
    ///
    /// # Errors
    /// The file cannot be read: what was decided is not known, and nothing may be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut ids = HashMap::new();
        let mut rest = &bytes[..];
        while let Ok((decision, after)) = Decision::ref_from_prefix(rest) {
            if decision.inverted.get() != !decision.id.get() {
                break;
            }
            ids.insert(decision.inode.get(), decision.id.get());
            rest = after;
        }
        let whole = bytes.len() - rest.len();
        file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
        Self::with(file, ids)
    }

    fn with(record: File, ids: HashMap<u64, u32>) -> io::Result<Self> {
        Ok(Self(Mutex::new(Known { ids, record: Some(record) })))
    }

    /// The inode's number, or `None` for none, decided by `register` if it was not before.
    ///
    /// # Errors
    /// The decision cannot be recorded.
    pub(super) fn of(&self, inode: Ino, register: impl FnOnce() -> Option<u32>) -> io::Result<Option<u32>> {
        // One at a time: two decisions on one inode must not cross.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known.ids.get(&inode.0) {
            return Ok(Some(*id).filter(|id| *id != 0));
        }
        let id = register().unwrap_or(0);
        let decision = Decision { inode: inode.0.into(), id: id.into(), inverted: (!id).into() };
        if let Some(record) = &mut known.record {
            record.write_all(decision.as_bytes())?;
        }
        known.ids.insert(inode.0, id);
        Ok(Some(id).filter(|id| *id != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(ids: &BackingIds, inode: u64) -> Option<u32> {
        ids.of(Ino(inode), || panic!("inode {inode} was decided before")).unwrap()
    }

    #[test]
    fn what_was_decided_holds_for_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ids");
        let ids = BackingIds::create(&path).unwrap();
        assert_eq!(ids.of(Ino(20), || Some(7)).unwrap(), Some(7));
        assert_eq!(ids.of(Ino(21), || None).unwrap(), None);
        assert_eq!((decided(&ids, 20), decided(&ids, 21)), (Some(7), None));
        drop(ids);
        // Killed in the middle of a word.
        File::options().append(true).open(&path).unwrap().write_all(&[22, 0, 0]).unwrap();
        let ids = BackingIds::open(&path).unwrap();
        assert_eq!((decided(&ids, 20), decided(&ids, 21)), (Some(7), None));
        assert_eq!(ids.of(Ino(22), || Some(8)).unwrap(), Some(8));
        drop(ids);
        assert_eq!(decided(&BackingIds::open(&path).unwrap(), 22), Some(8));
        assert!(BackingIds::open(&directory.path().join("missing")).is_err());
    }
}
