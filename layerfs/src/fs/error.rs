//! Why the file system cannot answer. `fuse::errno` says which error number each becomes.

use jaunt_formats::launch::LaunchError;

use crate::layer::ReadErrors;
use crate::store::StoreError;

/// Why the file system cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// There is no such name or inode.
    #[error("no such file")]
    NotFound,
    /// No file can have such a name.
    #[error("a name of more than 255 bytes")]
    NameTooLong,
    /// The inode is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// The inode is no regular file, or no symbolic link, as the call needs it.
    #[error("wrong type of file")]
    WrongType,
    /// The index contradicts itself.
    #[error("the launch index is damaged")]
    Index(#[from] LaunchError),
    /// The local store failed.
    #[error("the local store failed")]
    Store(#[from] StoreError),
    /// A file of the local store cannot be opened.
    #[error("the local store failed")]
    Backing(#[source] std::io::Error),
    /// The bytes cannot be read.
    #[error("the content cannot be read")]
    Read(#[from] ReadErrors),
}
