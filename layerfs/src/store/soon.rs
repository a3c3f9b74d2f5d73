//! Reads whose bytes are needed a moment later: the disk is told of them first, and works on all of them at once.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};

/// Has the disk begin to read a part of a file, unless it is in the page cache. Whatever comes of it, the read itself will tell.
pub(super) fn begin(file: &File, offset: u64, len: u64) {
    if let Some(len) = NonZeroU64::new(len) {
        let _ = fadvise(file, offset, Some(len), Advice::WillNeed);
    }
}
