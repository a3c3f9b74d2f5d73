//! Why an OCI layout could not be read or written.

use std::io;
use std::path::PathBuf;

use jaunt_formats::Digest;

/// Each names the file, or the layout's directory.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("layout {}: it has no {what}", directory.display())]
    NotFound { directory: PathBuf, what: String },
    #[error("layout {}: no tag is chosen, and it has {images}", directory.display())]
    Ambiguous { directory: PathBuf, images: String },
    #[error("{}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: digest is {actual}, expected {expected}", path.display())]
    DigestMismatch { path: PathBuf, expected: Digest, actual: Digest },
    #[error("{}: {actual} bytes, expected {expected}", path.display())]
    WrongLength { path: PathBuf, expected: u64, actual: u64 },
    #[error("{}: longer than the limit of {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{}: bytes {start}..{end} lie outside the blob", path.display())]
    Outside { path: PathBuf, start: u64, end: u64 },
    #[error("layout {}: the upload is over", directory.display())]
    UploadOver { directory: PathBuf },
    #[error("a thread that works on files failed: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

impl LayoutError {
    pub fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), reason: reason.into() }
    }
}

/// For `map_err`: names what was done to which file.
pub fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.into();
    move |source| LayoutError::Io { doing, path, source }
}
