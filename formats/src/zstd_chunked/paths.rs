//! Whether a layer names a path twice, for eight bytes a path.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;

use crate::{EntryLog, EntryPath};

/// Hashes of the paths of all entries. Two paths may have one hash, so a hash alone proves nothing.
#[derive(Default)]
pub(super) struct PathHashes(Vec<u64>);

impl PathHashes {
    pub fn push(&mut self, path: &EntryPath) {
        self.0.push(hash(path));
    }

    /// Whether any path of the layer is there twice. Looks at the entries again only where hashes are.
    pub fn any_twice(mut self, entries: &EntryLog) -> io::Result<bool> {
        self.0.sort_unstable();
        let twice: HashSet<u64> = self.0.array_windows().filter(|[a, b]| a == b).map(|[a, _]| *a).collect();
        if twice.is_empty() {
            return Ok(false);
        }
        let mut seen = HashSet::new();
        for entry in entries {
            let path = entry?.path;
            if twice.contains(&hash(&path)) && !seen.insert(path) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Its value is kept nowhere, so it may be another with another compiler.
fn hash(path: &EntryPath) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(path.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::in_memory;
    use crate::{Entry, EntryKind, Timestamp};

    #[test]
    fn equal_hashes_of_different_paths_are_no_duplicates() {
        let entry = |path: &str| {
            let path = EntryPath::parse(path.as_bytes()).unwrap();
            Entry {
                path,
                kind: EntryKind::Fifo,
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: Timestamp::default(),
                xattrs: vec![],
            }
        };
        let log = |paths: &[&str]| {
            EntryLog::of(&paths.iter().map(|path| entry(path)).collect::<Vec<_>>(), in_memory).unwrap()
        };
        let hashes = |paths: &[&str]| PathHashes(paths.iter().map(|path| hash(&entry(path).path)).collect());
        assert!(!hashes(&["a", "b"]).any_twice(&log(&["a", "b"])).unwrap());
        assert!(hashes(&["a", "b", "a"]).any_twice(&log(&["a", "b", "a"])).unwrap());
        // As if b had a's hash.
        assert!(!hashes(&["a", "a"]).any_twice(&log(&["a", "b"])).unwrap());
    }
}
