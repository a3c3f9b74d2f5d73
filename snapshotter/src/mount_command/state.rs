//! Where a mount keeps what it fetched: a directory of its own for as long as it lives, shared by none.

use std::path::{Path, PathBuf};

use crate::lazy::Cause;
use crate::supervisor::{DirectoryLock, LockError};

/// A locked directory; a temporary one is removed at the end.
#[derive(Debug)]
pub(super) struct StateDirectory {
    path: PathBuf,
    _lock: DirectoryLock,
    _temporary: Option<tempfile::TempDir>,
}

/// Why there is no place for content.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory that was named is in use, or of no use.
    #[error(transparent)]
    Directory(#[from] LockError),
    /// There is no temporary directory either.
    #[error("cannot make a temporary directory in {}", parent.display())]
    Temporary {
        /// Where.
        parent: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What is in it cannot be used.
    #[error("cannot {what} in {}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: Cause,
    },
}

impl StateDirectory {
    /// The directory asked for; else the user's cache, or a temporary directory while another process has that.
    pub(super) fn open(asked: Option<&Path>) -> Result<Self, StateError> {
        if let Some(path) = asked {
            return Ok(Self::lock(path.to_owned(), None)?);
        }
        let usual = usual();
        Self::lock(usual.clone(), None).or_else(|error| {
            tracing::info!(directory = %usual.display(), %error, "content goes to a temporary directory");
            Self::temporary()
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it means that something in it cannot be used.
    pub(super) fn error(&self, what: &'static str, source: impl Into<Cause>) -> StateError {
        StateError::Unusable { path: self.path.clone(), what, source: source.into() }
    }

    fn lock(path: PathBuf, temporary: Option<tempfile::TempDir>) -> Result<Self, LockError> {
        let lock = DirectoryLock::acquire(&path)?;
        Ok(Self { path, _lock: lock, _temporary: temporary })
    }

    fn temporary() -> Result<Self, StateError> {
        // /tmp is memory on many machines; an image need not fit into that.
        let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let made = tempfile::Builder::new().prefix("jaunt-mount-").tempdir_in(&parent);
        let directory = made.map_err(|source| StateError::Temporary { parent, source })?;
        Ok(Self::lock(directory.path().to_owned(), Some(directory))?)
    }
}

fn usual() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    cache.map_or_else(|| PathBuf::from("/var/cache"), PathBuf::from).join("jaunt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_directory_is_used_alone_and_a_temporary_one_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("cache");
        let first = StateDirectory::open(Some(&path)).unwrap();
        assert_eq!(first.path(), path);
        let refused = StateDirectory::open(Some(&path)).unwrap_err().to_string();
        assert!(refused.contains(path.to_str().unwrap()) && refused.contains("another daemon"), "{refused}");
        let temporary = StateDirectory::temporary().unwrap();
        let path = temporary.path().to_owned();
        assert!(path.is_dir());
        drop(temporary);
        assert!(!path.exists());
    }
}
