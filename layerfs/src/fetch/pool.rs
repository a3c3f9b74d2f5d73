//! What all fetches of a node share: the ways to its registries, its memory, and its processors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lane::Lane;
use super::memory::{Held, Memory};
use super::urgency::Urgency;
use crate::class::Class;

/// KiB of decoded spans that are lent to readers, so that they need not read them from the disk again. Apart from
/// what fetches hold: a reader that waits for a fetch may hold some of these, and no fetch waits for them.
const LENT: u32 = 8 << 10;
/// Whole layers that are decompressed at a time, each with a window of up to 64 MiB where somebody asks for the worst:
/// for readers, and for what stands back.
const WHOLE_LAYERS: [u32; 2] = [2, 1];
/// Those that wait for their turn half done, because their readers have gone.
const SET_ASIDE: u32 = 2;
/// Hosts whose lanes are remembered, beyond those in use.
const LANES: usize = 64;

/// Shared by all layers.
pub(crate) struct Pool {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    /// Readers that wait.
    pub(crate) urgency: Urgency,
    memory: Arc<Memory>,
    lent: Arc<Semaphore>,
    /// For readers, and for what stands back.
    decoders: [Arc<Semaphore>; 2],
    whole_layers: [Arc<Semaphore>; 2],
    set_aside: Arc<Semaphore>,
}

/// Memory that is lent, until it is dropped.
pub(crate) struct Lent(#[allow(dead_code)] OwnedSemaphorePermit);

/// The right to decompress a whole layer, until it is dropped.
pub(crate) struct WholeLayer {
    #[allow(dead_code)]
    permit: OwnedSemaphorePermit,
    for_readers: bool,
}

/// The right to be half done, until it is dropped.
pub(crate) struct SetAside(#[allow(dead_code)] OwnedSemaphorePermit);

/// A processor to verify and decode on, until it is dropped.
pub(crate) struct Decoder(#[allow(dead_code)] OwnedSemaphorePermit);

impl WholeLayer {
    /// Whether it is one that readers wait for.
    pub(crate) fn for_readers(&self) -> bool {
        self.for_readers
    }
}

impl Pool {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, |processors| processors.get());
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self {
            lanes: Mutex::default(),
            urgency: Urgency::default(),
            memory: Arc::default(),
            lent: semaphore(LENT),
            decoders: std::array::from_fn(|_| Arc::new(Semaphore::new(processors))),
            whole_layers: WHOLE_LAYERS.map(semaphore),
            set_aside: semaphore(SET_ASIDE),
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

    /// Waits until `bytes` may be held, as `class` has its turn. Cancel-safe; `None` never comes while the pool is there.
    pub(crate) async fn hold(&self, class: Class, bytes: u64) -> Option<Held> {
        self.memory.hold(class, bytes).await
    }

    /// Memory for `bytes`, if there is some for `class` at once.
    pub(crate) fn hold_now(&self, class: Class, bytes: u64) -> Option<Held> {
        self.memory.hold_now(class, bytes)
    }

    /// Lends `bytes`, if there are so many to lend.
    pub(crate) fn lend(&self, bytes: u64) -> Option<Lent> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        self.lent.clone().try_acquire_many_owned(kib).ok().map(Lent)
    }

    /// Waits until another whole layer may be decompressed. Cancel-safe; `None` never comes while the pool is there.
    pub(crate) async fn whole_layer(&self, class: Class) -> Option<WholeLayer> {
        let for_readers = !class.stands_back();
        let permit = self.whole_layers[usize::from(!for_readers)].clone().acquire_owned().await.ok()?;
        Some(WholeLayer { permit, for_readers })
    }

    /// The right to decompress a whole layer behind all readers, if it is free.
    pub(crate) fn whole_layer_behind(&self) -> Option<WholeLayer> {
        let permit = self.whole_layers[1].clone().try_acquire_owned().ok()?;
        Some(WholeLayer { permit, for_readers: false })
    }

    /// A place to wait half done, if there is one.
    pub(crate) fn set_aside(&self) -> Option<SetAside> {
        self.set_aside.clone().try_acquire_owned().ok().map(SetAside)
    }

    /// Whether everything that it gives has been given back.
    #[cfg(test)]
    pub(crate) async fn is_whole(&self) -> bool {
        const ALL: u64 = 1 << 40;
        let (background, demand) = (self.hold(Class::Background, ALL), self.hold(Class::Demand, ALL));
        let in_time = std::time::Duration::from_millis(1);
        let memory = tokio::time::timeout(in_time, async { tokio::join!(background, demand) }).await;
        let lanes: Vec<_> = self.lanes.lock().unwrap().values().cloned().collect();
        let processors = std::thread::available_parallelism().map_or(2, |processors| processors.get());
        memory.is_ok()
            && lanes.iter().all(|lane| lane.is_idle())
            && self.lent.available_permits() == LENT as usize
            && self.decoders.iter().all(|decoders| decoders.available_permits() == processors)
            && self.set_aside.available_permits() == SET_ASIDE as usize
            && [0, 1].iter().all(|&of| self.whole_layers[of].available_permits() == WHOLE_LAYERS[of] as usize)
    }

    /// Waits for a processor. Readers wait for none of those that what stands back has: it may be held up by the disk. Cancel-safe;
    /// `None` never comes while the pool is there.
    pub(crate) async fn decoder(&self, class: Class) -> Option<Decoder> {
        self.decoders[usize::from(class.stands_back())].clone().acquire_owned().await.ok().map(Decoder)
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

    #[tokio::test]
    async fn a_reader_waits_for_no_memory_behind_what_is_less_urgent() {
        let pool = Pool::new();
        let ahead = pool.hold(Class::Ahead, 1 << 40).await.unwrap();
        let mut more = std::pin::pin!(pool.hold(Class::Ahead, 1 << 20));
        assert!(futures_util::poll!(&mut more).is_pending());
        let reader = pool.hold(Class::Demand, 5 << 20).now_or_never();
        assert!(reader.is_some(), "some is left to readers alone");
        drop((ahead, reader));
        more.await.unwrap();
        let now = |class, mib: u64| pool.hold_now(class, mib << 20);
        assert!(
            now(Class::Nearby, 7).is_none() && now(Class::Nearby, 1 << 40).is_none(),
            "at once or not at all"
        );
        let nearby = now(Class::Nearby, 4);
        assert!(nearby.is_some() && now(Class::Nearby, 1).is_none() && now(Class::Demand, 10).is_some());
        assert!(pool.hold(Class::Boot, 2 << 20).now_or_never().is_some(), "a frame of a pack has room");
        drop(nearby);

        let _readers =
            (pool.hold(Class::Demand, 10 << 20).await.unwrap(), pool.hold(Class::Demand, 1 << 20).await);
        let mut background = std::pin::pin!(pool.hold(Class::Background, 6 << 20));
        assert!(futures_util::poll!(&mut background).is_pending());
        assert!(pool.hold(Class::Demand, 2 << 20).now_or_never().is_some(), "who came first is less urgent");
    }

    #[tokio::test]
    async fn a_reader_waits_for_no_processor_that_what_stands_back_has() {
        let pool = Pool::new();
        let mut held = Vec::new();
        while let Some(Some(decoder)) = pool.decoder(Class::Boot).now_or_never() {
            held.push(decoder);
        }
        assert!(pool.decoder(Class::Background).now_or_never().is_none());
        assert!(pool.decoder(Class::Ahead).now_or_never().is_some());
        assert!(pool.decoder(Class::Demand).now_or_never().is_some());
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
