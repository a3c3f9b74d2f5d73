//! Answering a read, from wherever its bytes came.

use fuser::ReplyData;
use tokio::runtime::Handle;

use super::told::{logged, well};
use crate::fs::{FsError, Ino, LayerFs};

/// Answers a read, and has fetched what its reader is about to touch.
pub(super) fn answer(
    fs: &LayerFs,
    runtime: &Handle,
    (ino, offset): (Ino, u64),
    read: Result<Vec<u8>, FsError>,
    reply: ReplyData,
) {
    match read {
        Ok(bytes) => {
            if let Some(loading) = fs.loading(ino, offset, &bytes) {
                runtime.spawn(loading);
            }
            reply.data(&bytes);
            well(fs, ino);
        }
        Err(error) => reply.error(logged(fs, ino, "read", &error)),
    }
}
