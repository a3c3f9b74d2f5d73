//! What makes a start cold: nothing of the image on the node, and nothing of anything in memory.

use std::fs;
use std::path::Path;

use crate::error::{At as _, Result};

/// Writes out what is dirty, then drops the page cache, dentries and inodes of the whole machine.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    let control = Path::new("/proc/sys/vm/drop_caches");
    fs::write(control, "3").at(control)
}
