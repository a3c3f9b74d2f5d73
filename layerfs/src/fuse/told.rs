//! What the log is told of files that cannot be served: who reads them only sees an error number.

use std::time::Instant;

use fuser::Errno;
use jaunt_formats::error_chain;

use super::errno::errno;
use crate::fs::{FsError, Ino, LayerFs};
use crate::trouble_log::Say;

/// Tells of a failure, with image, path and all causes, unless it was told before; returns what the caller sees.
pub(super) fn logged(fs: &LayerFs, ino: Ino, call: &'static str, error: &FsError) -> Errno {
    let errno = errno(error);
    if !matches!(error, FsError::Index(_) | FsError::Store(_) | FsError::Backing(_) | FsError::Read(_)) {
        return errno;
    }
    let image = fs.name();
    match fs.troubles().failed(ino, Instant::now()) {
        Some(Say::GoesOn { failing, failures }) => {
            let cause = error_chain(error);
            tracing::error!(image, failing, failures, cause, "files still cannot be served");
        }
        Some(_) => {
            let (path, cause) = (path(fs, ino), error_chain(error));
            tracing::error!(image, path, call, cause, "a file cannot be served");
        }
        None => tracing::debug!(image, inode = ino.0, call, %error, "a file still cannot be served"),
    }
    errno
}

/// Tells that a file which could not be read can be again.
pub(super) fn well(fs: &LayerFs, ino: Ino) {
    let image = fs.name();
    match fs.troubles().succeeded(&ino, Instant::now()) {
        Some(Say::Recovered { failures, after }) => {
            let (path, seconds) = (path(fs, ino), after.as_secs());
            tracing::info!(image, path, failures, seconds, "a file can be served again");
        }
        Some(Say::AllRecovered { failures }) => {
            tracing::info!(image, failures, "all files can be served again");
        }
        _ => {}
    }
}

fn path(fs: &LayerFs, ino: Ino) -> String {
    fs.path_of(ino).unwrap_or_else(|| format!("inode {}", ino.0))
}
