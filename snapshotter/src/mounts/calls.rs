//! What the snapshotter asks of the mounts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jaunt_layerfs::fs::LayerFs;

use super::{Mounts, blocking, complete, lock, other};
use crate::boot::Start;
use crate::fallback::error_chain;
use crate::lazy::{LazyChain, LazyError, LazyMounts, RootAttributes, Usage};
use crate::passthrough;
use crate::supervisor::{MountKey, Unmounted};

#[tonic::async_trait]
impl LazyMounts for Arc<Mounts> {
    async fn ensure(&self, chain: &LazyChain) -> Result<PathBuf, LazyError> {
        self.give_needed(chain, false).await
    }

    async fn ensure_for_pod(&self, chain: &LazyChain) -> Result<PathBuf, LazyError> {
        self.give_needed(chain, true).await
    }

    async fn expect(&self, chain: &LazyChain, for_pod: bool) {
        let is_pushed = self.packs.get().is_some_and(|packs| packs.is_pushed(&chain.index));
        if !is_pushed || self.cell(chain.snapshot_id).get().is_some() {
            return;
        }
        lock(&self.expected).insert(chain.snapshot_id);
        // Whoever is given the mount is told what is wrong with it.
        if let Err(error) = self.give(chain, for_pod).await {
            tracing::debug!(chain = %chain.chain_id, error = error_chain(&error), "not mounted ahead of its containers");
        }
    }

    async fn root(&self, chain: &LazyChain) -> Result<RootAttributes, LazyError> {
        let LazyChain { snapshot_id, index, prefix, .. } = *chain;
        let this = self.clone();
        let known = match self.indexes.at_hand(&index) {
            Some(known) => known,
            None => blocking(snapshot_id, move || this.indexes.of(index)).await??,
        };
        known.root(prefix).ok_or_else(|| LazyError::Index { index, source: "it has fewer layers".into() })
    }

    async fn release(&self, chain: &LazyChain) -> Result<(), LazyError> {
        let (this, id, chain) = (self.clone(), chain.snapshot_id, *chain);
        blocking(id, move || {
            // Who holds its files open by this mount keeps them, whatever becomes of their names.
            let complete = complete::key(&chain).map(|key| this.supervisor.unmount(&key)).transpose();
            if complete.map_err(|source| other(id, "unmount", source.into()))? == Some(Unmounted::Busy) {
                return Err(LazyError::Busy { snapshot_id: id });
            }
            this.leave(id);
            let outcome = this.supervisor.unmount(&id.into());
            match outcome.map_err(|source| other(id, "unmount", source.into()))? {
                Unmounted::Busy => return Err(LazyError::Busy { snapshot_id: id }),
                // The session's threads go on by themselves until the last user is gone.
                Unmounted::Done => {
                    for served in this.forget(id).iter().filter_map(|cell| cell.get()) {
                        served.settle();
                        served.root.parent().inspect(|mount| passthrough::forget(mount));
                    }
                }
                // The session's threads go on by themselves until the last user is gone.
                Unmounted::Lingers => {
                    for served in this.forget(id).iter().filter_map(|cell| cell.get()) {
                        served.root.parent().inspect(|mount| passthrough::forget(mount));
                    }
                }
            }
            this.sweep();
            Ok(())
        })
        .await?
    }

    async fn restore(&self, chains: &[LazyChain]) -> Result<(), LazyError> {
        let keys = |chain: &LazyChain| [Some(chain.snapshot_id.into()), complete::key(chain)];
        let keyed = |chain: &LazyChain| {
            keys(chain).into_iter().flatten().map(|key| (key, *chain)).collect::<Vec<_>>()
        };
        let chains: HashMap<MountKey, LazyChain> = chains.iter().flat_map(keyed).collect();
        self.watch_spoilt();
        let this = self.clone();
        blocking(0, move || {
            let held =
                this.supervisor.mounts().map_err(|source| other(0, "ask what is mounted", source.into()))?;
            held.into_iter().for_each(|held| this.take_over(held, &chains));
            this.sweep();
            Ok(())
        })
        .await?
    }

    async fn usage(&self, chain: &LazyChain) -> Result<Usage, LazyError> {
        let (this, chain) = (self.clone(), *chain);
        blocking(chain.snapshot_id, move || {
            Ok(this.indexes.of(chain.index)?.usage(chain.prefix, &this.store))
        })
        .await?
    }

    async fn mounted(&self, chain: &LazyChain) -> Option<PathBuf> {
        let served = lock(&self.served);
        let served = served.get(&chain.snapshot_id)?.get().filter(|served| !served.has_ended())?;
        Some(served.root.clone())
    }
}

impl Mounts {
    /// The chain's mount, for a container: what is not local of it is fetched in the background from now on.
    async fn give_needed(self: &Arc<Self>, chain: &LazyChain, for_pod: bool) -> Result<PathBuf, LazyError> {
        let (root, fs) = self.give(chain, for_pod).await?;
        if lock(&self.expected).remove(&chain.snapshot_id) {
            self.fill(&fs, chain);
        }
        let start = lock(&self.starts).remove(&chain.snapshot_id);
        start.into_iter().for_each(Start::begin);
        Ok(root)
    }

    /// The chain's mount, made where there is none: for a pod, or for who may compare what is in it.
    async fn give(
        self: &Arc<Self>,
        chain: &LazyChain,
        for_pod: bool,
    ) -> Result<(PathBuf, Arc<LayerFs>), LazyError> {
        if let Some(why) = self.store.quarantined_index(&chain.index) {
            return Err(LazyError::Quarantined { index: chain.index, why });
        }
        let giving = self.giving.read().await;
        if self.is_to_be_reconsidered(chain) {
            let _one = self.changing.lock().await;
            let (this, chain) = (self.clone(), *chain);
            blocking(chain.snapshot_id, move || this.reconsider(&chain)).await?;
        }
        let cell = self.cell(chain.snapshot_id);
        if let Some(served) = cell.get() {
            // Another repository with the same image may have come to be known since it was mounted.
            served.fs.learn(&self.sources(chain));
        }
        let served = cell.get_or_try_init(|| async {
            let (this, chain) = (self.clone(), *chain);
            blocking(chain.snapshot_id, move || this.serve(&chain, for_pod)).await?
        });
        let served = served.await?;
        // Whether it may be let go of is asked once the container is on record.
        served.keep(&self.store, &chain.index);
        let given = (served.root.clone(), served.fs.clone());
        // That waits for readers, and the container is on record.
        drop(giving);
        self.forget_condemned(chain, &cell).await?;
        Ok(given)
    }
}
