//! What the store occupies: allocated blocks, not lengths, for its files are sparse.

use std::ffi::OsString;
use std::fs::DirEntry;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::diff_id_of;

/// Bytes of the unit that `st_blocks` counts in, whatever the file system's block size.
const STAT_BLOCK: u64 = 512;

/// One layer, in one cut.
pub(super) struct Kept {
    pub path: PathBuf,
    pub diff_id: OsString,
    pub cut: OsString,
    pub bytes: u64,
}

/// Every layer below the root. What goes away meanwhile is passed over.
pub(super) fn measure(root: &Path) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for layer in entries(root)?.into_iter().filter(|entry| diff_id_of(&entry.file_name()).is_some()) {
        for cut in entries(&layer.path())? {
            let (path, bytes) = (cut.path(), allocated(&cut)?);
            all.push(Kept { path, diff_id: layer.file_name(), cut: cut.file_name(), bytes });
        }
    }
    Ok(all)
}

fn allocated(entry: &DirEntry) -> io::Result<u64> {
    let own = match entry.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        stat => stat?.blocks() * STAT_BLOCK,
    };
    entries(&entry.path())?.iter().try_fold(own, |sum, below| Ok(sum + allocated(below)?))
}

/// Nothing, where there is no such directory.
fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        read => read?.collect(),
    }
}
