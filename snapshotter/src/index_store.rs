//! Launch indexes on disk: `<root>/index/<hex of the blob's digest>`, holding the raw (unpacked) bytes.
//!
//! A file has its name only once it is whole and synced, so a name is proof of readiness. The bytes
//! carry a checksum of their own, which whoever maps them verifies.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jaunt_formats::Digest;

/// The directory of indexes.
#[derive(Clone, Debug)]
pub struct IndexStore {
    directory: PathBuf,
}

/// What an unfinished file's name starts with; never a hexadecimal digit.
pub(crate) const TEMPORARY: &str = "new-";

impl IndexStore {
    /// Creates the directory, and removes what an interrupted write left.
    pub fn open(root: &Path) -> io::Result<Self> {
        let store = Self { directory: root.join("index") };
        fs::create_dir_all(&store.directory)?;
        for name in store.names()? {
            if name.starts_with(TEMPORARY) {
                fs::remove_file(store.directory.join(name))?;
            }
        }
        Ok(store)
    }

    /// Where the indexes are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where an index is, or would be.
    pub fn path(&self, index: &Digest) -> PathBuf {
        self.directory.join(index.hex())
    }

    /// Whether an index is here.
    pub fn contains(&self, index: &Digest) -> bool {
        self.path(index).exists()
    }

    /// Every index here.
    pub fn list(&self) -> io::Result<Vec<Digest>> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
    }

    /// Writes an index durably. Blocking.
    pub fn write(&self, index: &Digest, raw: &[u8]) -> io::Result<()> {
        let unique = WRITES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let temporary = self.directory.join(format!("{TEMPORARY}{unique}-{}", index.hex()));
        let written = self.write_as(&temporary, index, raw);
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Forgets an index. Who has it mapped keeps it.
    pub fn remove(&self, index: &Digest) -> io::Result<()> {
        fs::remove_file(self.path(index))
    }

    fn write_as(&self, temporary: &Path, index: &Digest, raw: &[u8]) -> io::Result<()> {
        let mut file = File::create(temporary)?;
        file.write_all(raw)?;
        file.sync_all()?;
        fs::rename(temporary, self.path(index))?;
        File::open(&self.directory)?.sync_all()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// Keeps the temporary names of concurrent writes apart.
static WRITES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_whole_and_drops_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let index = Digest::of(b"packed");
        let store = IndexStore::open(root.path()).unwrap();
        store.write(&index, b"raw").unwrap();
        fs::write(root.path().join("index/new-0-x"), b"torn").unwrap();
        let store = IndexStore::open(root.path()).unwrap();
        assert_eq!(store.list().unwrap(), [index]);
        assert_eq!(fs::read(store.path(&index)).unwrap(), b"raw");
        assert_eq!(fs::read_dir(root.path().join("index")).unwrap().count(), 1);
        store.remove(&index).unwrap();
        assert!(!store.contains(&index));
    }
}
