//! Mounts whose files the kernel reads by itself, and who uses them.
//!
//! Such a mount holds its layers complete, so that nothing of them is taken away. While a container is on it, they are in use
//! though no read of theirs comes by. Without one, the mount is kept for the next container as long as there is room.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Mounts, Served, Server, complete, lock};
use crate::fallback::error_chain;
use crate::lazy::LazyChain;
use crate::passthrough;
use crate::supervisor::Unmounted;

impl Mounts {
    /// Notes that the layers below running containers are in use. To be called every few seconds.
    pub fn note_use(&self) {
        let used = self.catalog.used();
        for (id, cell) in self.all_served() {
            if let Some(served) = cell.get().filter(|served| served.holds && used.contains(&id)) {
                served.fs.layers().iter().for_each(|layer| layer.file().note_use());
            }
        }
    }

    /// Ends mounts that somebody was in when they should have been. To be called every few seconds.
    pub fn end_leftovers(&self) {
        // What is given anew meanwhile is no leftover.
        let Ok(_alone) = self.giving.try_write() else { return };
        let leftover: Vec<_> = lock(&self.leftover).iter().cloned().collect();
        for key in leftover {
            if matches!(self.supervisor.unmount(&key), Ok(Unmounted::Done | Unmounted::Lingers)) {
                lock(&self.leftover).remove(&key);
            }
        }
    }

    /// Lets go of what no container uses: room is to be made. Does nothing while a container is being given a mount.
    pub fn let_go_of_unused(&self) {
        // Nobody has been given a mount that the record does not know of yet.
        let Ok(_alone) = self.giving.try_write() else { return };
        let used = self.catalog.used();
        for chain in self.catalog.chains().iter().filter(|chain| !used.contains(&chain.snapshot_id)) {
            let cell = lock(&self.served).get(&chain.snapshot_id).cloned();
            if let Some(cell) = cell.filter(|cell| cell.get().is_some_and(|served| served.holds)) {
                self.end(chain, &cell);
            }
        }
    }

    fn end(&self, chain: &LazyChain, cell: &Arc<OnceCell<Served>>) {
        let Some(served) = cell.get() else { return };
        let key = match &served.server {
            Server::Session(_) => Some(chain.snapshot_id.into()),
            Server::Kernel(_) => complete::key(chain),
        };
        match key.map(|key| self.supervisor.unmount(&key)) {
            Some(Ok(Unmounted::Busy)) | None => {}
            Some(Ok(Unmounted::Done | Unmounted::Lingers)) => {
                let mut all = lock(&self.served);
                // Another may have been put in its place meanwhile, over files that were found damaged.
                if all.get(&chain.snapshot_id).is_some_and(|now| Arc::ptr_eq(now, cell)) {
                    all.remove(&chain.snapshot_id);
                }
                drop(all);
                if served.is_ours() {
                    served.settle();
                    served.root.parent().inspect(|mount| passthrough::forget(mount));
                }
                let (snapshot, chain_id) = (chain.snapshot_id, chain.chain_id);
                tracing::info!(snapshot, chain = %chain_id, "let go of a complete mount that no container uses: room is needed");
            }
            Some(Err(error)) => {
                let (snapshot, why) = (chain.snapshot_id, error_chain(&error));
                tracing::warn!(snapshot, why, "a complete mount that no container uses cannot be ended");
            }
        }
    }
}
