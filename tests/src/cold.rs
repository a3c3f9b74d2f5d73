//! What makes a start cold: nothing of the image on the node, and nothing of anything in memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{At as _, Result};
use crate::process::run;

/// Writes out what is dirty, then drops the page cache, dentries and inodes of the whole machine.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    let control = Path::new("/proc/sys/vm/drop_caches");
    fs::write(control, "3").at(control)
}

/// Reads a file, or all files below a directory, into the page cache: what is in memory however cold a start is.
pub fn warm(path: &Path) -> Result<()> {
    run(Command::new("sh").args(["-ec", "find \"$0\" -type f -exec cat {} + > /dev/null"]).arg(path))?;
    Ok(())
}
