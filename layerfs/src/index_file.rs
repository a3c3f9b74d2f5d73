//! A launch index on disk, memory-mapped: a mounted image costs the pages that lookups touch.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};

use jaunt_formats::launch::{LaunchError, LaunchIndex};
use memmap2::Mmap;

/// An index over a mapped file.
pub type MappedIndex = LaunchIndex<Mmap>;

/// Why an index file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum IndexFileError {
    /// The file cannot be read.
    #[error("cannot read launch index {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its bytes are not a launch index.
    #[error("launch index {}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: LaunchError,
    },
}

/// Maps and opens an index file, and compares its checksum.
///
/// # Errors
/// The file cannot be read, is no launch index, or is damaged.
pub fn open_index(path: &Path) -> Result<MappedIndex, IndexFileError> {
    let io = |source| IndexFileError::Io { path: path.to_owned(), source };
    let format = |source| IndexFileError::Format { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: index files are written under another name, renamed into place, never changed after that, and
    // lie in a directory that only this daemon writes to. Were one truncated all the same, the process would
    // get SIGBUS; the supervisor then starts the next worker.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    let index = LaunchIndex::open(map).map_err(format)?;
    index.verify_checksum().map_err(format)?;
    Ok(index)
}
