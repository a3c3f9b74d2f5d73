//! A chain: its layers, then its tree.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::aside::aside;
use super::check::{self, Fault};
use super::layer::Target;
use super::trouble::{Stop, Trouble};
use super::{Chain, Shared};
use crate::fs::LayerFs;

impl Shared {
    /// All that there is to do for a chain.
    pub(super) async fn complete(&self, chain: &Chain) -> Result<(), Stop> {
        let (targets, prefix) = {
            let fs = chain.fs.upgrade().ok_or(Stop::Unneeded)?;
            (fs.layers().iter().map(Target::new).collect::<Vec<_>>(), fs.prefix())
        };
        if self.store.quarantined_index(&chain.index).is_some() {
            distrust_pack(chain);
            return Err(Stop::Condemned);
        }
        self.find_room(chain, &targets)?;
        for target in &targets {
            let done = self.layer(target).await;
            if target.fetcher.file().quarantined().is_some() {
                distrust_pack(chain);
            }
            done?;
        }
        self.check_pack(chain).await?;
        if !self.store.is_checked(&chain.index, prefix) {
            self.check_tree(chain, prefix).await?;
            self.counters.checked_chains.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(index = %chain.index, layers = prefix, "an image is complete: it needs no registry");
        Ok(())
    }

    /// Whether all that the chain misses finds room: a part of it would be there in vain.
    fn find_room(&self, chain: &Chain, targets: &[Target]) -> Result<(), Stop> {
        let missing = targets.iter().map(Target::missing_bytes).sum();
        let has_room = match chain.was_evicted {
            true => self.store.has_lasting_room_for(missing),
            false => self.store.has_room_for(missing),
        };
        if missing == 0 || has_room { Ok(()) } else { Err(Trouble::NoRoom(missing).into()) }
    }

    /// Compares what the chain's boot pack has brought with the layers, unless that was done.
    async fn check_pack(&self, chain: &Chain) -> Result<(), Stop> {
        let fs: Arc<LayerFs> = chain.fs.upgrade().ok_or(Stop::Unneeded)?;
        let Some(boot) = fs.boot_to_compare().cloned() else { return Ok(()) };
        // What comes after this is looked at the next time.
        let (is_all, prefix) = (boot.has_ended(), fs.prefix());
        let checked =
            aside(move |wanted| check::pack(&fs, &|| wanted.is_so())).await.ok_or(Trouble::Thread)?;
        match checked {
            Ok(()) if is_all => boot.note_compared(prefix),
            Ok(()) => {}
            Err(Fault::Missing) => return Err(Trouble::NotKept.into()),
            Err(Fault::Stopped) => return Err(Stop::Unneeded),
            Err(Fault::Differs(why)) => {
                tracing::error!(index = %chain.index, why, "an image's boot pack is not what its layers are: nothing of it is believed from now on");
                distrust_pack(chain);
            }
        }
        Ok(())
    }

    async fn check_tree(&self, chain: &Chain, prefix: u16) -> Result<(), Stop> {
        let fs: Arc<LayerFs> = chain.fs.upgrade().ok_or(Stop::Unneeded)?;
        let checked =
            aside(move |wanted| check::tree(&fs, &|| wanted.is_so())).await.ok_or(Trouble::Thread)?;
        match checked {
            Ok(()) => Ok(self.store.note_checked(&chain.index, prefix)?),
            Err(Fault::Missing) => Err(Trouble::NotKept.into()),
            Err(Fault::Stopped) => Err(Stop::Unneeded),
            Err(Fault::Differs(why)) => {
                self.counters.quarantined.fetch_add(1, Ordering::Relaxed);
                tracing::error!(index = %chain.index, layers = prefix, why, "an image's tree is not that of its layers: its launch index is in quarantine from now on");
                distrust_pack(chain);
                self.store.quarantine_index(&chain.index, &why)?;
                Err(Stop::Condemned)
            }
        }
    }
}

fn distrust_pack(chain: &Chain) {
    if chain.fs.upgrade().is_some_and(|fs| fs.distrust_boot()) {
        tracing::warn!(index = %chain.index, "what the image's boot pack brought is dropped");
    }
}
