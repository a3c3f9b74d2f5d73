//! What the kernel has in its page cache of layers that were found not to be what they must be.
//!
//! Of a layer that went into quarantine, and of a boot pack that is not believed any more, it is made to forget it: at once for containers that run, and before a further
//! container gets the mount. Who has such bytes mapped sees the right ones from then on as well; what a program has made of
//! them meanwhile is its own. A complete mount over damaged files cannot be made to forget: it goes out of use at once,
//! for whoever comes.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Mounts, Served, Server, blocking, lock, other};
use crate::lazy::{LazyChain, LazyError};

impl Mounts {
    /// Sees to mounts as soon as something of their layers is found not to be what it must be, for as long as there are
    /// mounts. To be called on a runtime.
    pub(super) fn watch_spoilt(self: &Arc<Self>) {
        let (this, mut spoilt) = (Arc::downgrade(self), self.store.spoilt());
        tokio::spawn(async move {
            while spoilt.changed().await.is_ok() {
                let Some(this) = this.upgrade() else { return };
                for (id, cell) in this.all_served() {
                    // One that waits for a reader must not keep the others; what fails has been told.
                    drop(tokio::task::spawn_blocking(move || forget(id, &cell)));
                }
                this.end_damaged().await;
            }
        });
    }

    async fn end_damaged(self: &Arc<Self>) {
        for chain in self.catalog.chains() {
            if self.has_damaged_mount(&chain) {
                let _one = self.changing.lock().await;
                let this = self.clone();
                if let Err(error) = blocking(chain.snapshot_id, move || this.reconsider(&chain)).await {
                    tracing::error!(snapshot = chain.snapshot_id, %error, "a damaged mount is still in use");
                }
            }
        }
    }

    /// Has the kernel forget what it has read of layers of a chain that are in quarantine, before a container gets it.
    ///
    /// # Errors
    /// The kernel refuses: it may still give what it has read.
    pub(super) async fn forget_condemned(
        &self,
        chain: &LazyChain,
        cell: &Arc<OnceCell<Served>>,
    ) -> Result<(), LazyError> {
        let is_condemned = |served: &Served| !served.fs.condemned().is_empty();
        if !cell.get().is_some_and(is_condemned) {
            return Ok(());
        }
        let (id, cell) = (chain.snapshot_id, cell.clone());
        blocking(id, move || forget(id, &cell))
            .await?
            .map_err(|source| other(id, "have the kernel forget what is in quarantine", source.into()))
    }

    pub(super) fn all_served(&self) -> Vec<(u64, Arc<OnceCell<Served>>)> {
        let of = |cells: &std::collections::HashMap<u64, Arc<OnceCell<Served>>>| {
            cells.iter().map(|(id, cell)| (*id, cell.clone())).collect::<Vec<_>>()
        };
        [of(&lock(&self.served)), of(&lock(&self.earlier))].concat()
    }
}

fn forget(id: u64, cell: &OnceCell<Served>) -> std::io::Result<()> {
    let Some(Served { fs, server: Server::Session(session), .. }) = cell.get() else {
        // What the kernel reads by itself is complete, and so in no quarantine.
        return Ok(());
    };
    match session.forget_condemned(fs) {
        Ok(0) => Ok(()),
        Ok(files) => {
            tracing::info!(
                snapshot = id,
                files,
                "the kernel has forgotten what it had read of layers in quarantine, or of a boot pack"
            );
            Ok(())
        }
        Err(error) => {
            tracing::error!(snapshot = id, %error, "the kernel may still give what it has read of layers in quarantine, or of a boot pack");
            Err(error)
        }
    }
}
