//! The local store: decoded layers on disk, shared by every image that has them.
//!
//! ```text
//! <root>/layers/<diffID hex>/<cut>/data             the tar, sparse, at its own offsets, without:
//!                                 /large/<offset>   a large file, from its first byte; where it is in the tar
//!                                 /units            which units of it are there, and what they must hash to
//!                                 /used             when which part of it was last used
//!                                 /complete         all of it is there, and is the layer
//!                                 /handed-out       the kernel may read large files by itself
//!                                 /rest             what no span of it covers, where spans do not cover it
//! <root>/verdicts                                   what was found of whole layers and trees
//! ```
//!
//! `cut` names the layout and a hash of the layer's spans, their digests and what is large. An index only claims its
//! diffIDs: whoever may push to some repository can claim the diffID of another's layer and give it spans of his
//! own. Images share what they have verified against the same digests, and nothing else. Conversion is
//! deterministic, so those that share a layer do share it.
//!
//! Only verified bytes get in, and what is read is compared with the checksum that was noted then. So neither a
//! killed daemon, a power cut nor a failing disk makes something else look like content, and nothing waits for a
//! disk to sync.

mod bitmap;
pub mod check;
mod complete;
mod cut;
mod direct;
mod disk;
mod eviction;
mod files;
mod large;
mod layer_file;
mod maintenance;
mod on_disk;
mod quarantine;
mod record;
mod regions;
mod rest;
mod scratch;
mod scrub;
mod scrubber;
mod shared;
mod soon;
mod usage;
mod verdicts;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use jaunt_formats::DiffId;
use jaunt_formats::launch::LaunchLayer;
use tokio::sync::watch;

pub use complete::CompleteLayer;
pub(crate) use large::LARGE;
pub use large::LargeFiles;
#[cfg(test)]
pub(crate) use large::tests::large as large_files;
pub use layer_file::LayerFile;
pub use maintenance::{Cap, StoreUsage};
pub(crate) use quarantine::is_refused;
pub(crate) use rest::{Rest, gaps};
pub use scrubber::{Scrub, ScrubSettings};
pub use shared::StoreCounters;

use self::cut::{Cut, CutName, LAYOUT};
use self::shared::{Moment, Shared};
use self::verdicts::Verdicts;
use crate::sync;

/// What the name of a layer begins with that is being deleted.
const GONE: &str = "gone-";

/// All layers of a node.
pub struct Store {
    root: PathBuf,
    open: Mutex<HashMap<LayerKey, Weak<LayerFile>>>,
    shared: Arc<Shared>,
    cap: Cap,
    usage: Mutex<StoreUsage>,
}

/// What one set of files is for: a diffID, and the digests that its bytes were verified against.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LayerKey {
    diff_id: DiffId,
    cut: CutName,
}

impl LayerKey {
    /// What a verdict on the layer is noted under.
    fn verdict(&self) -> String {
        format!("layer-{}-{}", self.diff_id.0.hex(), self.cut)
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("store {}: cannot {what}", path.display())]
pub struct StoreError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Store {
    /// Opens the store in `root`, a directory that is made if need be.
    ///
    /// # Errors
    /// The directory cannot be made or written to.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let fail = |what| move |source| StoreError { path: root.to_owned(), what, source };
        std::fs::create_dir_all(root).map_err(fail("create the directory"))?;
        match probe(&root.join(".probe")) {
            // A full disk will have room again.
            Err(error) if error.kind() != io::ErrorKind::StorageFull => {
                return Err(fail("write to it")(error));
            }
            _ => {}
        }
        drop_other_layouts(root).map_err(fail("drop what an earlier version left"))?;
        let verdicts = Verdicts::open(root).map_err(fail("read what was found of layers"))?;
        let (open, shared, usage) = (Mutex::default(), Arc::new(Shared::new(verdicts)), Mutex::default());
        let store = Self { root: root.to_owned(), open, shared, cap: Cap::default(), usage };
        store.shared.set_now(Moment::of(SystemTime::now()));
        store.measure()?;
        Ok(store)
    }

    /// The same, holding no more than `cap`.
    #[must_use]
    pub fn with_cap(self, cap: Cap) -> Self {
        Self { cap, ..self }
    }

    /// The layer's file; the same one for all who hold it at a time. Where the disk cannot hold it, it stays empty.
    pub fn layer(&self, layer: &LaunchLayer, large: &LargeFiles) -> Arc<LayerFile> {
        let cut = Cut::of(layer, large);
        let key = LayerKey { diff_id: layer.diff_id, cut: cut.name() };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&key).and_then(Weak::upgrade) {
            return file;
        }
        let (files, shared) = (self.files(&key), self.shared.clone());
        let file = Arc::new(LayerFile::open(files, &key, cut, large.clone(), shared));
        open.insert(key, Arc::downgrade(&file));
        open.retain(|_, file| file.strong_count() > 0);
        file
    }

    /// Bytes of a layer that are present. A layer that was never needed costs nothing, not even a directory.
    pub fn present_bytes(&self, layer: &LaunchLayer, large: &LargeFiles) -> u64 {
        let key = LayerKey { diff_id: layer.diff_id, cut: CutName::of(layer, large) };
        if !self.files(&key).exists() {
            return 0;
        }
        self.layer(layer, large).present_bytes()
    }

    /// Deletes the layers that are not `wanted`. One that somebody still holds stays until a later call; how many those are.
    ///
    /// # Errors
    /// A directory cannot be read or deleted.
    pub fn retain(&self, wanted: impl Fn(DiffId) -> bool) -> Result<usize, StoreError> {
        let mut held = 0;
        let fail = |source| StoreError { path: self.root.clone(), what: "list the layers", source };
        for entry in std::fs::read_dir(&self.root).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if is_gone(&entry) {
                remove_gone(&entry.path());
            }
            let diff_id = diff_id_of(&entry.file_name());
            if let Some(diff_id) = diff_id.filter(|&diff_id| !wanted(diff_id)) {
                held += usize::from(!self.remove(diff_id)?);
            }
        }
        Ok(held)
    }

    /// Deletes a layer that nobody holds; `false` if somebody does.
    fn remove(&self, diff_id: DiffId) -> Result<bool, StoreError> {
        let path = self.directory(diff_id);
        let gone = self.root.join(format!("{GONE}{}", diff_id.0.hex()));
        // One that could not be deleted before would be in the way.
        remove_gone(&gone);
        match self.delete_aside(&path, &gone, |key| key.diff_id == diff_id) {
            Ok(false) => Ok(false),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError { path, what: "delete the layer", source })
            }
            _ => {
                self.shared.note_changed();
                Ok(true)
            }
        }
    }

    /// Deletes the files of layers that nobody holds; `false` if somebody does. Under the lock, so that nobody can come to hold them
    /// meanwhile, they are put out of the way, as `gone`, and deleted after that.
    fn delete_aside(&self, path: &Path, gone: &Path, is_of: impl Fn(&LayerKey) -> bool) -> io::Result<bool> {
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.iter().any(|(key, layer)| layer.strong_count() > 0 && is_of(key)) {
                return Ok(false);
            }
            open.retain(|key, _| !is_of(key));
            std::fs::rename(path, gone)?;
        }
        std::fs::remove_dir_all(gone)?;
        Ok(true)
    }

    /// Tells whenever a layer has gone into quarantine, or a part of one was found damaged. Nothing of it is read from the store
    /// by then.
    pub fn spoilt(&self) -> watch::Receiver<u64> {
        self.shared.spoilt.subscribe()
    }

    /// Has those look who wait for that: something else was found not to be what it must be, of which nothing is read any more.
    pub(crate) fn note_spoilt(&self) {
        self.shared.spoilt.send_modify(|count| *count += 1);
    }

    /// What happened in it.
    pub fn counters(&self) -> &StoreCounters {
        &self.shared.counters
    }

    /// The directory it lives in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn files(&self, key: &LayerKey) -> PathBuf {
        self.directory(key.diff_id).join(key.cut.to_string())
    }

    fn directory(&self, diff_id: DiffId) -> PathBuf {
        self.root.join(diff_id.0.hex())
    }
}

fn probe(path: &Path) -> io::Result<()> {
    let written = std::fs::write(path, b"probe");
    let removed = std::fs::remove_file(path);
    written.and(removed)
}

/// Deletes what was kept in another layout, and what was being deleted: nobody would ever ask for it again.
fn drop_other_layouts(root: &Path) -> io::Result<()> {
    for layer in std::fs::read_dir(root)? {
        let layer = layer?;
        if is_gone(&layer) {
            remove_gone(&layer.path());
            continue;
        }
        if diff_id_of(&layer.file_name()).is_none() || !layer.file_type()?.is_dir() {
            continue;
        }
        for cut in std::fs::read_dir(layer.path())? {
            let cut = cut?;
            if !cut.file_name().as_encoded_bytes().starts_with(LAYOUT.as_bytes()) {
                std::fs::remove_dir_all(cut.path())?;
            }
        }
    }
    Ok(())
}

fn is_gone(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(GONE.as_bytes())
}

/// Deletes what was being deleted. What cannot be stands in nobody's way, and is tried again.
fn remove_gone(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a layer that is not needed any more cannot be deleted");
        }
        _ => {}
    }
}

/// The layer that a directory is for, by its name.
fn diff_id_of(name: &OsStr) -> Option<DiffId> {
    name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()).map(DiffId)
}

#[cfg(test)]
mod tests;
