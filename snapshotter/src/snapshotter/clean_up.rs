//! Removal: the record goes first, durably; files and mounts follow, and may take their time.
//!
//! A crash in between leaves files without a record, which the next clean-up finds by their ids.
//! containerd calls Cleanup after it has removed snapshots.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::Snapshotter;
use super::error::{Error, io_error};
use crate::fallback::error_chain;
use crate::lazy::{LazyChain, LazyError, LazyMounts};

impl Snapshotter {
    /// Remove: the name is free at once; disk space follows.
    pub async fn remove(&self, key: String) -> Result<(), Error> {
        let removed = self.store.remove(key).await?;
        match removed.lazy_chain() {
            Some(chain) => self.releases.release(chain).await,
            None => self.discard(removed.id).await?,
        }
        Ok(())
    }

    /// Cleanup: deletes what has no record, lets go of mounts that were busy, forgets indexes that no
    /// snapshot uses.
    pub async fn clean_up(&self) -> Result<(), Error> {
        self.releases.again().await;
        self.discard_strays().await?;
        self.blocking(|directories| directories.discarded()?.iter().try_for_each(delete)).await?;
        self.resolver.collect().await;
        Ok(())
    }

    /// Moves a snapshot's directory away and deletes it in the background.
    pub(super) async fn discard(&self, id: u64) -> Result<(), Error> {
        let discarded = self.blocking(move |directories| directories.discard(id)).await?;
        if let Some(path) = discarded {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = delete(&path) {
                    tracing::warn!(error = error_chain(&error), "a removed snapshot's files stay for now");
                }
            });
        }
        Ok(())
    }

    /// Directories are listed before reservations and records are looked at: one that appears later
    /// is not in the list, one whose reservation has ended has its record by then.
    async fn discard_strays(&self) -> Result<(), Error> {
        let present = self.blocking(|directories| directories.present()).await?;
        let unreserved: Vec<u64> = present.into_iter().filter(|id| !self.store.is_reserved(*id)).collect();
        let recorded = self.store.read().ids();
        let strays: Vec<u64> = unreserved.into_iter().filter(|id| !recorded.contains(id)).collect();
        self.blocking(move |directories| strays.iter().try_for_each(|id| directories.discard(*id).map(drop)))
            .await
    }
}

/// Lazy chains without a record, on their way out.
pub(super) struct Releases {
    lazy: Arc<dyn LazyMounts>,
    /// Their mounts were busy: let go at the next clean-up.
    busy: Mutex<Vec<LazyChain>>,
}

impl Releases {
    pub fn new(lazy: Arc<dyn LazyMounts>) -> Arc<Self> {
        Arc::new(Self { lazy, busy: Mutex::default() })
    }

    pub async fn again(&self) {
        let busy = std::mem::take(&mut *self.busy.lock().unwrap_or_else(PoisonError::into_inner));
        for chain in busy {
            self.release(chain).await;
        }
    }

    pub async fn release(&self, chain: LazyChain) {
        match self.lazy.release(&chain).await {
            Ok(()) => return,
            Err(LazyError::Busy { .. }) => {
                tracing::info!(snapshot = chain.snapshot_id, "a removed snapshot is still in use");
            }
            Err(error) => {
                tracing::warn!(
                    snapshot = chain.snapshot_id,
                    error = error_chain(&error),
                    "cannot let go of a removed snapshot"
                );
            }
        }
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).push(chain);
    }
}

/// Deletes a tree; one that is gone already is deleted.
fn delete(path: &PathBuf) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("delete", path)(error)),
        _ => Ok(()),
    }
}
