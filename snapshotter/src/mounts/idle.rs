//! Complete chains, and who uses them.
//!
//! While a container is on a mount, its layers are held complete once they are so, and nothing of them is taken away: the
//! container needs its registry no more. They are in use though no read of theirs may come by. Without a container, what
//! this process serves goes as anything else does that was not used for long; a mount that the kernel reads by itself is
//! kept for the next container as long as there is room.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jaunt_formats::Digest;
use jaunt_layerfs::fs::CompleteChain;
use jaunt_layerfs::store::Store;
use tokio::sync::OnceCell;

use super::{Mounts, Served, Server, complete, lock};
use crate::fallback::error_chain;
use crate::lazy::LazyChain;
use crate::passthrough;
use crate::supervisor::Unmounted;

impl Mounts {
    /// Notes that the layers below running containers are in use, and has them held where they are complete. To be called
    /// every few seconds.
    pub fn note_use(&self) {
        let used = self.catalog.used();
        let chains = self.catalog.chains().into_iter();
        let used: HashMap<u64, Digest> = chains
            .filter(|chain| used.contains(&chain.snapshot_id))
            .map(|chain| (chain.snapshot_id, chain.index))
            .collect();
        for (id, cell) in self.all_served() {
            let (Some(served), Some(index)) = (cell.get(), used.get(&id)) else { continue };
            served.keep(&self.store, index);
            self.note_direct_reads(served, index);
            if served.holds_now() {
                served.fs.layers().iter().for_each(|layer| layer.file().note_use());
            }
        }
        self.let_unused_be();
    }

    fn let_unused_be(&self) {
        // Nobody has been given a mount that the record does not know of yet.
        let Ok(_alone) = self.giving.try_write() else { return };
        let used = self.catalog.used();
        for (_, cell) in self.all_served().into_iter().filter(|(id, _)| !used.contains(id)) {
            cell.get().map(|served| lock(&served.kept).take());
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

    /// Lets go of what no container has used for the longest time: room is to be made. Whether there was something; there is not
    /// while a container is being given a mount.
    pub fn let_go_of_oldest(&self) -> bool {
        // Nobody has been given a mount that the record does not know of yet.
        let Ok(_alone) = self.giving.try_write() else { return false };
        let used = self.catalog.used();
        let mut unused = Vec::new();
        for chain in self.catalog.chains().into_iter().filter(|chain| !used.contains(&chain.snapshot_id)) {
            let Some(cell) = lock(&self.served).get(&chain.snapshot_id).cloned() else { continue };
            if let Some(idle) = cell.get().filter(|served| served.holds).and_then(idle_seconds) {
                unused.push((idle, chain, cell));
            }
        }
        unused.sort_by_key(|(idle, ..)| Reverse(*idle));
        unused.into_iter().any(|(_, chain, cell)| self.end(&chain, &cell))
    }

    /// Ends a mount; whether it is gone.
    fn end(&self, chain: &LazyChain, cell: &Arc<OnceCell<Served>>) -> bool {
        let Some(served) = cell.get() else { return false };
        let key = match &served.server {
            Server::Session(_) => Some(chain.snapshot_id.into()),
            Server::Kernel(_) => complete::key(chain),
        };
        served.leave();
        match key.map(|key| self.supervisor.unmount(&key)) {
            Some(Ok(Unmounted::Busy)) | None => false,
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
                true
            }
            Some(Err(error)) => {
                let (snapshot, why) = (chain.snapshot_id, error_chain(&error));
                tracing::warn!(snapshot, why, "a complete mount that no container uses cannot be ended");
                false
            }
        }
    }
}

impl Served {
    /// Holds the chain as it is, if it is complete. One that was found damaged is held on to until it is whole again.
    pub(super) fn keep(&self, store: &Store, index: &Digest) {
        let mut kept = lock(&self.kept);
        if self.is_ours()
            && !kept.as_ref().is_some_and(CompleteChain::is_sound)
            && let Some(held) = self.fs.hold_checked(store, index)
        {
            *kept = Some(held);
        }
    }

    fn holds_now(&self) -> bool {
        self.holds || lock(&self.kept).is_some()
    }
}

/// For how long a chain has not been used: as long as the one of its layers that has not for the longest, for the lower ones
/// may be others' as well. `None` if that is too short a time for it to be taken away.
fn idle_seconds(served: &Served) -> Option<u32> {
    served.fs.layers().iter().filter_map(|layer| layer.file().idle_seconds()).max()
}
