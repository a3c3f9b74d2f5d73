//! The one table from errors of the file system to error numbers.

use fuser::Errno;

use crate::fs::FsError;

/// What the reader's system call returns. Whatever cannot be read is EIO: never wrong bytes, never a hang.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::WrongType => Errno::EINVAL,
        FsError::Index(_) | FsError::Store(_) | FsError::Backing(_) | FsError::Read(_) => Errno::EIO,
    }
}
