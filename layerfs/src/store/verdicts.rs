//! What was found of whole layers and trees, lastingly.
//!
//! ```text
//! <root>/verdicts/layer-<diffID hex>-<cut>      the layer's converted blob is not what its index says: why
//!                 index-<hex>                   the index's tree is not that of its layers' tars: why
//!                 checked-<hex>-<layers>        the tree of so many of the index's layers is that of their tars
//! ```
//!
//! A name is the verdict, its text the reason in words. What is bad stays bad: it is forgotten with the store only,
//! so that neither a restart nor a second pull believes it again.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jaunt_formats::Digest;

use super::{Store, StoreError, disk};

const DIRECTORY: &str = "verdicts";
const CHECKED: &str = "checked-";
/// Bytes of a reason that are kept, and read back.
const REASON_MAX: usize = 4096;

pub(super) struct Verdicts {
    directory: PathBuf,
    known: Mutex<BTreeMap<String, Arc<str>>>,
}

impl Verdicts {
    /// Those that are on record. The directory comes into being with the first.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let directory = root.join(DIRECTORY);
        let mut known = BTreeMap::new();
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries?),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if ["layer-", "index-", CHECKED].iter().any(|kind| name.starts_with(kind))
                && !name.ends_with(".new")
            {
                known.insert(name, reason(&entry.path()).into());
            }
        }
        Ok(Self { directory, known: Mutex::new(known) })
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<str>> {
        self.lock().get(name).cloned()
    }

    /// Holds from now on, and lastingly so unless the disk refuses.
    pub(super) fn note(&self, name: &str, why: &str) -> io::Result<()> {
        let why = &why[..why.floor_char_boundary(REASON_MAX)];
        self.lock().entry(name.to_owned()).or_insert_with(|| why.into());
        std::fs::create_dir_all(&self.directory)?;
        disk::replace(&self.directory.join(name), why.as_bytes())?;
        disk::sync_dir(&self.directory)?;
        disk::sync_dir(self.directory.parent().unwrap_or(Path::new(".")))
    }

    /// Forgets the good that was found of what is not used any more.
    fn forget_checked(&self, used: impl Fn(&str) -> bool) -> io::Result<()> {
        let hex = |name: &str| Some(name.strip_prefix(CHECKED)?.split_once('-')?.0.to_owned());
        let mut known = self.lock();
        let unused: Vec<String> =
            known.keys().filter(|name| hex(name).is_some_and(|hex| !used(&hex))).cloned().collect();
        for name in unused {
            disk::remove(&self.directory.join(&name))?;
            known.remove(&name);
        }
        // Fails, as it should, where there are others.
        let _ = std::fs::remove_dir(&self.directory);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the store keeps its verdicts under that name.
pub(super) fn is_directory(name: &std::ffi::OsStr) -> bool {
    name == DIRECTORY
}

/// What is not readable is a verdict all the same.
fn reason(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path);
    let read = read.and_then(|file| file.take(REASON_MAX as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("the reason cannot be read: {error}"),
    }
}

impl Store {
    /// Believes nothing that an index says any more: its tree is not that of its layers' tars.
    ///
    /// # Errors
    /// The disk does not make it last; it holds in this process all the same.
    pub fn quarantine_index(&self, index: &Digest, why: &str) -> Result<(), StoreError> {
        self.noted(&format!("index-{}", index.hex()), why)
    }

    /// Why an index is not believed, if it is not.
    pub fn quarantined_index(&self, index: &Digest) -> Option<Arc<str>> {
        self.shared.verdicts.find(&format!("index-{}", index.hex()))
    }

    /// Notes that the tree of the first `layers` layers of an index is that of their tars.
    ///
    /// # Errors
    /// The disk does not make it last; then it is found out anew.
    pub fn note_checked(&self, index: &Digest, layers: u16) -> Result<(), StoreError> {
        self.noted(&format!("{CHECKED}{}-{layers}", index.hex()), "")
    }

    /// Whether that is known of the first `layers` layers of an index.
    pub fn is_checked(&self, index: &Digest, layers: u16) -> bool {
        self.shared.verdicts.find(&format!("{CHECKED}{}-{layers}", index.hex())).is_some()
    }

    /// Forgets which trees of indexes that are not `used` any more were found to be right.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_checked(&self, used: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        let used = |hex: &str| format!("sha256:{hex}").parse().is_ok_and(|index| used(&index));
        let fail =
            |source| StoreError { path: self.root.join(DIRECTORY), what: "forget what was found", source };
        self.shared.verdicts.forget_checked(used).map_err(fail)
    }

    /// All that is in quarantine, by name, and why.
    pub fn quarantined(&self) -> Vec<(String, Arc<str>)> {
        let known = self.shared.verdicts.lock();
        let bad = known.iter().filter(|(name, _)| !name.starts_with(CHECKED));
        bad.map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    fn noted(&self, name: &str, why: &str) -> Result<(), StoreError> {
        let fail =
            |source| StoreError { path: self.root.join(DIRECTORY), what: "note what was found", source };
        self.shared.verdicts.note(name, why).map_err(fail)
    }
}
