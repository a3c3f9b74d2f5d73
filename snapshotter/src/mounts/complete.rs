//! Mounts of complete chains that the kernel reads by itself ([`jaunt_layerfs::erofs`]).
//!
//! A chain gets one when it is first needed after it has become complete and its tree was compared; a FUSE mount that it had before stays for the
//! containers that use it, until the chain is removed. Its image is kept in `<root>/erofs`, under the index's digest
//! and the number of its layers. Where the kernel cannot, or the chain does not fit, FUSE serves as before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jaunt_formats::Digest;
use jaunt_layerfs::erofs::{self, AttachError, ErofsError, ImageError};
use jaunt_layerfs::fs::{CompleteChain, LayerFs, ROOT_NAME};
use tokio::sync::OnceCell;

use super::{Mounts, Served, Server, lock};
use crate::fallback::error_chain;
use crate::lazy::{Cause, LazyChain};
use crate::supervisor::{HeldMount, MountKey, Unmounted};

/// The name of a chain's complete mount. It says what is mounted, for the mount may outlive the record of it: another
/// snapshot of the same number, or another version of this program, has another name for its own.
pub(super) fn key(chain: &LazyChain) -> Option<MountKey> {
    let what = format!("{}-{}-{}", chain.index, chain.prefix, erofs::IMAGE_VERSION);
    let what = Digest::of(what.as_bytes()).hex();
    format!("{}-{}-complete", chain.snapshot_id, what.get(..16)?).try_into().ok()
}

impl Mounts {
    /// A mount of the chain that nobody serves, if it is complete and can have one.
    pub(super) fn complete(&self, chain: &LazyChain, fs: &Arc<LayerFs>) -> Option<Served> {
        let id = chain.snapshot_id;
        let is_possible = self.uses_erofs.load(Ordering::Relaxed) && !lock(&self.unfit).contains(&id);
        if !is_possible || self.is_served_always(chain) {
            return None;
        }
        let held = fs.hold_checked(&self.store, &chain.index)?;
        match self.mount_complete(chain, fs, &held) {
            Ok(root) => {
                lock(&self.troubled).remove(&id);
                tracing::info!(snapshot = id, chain = %chain.chain_id, "complete: the kernel reads it by itself");
                Some(Served::new(fs.clone(), Server::Kernel(held), root, true))
            }
            Err(error) => {
                let why = error_chain(&*error);
                match error.downcast_ref() {
                    Some(ErofsError::Attach(AttachError::Unsupported(_))) => {
                        self.uses_erofs.store(false, Ordering::Relaxed);
                        tracing::info!(why, "complete chains are served by FUSE");
                    }
                    Some(ErofsError::Image(ImageError::Unfit(_))) => {
                        lock(&self.unfit).insert(id);
                        tracing::info!(snapshot = id, why, "a complete chain is served by FUSE");
                    }
                    _ if lock(&self.troubled).insert(id) => {
                        tracing::warn!(snapshot = id, why, "a complete chain is served by FUSE for now");
                    }
                    _ => tracing::debug!(snapshot = id, why, "a complete chain is still served by FUSE"),
                }
                None
            }
        }
    }

    fn mount_complete(
        &self,
        chain: &LazyChain,
        fs: &LayerFs,
        held: &CompleteChain,
    ) -> Result<PathBuf, Cause> {
        let key = key(chain).ok_or("the chain has no name for a mount")?;
        lock(&self.leftover).remove(&key);
        // One of an earlier life, or that was found damaged: whoever uses it keeps it.
        if self.supervisor.unmount(&key)? != Unmounted::Done {
            return Err("an earlier mount of it is in use".into());
        }
        let mount = erofs::mount(fs, held, &self.image(&chain.index, chain.prefix))?;
        Ok(self.supervisor.attach(&key, &mount)?.path.join(ROOT_NAME))
    }

    /// Takes up a mount that another worker has made. What is no longer complete is not given to further containers.
    pub(super) fn take_up(&self, held: &HeldMount, chain: &LazyChain, fs: Arc<LayerFs>) -> Option<Served> {
        let complete = fs.hold_checked(&self.store, &chain.index);
        let is_wanted = self.uses_erofs.load(Ordering::Relaxed) && !self.is_served_always(chain);
        let Some(complete) = complete.filter(|_| is_wanted) else {
            let outcome = self.supervisor.unmount(&held.key);
            tracing::warn!(mount = %held.key, ?outcome, "a mount is not complete any more, or not wanted: FUSE serves what comes");
            if matches!(outcome, Ok(Unmounted::Busy) | Err(_)) {
                lock(&self.leftover).insert(held.key.clone());
            }
            return None;
        };
        tracing::info!(snapshot = chain.snapshot_id, chain = %chain.chain_id, "holds a complete mount again");
        let (server, root) = (Server::Kernel(complete), held.path.join(ROOT_NAME));
        Some(Served::new(fs, server, root, true))
    }

    /// Whether what containers would get now is a complete mount over files that were found damaged.
    pub(super) fn has_damaged_mount(&self, chain: &LazyChain) -> bool {
        let Some(cell) = lock(&self.served).get(&chain.snapshot_id).cloned() else { return false };
        cell.get().is_some_and(|served| !served.is_ours() && !served.is_sound())
    }

    /// Whether what a chain has now may not be what it should have.
    pub(super) fn is_to_be_reconsidered(&self, chain: &LazyChain) -> bool {
        let Some(cell) = lock(&self.served).get(&chain.snapshot_id).cloned() else { return false };
        cell.get().is_some_and(|served| match &served.server {
            Server::Session(_) => served.fs.hold_checked(&self.store, &chain.index).is_some(),
            Server::Kernel(_) => !served.is_sound() || self.is_served_always(chain),
        })
    }

    /// Has new containers use another mount; those of the one before keep it.
    pub(super) fn replace(&self, snapshot_id: u64, served: Served) {
        let before = lock(&self.served).insert(snapshot_id, Arc::new(OnceCell::new_with(Some(served))));
        if let Some(before) = before.filter(|cell| cell.get().is_some_and(Served::is_ours)) {
            lock(&self.earlier).insert(snapshot_id, before);
        }
    }

    /// What containers that come now are to use, where that is not what those before them got: a chain may have become
    /// complete, or have been found damaged.
    pub(super) fn reconsider(&self, chain: &LazyChain) {
        let id = chain.snapshot_id;
        let Some(cell) = lock(&self.served).get(&id).cloned() else { return };
        match cell.get() {
            Some(served) if served.is_ours() => {
                if let Some(complete) = self.complete(chain, &served.fs) {
                    self.replace(id, complete);
                }
            }
            Some(served) if !served.is_sound() || self.is_served_always(chain) => {
                let outcome = key(chain).map(|key| self.supervisor.unmount(&key));
                tracing::warn!(
                    snapshot = id,
                    ?outcome,
                    "a complete mount is out of use: FUSE serves what comes"
                );
                if matches!(outcome, Some(Ok(Unmounted::Busy))) {
                    lock(&self.leftover).extend(key(chain));
                }
                let earlier =
                    lock(&self.earlier).remove(&id).filter(|cell| !cell.get().is_none_or(Served::has_ended));
                let mut served = lock(&self.served);
                match earlier {
                    Some(earlier) => drop(served.insert(id, earlier)),
                    None => drop(served.remove(&id)),
                }
            }
            _ => {}
        }
    }

    /// Removes the images that no chain on record has.
    pub(super) fn sweep_images(&self, chains: &[LazyChain]) {
        let wanted: Vec<PathBuf> =
            chains.iter().map(|chain| self.image(&chain.index, chain.prefix)).collect();
        let Ok(entries) = std::fs::read_dir(&self.image_dir) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            // One that is being written is put in its place at once.
            if !wanted.contains(&path.with_extension(""))
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an unused image cannot be removed");
            }
        }
    }

    pub(super) fn image(&self, index: &Digest, prefix: u16) -> PathBuf {
        self.image_dir.join(format!("{}-{prefix}", index.hex()))
    }
}
