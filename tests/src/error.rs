//! What can go wrong while driving other programs: always with the command or path it happened to.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// The harness's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the harness, or of something it drives.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or socket could not be used.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {command}: {source}")]
    Spawn {
        /// The command line.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("{command}: {status}\n{stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// Something awaited did not happen.
    #[error("{what}: not within {} s{detail}", waited.as_secs())]
    Timeout {
        /// What was awaited.
        what: String,
        /// For how long.
        waited: Duration,
        /// The tail of a log, or nothing.
        detail: String,
    },
    /// An answer that makes no sense.
    #[error("{what}: {detail}")]
    Unexpected {
        /// Who answered, or what was read.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl Error {
    /// An [`Error::Unexpected`].
    pub fn unexpected(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into(), detail: detail.into() }
    }
}

/// Names the path an I/O error happened to.
pub trait At<T> {
    /// Turns the error into [`Error::Io`] with `path`.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.as_ref().to_owned(), source: source.into() })
    }
}
