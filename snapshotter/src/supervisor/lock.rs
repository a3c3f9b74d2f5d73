//! One daemon a directory: an exclusive `flock` on `<directory>/lock`.
//!
//! The lock belongs to the open file, which a worker shares with its supervisor: it is free only when
//! both are gone. The file names the process that took it, for the message to the next one; it is never
//! removed, because removing it would let two daemons lock two files of one name.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A worker is killed with its supervisor, but not at the same instant: so long its lock is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A locked directory.
#[derive(Debug)]
pub(crate) struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks `directory`, which is made if need be. Its mode lets everybody pass and nobody list: with
    /// user namespaces, mounts below it are reached by other users.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, LockError> {
        create_directory(directory)?;
        let path = directory.join("lock");
        let unusable = |source| LockError::Unusable { directory: directory.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        lock(&mut file, directory)?;
        file.set_len(0).and_then(|()| file.rewind()).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self(file))
    }
}

impl DirectoryLock {
    /// Whether somebody holds it now. Changes nothing.
    pub(crate) fn is_held(directory: &Path) -> bool {
        let file = File::open(directory.join("lock"));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

impl AsFd for DirectoryLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a directory and those above it; one that exists keeps its mode.
pub(super) fn create_directory(directory: &Path) -> Result<(), LockError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .map_err(|source| LockError::Unusable { directory: directory.to_owned(), source })
}

fn lock(file: &mut File, directory: &Path) -> Result<(), LockError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) => {
                return Err(LockError::Unusable { directory: directory.to_owned(), source });
            }
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { directory: directory.to_owned(), pid: holder(file) });
            }
        }
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => pid.to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// A directory that cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("another daemon (pid {pid}) uses the directory {}", directory.display())]
    Held {
        /// The directory.
        directory: PathBuf,
        /// The daemon, if it has said.
        pid: String,
    },
    /// It is missing and cannot be made, or cannot be written to.
    #[error("cannot use the directory {}: {source}", directory.display())]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_about_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/root");
        let first = DirectoryLock::acquire(&root).unwrap();
        let message = DirectoryLock::acquire(&root).unwrap_err().to_string();
        assert!(DirectoryLock::is_held(&root) && !DirectoryLock::is_held(dir.path()));
        assert!(message.contains(root.to_str().unwrap()), "{message}");
        assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
        let shared = first.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        assert!(DirectoryLock::acquire(&root).is_err(), "a worker still has it");
        drop(shared);
        DirectoryLock::acquire(&root).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for bad in [dir.path().join("file"), dir.path().join("file/root"), "/proc/nowhere".into()] {
            let message = DirectoryLock::acquire(&bad).unwrap_err().to_string();
            assert!(message.contains(bad.to_str().unwrap()), "{message}");
        }
    }
}
