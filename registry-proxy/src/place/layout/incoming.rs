//! A file on its way into a layout, under a name of its own until it is complete and on disk.
//!
//! Its writer holds a lock on it, which ends with the process: what can be locked, a killed writer left.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use jaunt_formats::Digest;
use sha2::{Digest as _, Sha256};

use super::error::{LayoutError, io};

const PREFIX: &str = ".jaunt-upload-";

/// Hashed as it is written, removed if it is dropped before it has its name.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    file: File,
    digest: Sha256,
    len: u64,
    done: bool,
}

impl Incoming {
    pub fn create(directory: &Path) -> Result<Self, LayoutError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        sweep(directory);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{PREFIX}{}-{number}", std::process::id()));
            let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                file => file.map_err(io("create", &path))?,
            };
            match file.try_lock() {
                Ok(()) => {}
                // Another process takes it for a killed writer's, and is about to remove it.
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(io("lock", path)(error)),
            }
            // Another process may have removed it before it was locked.
            if file.metadata().map_err(io("create", &path))?.nlink() > 0 {
                return Ok(Self { path, file, digest: Sha256::new(), len: 0, done: false });
            }
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(io("write", &self.path))
    }

    /// What has been written.
    pub fn content(&self) -> (Digest, u64) {
        (Digest::from_bytes(self.digest.clone().finalize().into()), self.len)
    }

    /// Gives the file its name, once it is on disk.
    pub fn rename(mut self, path: &Path) -> Result<(), LayoutError> {
        self.file.sync_all().map_err(io("write", &self.path))?;
        fs::rename(&self.path, path).map_err(io("create", path))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove an unfinished upload");
        }
    }
}

/// Removes uploads that nobody holds a lock on. What cannot be removed does no harm.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Some(file) = is_file.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        // Held until it is removed: a writer that has made it and not locked it yet would believe it its own.
        if file.try_lock().is_ok() && fs::remove_file(entry.path()).is_ok() {
            tracing::debug!(path = %entry.path().display(), "removed what a killed writer left");
        }
    }
}
