//! The local store: decoded layers on disk, shared by every image that has them.
//!
//! ```text
//! <root>/layers/<diffID hex>/<cut>/data       the tar, sparse, at its own offsets
//!                                 /present    which 512-byte blocks are there: as of the last sync
//!                                 /live       the same, up to date, but to be believed only within one boot
//! ```
//!
//! `cut` is a hash of the layer's spans and their digests. An index only claims its diffIDs: whoever may push to
//! some repository can claim the diffID of another's layer and give it spans of his own. Images share what they
//! have verified against the same digests, and nothing else. Conversion is deterministic, so those that share a
//! layer do share it.
//!
//! A block's bit is trusted only where its bytes must be on the disk as well: `present` is written after the data
//! was synced, `live` counts only while the kernel that holds the page cache still runs. So neither a killed
//! daemon nor a power cut makes a hole in a sparse file look like content. Only verified bytes get in.

mod bitmap;
mod layer_file;
mod presence;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::{DiffId, DigestScope};

pub use layer_file::LayerFile;

/// All layers of a node.
pub struct Store {
    root: PathBuf,
    open: Mutex<HashMap<LayerKey, Weak<LayerFile>>>,
}

/// What one set of files is for: a diffID, and the digests that its bytes were verified against.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LayerKey {
    diff_id: DiffId,
    cut: [u8; 16],
}

impl LayerKey {
    fn of(layer: &LaunchLayer) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&layer.tar_len.to_le_bytes());
        hasher.update(&[u8::from(layer.scope == DigestScope::Compressed)]);
        for span in &layer.spans {
            hasher.update(&span.tar_offset.0.to_le_bytes());
            hasher.update(&span.tar_len.to_le_bytes());
            hasher.update(&span.digest.0);
        }
        let mut cut = [0; 16];
        hasher.finalize_xof().fill(&mut cut);
        Self { diff_id: layer.diff_id, cut }
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
        let probe = root.join(".probe");
        std::fs::write(&probe, b"")
            .and_then(|()| std::fs::remove_file(&probe))
            .map_err(fail("write to it"))?;
        Ok(Self { root: root.to_owned(), open: Mutex::default() })
    }

    /// The layer's file; the same one for all who hold it at a time. Where the disk cannot hold it, it stays empty.
    pub fn layer(&self, layer: &LaunchLayer) -> Arc<LayerFile> {
        let key = LayerKey::of(layer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&key).and_then(Weak::upgrade) {
            return file;
        }
        let file = Arc::new(LayerFile::open(self.files(&key), layer.tar_len));
        open.insert(key, Arc::downgrade(&file));
        open.retain(|_, file| file.strong_count() > 0);
        file
    }

    /// Writes down what is present, data first, for every open layer with news. Called now and then, and at the end.
    pub fn persist(&self) {
        let layers: Vec<Arc<LayerFile>> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.values().filter_map(Weak::upgrade).collect()
        };
        for layer in layers {
            if let Err(error) = layer.persist() {
                tracing::warn!(%error, cause = %error.source, "what is present could not be written down");
            }
        }
    }

    /// Bytes of a layer that are present. A layer that was never needed costs nothing, not even a directory.
    pub fn present_bytes(&self, layer: &LaunchLayer) -> u64 {
        if !self.files(&LayerKey::of(layer)).exists() {
            return 0;
        }
        self.layer(layer).present_bytes()
    }

    /// Deletes the layers that are not `wanted`. One that somebody still holds stays until a later call.
    ///
    /// # Errors
    /// A directory cannot be read or deleted.
    pub fn retain(&self, wanted: impl Fn(DiffId) -> bool) -> Result<(), StoreError> {
        let fail = |source| StoreError { path: self.root.clone(), what: "list the layers", source };
        for entry in std::fs::read_dir(&self.root).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let diff_id = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()).map(DiffId);
            if let Some(diff_id) = diff_id.filter(|&diff_id| !wanted(diff_id)) {
                self.remove(diff_id)?;
            }
        }
        Ok(())
    }

    /// Deletes a layer that nobody holds; it is under the lock, so that nobody can come to hold it meanwhile.
    fn remove(&self, diff_id: DiffId) -> Result<(), StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.iter().any(|(key, layer)| key.diff_id == diff_id && layer.strong_count() > 0) {
            return Ok(());
        }
        open.retain(|key, _| key.diff_id != diff_id);
        let path = self.directory(diff_id);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError { path, what: "delete the layer", source })
            }
            _ => Ok(()),
        }
    }

    /// The directory it lives in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn files(&self, key: &LayerKey) -> PathBuf {
        let cut: String = key.cut.iter().map(|byte| format!("{byte:02x}")).collect();
        self.directory(key.diff_id).join(cut)
    }

    fn directory(&self, diff_id: DiffId) -> PathBuf {
        self.root.join(diff_id.0.hex())
    }
}
