//! The local store: decoded layers on disk, shared by every image that has them.
//!
//! ```text
//! <root>/layers/<diffID hex>/data       the tar, sparse, at its own offsets
//!                           /present    which 512-byte blocks are there: as of the last sync
//!                           /live       the same, up to date, but to be believed only within one boot
//! ```
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

use jaunt_formats::DiffId;

pub use layer_file::LayerFile;

/// All layers of a node.
pub struct Store {
    root: PathBuf,
    open: Mutex<HashMap<DiffId, Weak<LayerFile>>>,
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

    /// The layer's file; the same one for all who hold it at a time.
    ///
    /// # Errors
    /// Its directory or files cannot be made or read.
    pub fn layer(&self, diff_id: DiffId, tar_len: u64) -> Result<Arc<LayerFile>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = open.get(&diff_id).and_then(Weak::upgrade) {
            return Ok(layer);
        }
        let layer = Arc::new(LayerFile::open(&self.directory(diff_id), tar_len)?);
        open.insert(diff_id, Arc::downgrade(&layer));
        open.retain(|_, layer| layer.strong_count() > 0);
        Ok(layer)
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
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn present_bytes(&self, diff_id: DiffId, tar_len: u64) -> Result<u64, StoreError> {
        if !self.directory(diff_id).exists() {
            return Ok(0);
        }
        Ok(self.layer(diff_id, tar_len)?.present_bytes())
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
        if open.get(&diff_id).is_some_and(|layer| layer.strong_count() > 0) {
            return Ok(());
        }
        open.remove(&diff_id);
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

    fn directory(&self, diff_id: DiffId) -> PathBuf {
        self.root.join(diff_id.0.hex())
    }
}
