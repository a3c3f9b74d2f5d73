//! What a directory tree occupies: allocated bytes and inodes, hard links counted once.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::lazy::Usage;

/// Bytes of the unit that `st_blocks` counts in, whatever the file system's block size.
const STAT_BLOCK: u64 = 512;

/// Walks `root`, which counts as well. Entries that vanish meanwhile are passed over: an active
/// snapshot may be in use.
pub fn disk_usage(root: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let Some(stat) = unless_gone(fs::symlink_metadata(&path))? else { continue };
        if stat.is_dir() {
            if let Some(entries) = unless_gone(fs::read_dir(&path))? {
                for entry in entries {
                    pending.extend(unless_gone(entry)?.map(|entry| entry.path()));
                }
            }
        } else if stat.nlink() > 1 && !linked.insert((stat.dev(), stat.ino())) {
            continue;
        }
        usage.inodes += 1;
        usage.bytes += stat.blocks() * STAT_BLOCK;
    }
    Ok(usage)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_a_hard_link_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 10_000]).unwrap();
        let before = disk_usage(dir.path()).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(disk_usage(dir.path()).unwrap(), before);
        assert_eq!(before.inodes, 2);
        assert!(before.bytes >= 10_000);
    }
}
