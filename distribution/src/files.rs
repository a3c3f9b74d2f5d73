//! Files of settings: where a home directory is, and reading what is a regular file of a size that settings may have.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::limits;

/// The home directory: `$HOME`, or that of the user we run as where there is none. systemd gives system services none.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// The whole of a file.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    // Asked of the name first: opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    let mut text = Vec::new();
    let limit = limits::SETTINGS_FILE_BYTES;
    let read = File::open(path)?.take(limit + 1).read_to_end(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > limit) {
        return Err(io::Error::other(format!("is longer than {limit} bytes")));
    }
    Ok(text)
}

/// Whether an error means that there is no such file.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename)
}
