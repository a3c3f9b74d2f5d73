//! What all fetches of a node share: the ways to its registries, its memory, and its processors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lane::Lane;
use super::urgency::Urgency;
use crate::class::Class;

/// KiB that fetches hold at most, compressed and decoded: what the memory bar of 64 MiB for a worker leaves beside
/// itself, its connections and what is being replied.
const MEMORY: u32 = 16 << 10;
/// The part of it that classes that stand back may hold: a reader always finds the rest.
const STANDING_BACK: u32 = 6 << 10;
/// KiB of decoded spans that are lent to readers, so that they need not read them from the disk again. Apart from
/// the above: a reader that waits for a fetch may hold some of these, and no fetch waits for them.
const LENT: u32 = 8 << 10;
/// Whole layers that are decompressed at a time, each with a window of up to 64 MiB where somebody asks for the worst:
/// for readers, and for what stands back.
const WHOLE_LAYERS: [u32; 2] = [2, 1];
/// Hosts whose lanes are remembered, beyond those in use.
const LANES: usize = 64;

/// Shared by all layers.
pub(crate) struct Pool {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    /// Readers that wait.
    pub(crate) urgency: Urgency,
    memory: Arc<Semaphore>,
    standing_back: Arc<Semaphore>,
    lent: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    whole_layers: [Arc<Semaphore>; 2],
}

/// Memory that is spoken for, until it is dropped.
pub(crate) struct Held {
    _memory: OwnedSemaphorePermit,
    _standing_back: Option<OwnedSemaphorePermit>,
}

/// Memory that is lent, until it is dropped.
pub(crate) struct Lent(#[allow(dead_code)] OwnedSemaphorePermit);

/// A processor to verify and decode on, until it is dropped.
pub(crate) struct Decoder(#[allow(dead_code)] OwnedSemaphorePermit);

impl Pool {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, |processors| processors.get());
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self {
            lanes: Mutex::default(),
            urgency: Urgency::default(),
            memory: semaphore(MEMORY),
            standing_back: semaphore(STANDING_BACK),
            lent: semaphore(LENT),
            decoders: Arc::new(Semaphore::new(processors)),
            whole_layers: WHOLE_LAYERS.map(semaphore),
        }
    }

    /// The lane of a host.
    pub(crate) fn lane(&self, host: &str) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(host) {
            return lane.clone();
        }
        if lanes.len() >= LANES {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        lanes.entry(host.to_owned()).or_default().clone()
    }

    /// Waits until `bytes` may be held. More than a class may ever hold counts as that much. Cancel-safe; `None` never
    /// comes while the pool is there.
    pub(crate) async fn hold(&self, class: Class, bytes: u64) -> Option<Held> {
        let most = if class.stands_back() { STANDING_BACK } else { MEMORY - STANDING_BACK };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(most).min(most);
        let standing_back = match class.stands_back() {
            true => Some(self.standing_back.clone().acquire_many_owned(kib).await.ok()?),
            false => None,
        };
        let memory = self.memory.clone().acquire_many_owned(kib).await.ok()?;
        Some(Held { _memory: memory, _standing_back: standing_back })
    }

    /// Lends `bytes`, if there are so many to lend.
    pub(crate) fn lend(&self, bytes: u64) -> Option<Lent> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        self.lent.clone().try_acquire_many_owned(kib).ok().map(Lent)
    }

    /// Waits until another whole layer may be decompressed. Cancel-safe; `None` never comes while the pool is there.
    pub(crate) async fn whole_layer(&self, class: Class) -> Option<OwnedSemaphorePermit> {
        self.whole_layers[usize::from(class.stands_back())].clone().acquire_owned().await.ok()
    }

    /// Waits for a processor. Cancel-safe; `None` never comes while the pool is there.
    pub(crate) async fn decoder(&self) -> Option<Decoder> {
        self.decoders.clone().acquire_owned().await.ok().map(Decoder)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_stands_back_leaves_memory_to_readers_and_nothing_is_too_large_for_ever() {
        let pool = Pool::new();
        let background = pool.hold(Class::Background, 1 << 40).await.unwrap();
        assert!(pool.hold(Class::Nearby, 1).now_or_never().is_none());
        let reader = pool.hold(Class::Demand, 10 << 20).now_or_never().unwrap();
        assert!(pool.hold(Class::Demand, 1).now_or_never().is_none(), "16 MiB in all");
        drop(reader);
        let huge = pool.hold(Class::Demand, 1 << 40).now_or_never();
        assert!(huge.is_some() && pool.hold(Class::Demand, 1).now_or_never().is_none());
        let lent = pool.lend(5 << 20);
        assert!(lent.is_some() && pool.lend(5 << 20).is_none());
        drop((background, huge, lent));
        assert!(pool.lend(5 << 20).is_some() && pool.lend(1 << 40).is_none());
    }

    #[test]
    fn a_host_has_one_lane_while_it_is_in_use() {
        let pool = Pool::new();
        let lane = pool.lane("a");
        (0..200).for_each(|at| drop(pool.lane(&at.to_string())));
        assert!(Arc::ptr_eq(&lane, &pool.lane("a")));
        assert!(pool.lanes.lock().unwrap().len() <= LANES + 1);
    }
}
