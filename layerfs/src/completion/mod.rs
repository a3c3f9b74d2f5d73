//! Completion: the rest of every mounted layer, fetched while nothing else is, and the check of the whole.
//!
//! ```text
//! chain added -> (delay) -> each layer: fill -> tar against diffID -> synced, marked complete
//!                                         |            \-> differs: the layer goes into quarantine
//!                        -> what a boot pack brought against the tars
//!                                                      \-> differs: the pack is believed no more
//!                        -> tree of all tars against the index -> noted
//!                                                      \-> differs: the index goes into quarantine
//! ```
//!
//! One layer after the other, as [`Class::Background`](crate::class::Class), no faster than allowed. What is local is
//! not fetched again, so it goes on where a restart or an outage has stopped it. A layer that nobody has mounted any
//! more is let be. What cannot be done for now (no registry, no room) is tried again with growing pauses.
//!
//! A layer in zstd:chunked may have bytes that no span covers, where frames go on behind their files (a converted blob without
//! its launch artifact). It is streamed whole, once: the spans that are missing and those bytes are kept of its tar, and then it is
//! checked as any other.
//!
//! Spans are verified against the index when they come, and the index was believed so far: that a tar with setuid bits
//! of its own, or other bytes, stands behind it is found out here.
//!
//! A chain that is complete is looked at again every minute while it is mounted, which costs next to nothing: where a part was taken
//! away to make room, or found damaged, it is completed anew. Nothing is begun for a chain unless all that it misses finds room below the
//! cap; what was taken away to make room has to find it below what making room leaves, or the two would undo each other for ever.

mod aside;
mod chain;
mod check;
mod layer;
mod progress;
mod tar;
#[cfg(test)]
mod tests;
mod trouble;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jaunt_formats::Digest;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fs::LayerFs;
use crate::store::Store;
pub use progress::Progress;
use trouble::{Stop, Trouble};

/// The pause after a first failure, doubled with each further one up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The pause after a failure that costs a whole layer each time, and that nothing but another blob will mend.
const LASTING: Duration = Duration::from_secs(24 * 3600);
/// How often a complete chain is looked at. What makes room for others must not be fetched again at once.
const REVIEW: Duration = Duration::from_secs(60);

/// How it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long after it was mounted a chain is left alone.
    pub delay: Duration,
}

/// What completion has done since the process started.
#[derive(Debug, Default)]
pub struct CompletionCounters {
    /// Compressed bytes that were fetched.
    pub filled_bytes: AtomicU64,
    /// Layers whose tar was found to be what its diffID says.
    pub complete_layers: AtomicU64,
    /// Chains whose tree was found to be that of its tars.
    pub checked_chains: AtomicU64,
    /// Layers and indexes that were put into quarantine.
    pub quarantined: AtomicU64,
    /// How often something had to be put off.
    pub postponed: AtomicU64,
    /// How often a complete chain was found to have lost a part.
    pub lost: AtomicU64,
    /// Mounted chains that wait for room, as of when the last one was looked at.
    pub without_room: AtomicU64,
}

/// Completes chains in the background, for as long as it lives.
pub struct Completion {
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
}

struct Shared {
    store: Arc<Store>,
    settings: Settings,
    queue: Mutex<Vec<Chain>>,
    added: Notify,
    counters: Arc<CompletionCounters>,
}

/// A chain that waits for its turn.
struct Chain {
    fs: Weak<LayerFs>,
    index: Digest,
    due: Instant,
    failures: u32,
    /// Nothing is to be done for it, as of when it was last looked at.
    settled: bool,
    /// What the store had taken away in all when it was last complete.
    evicted_before: u64,
    /// Whether it has made room for others since.
    was_evicted: bool,
    /// Whether the cap leaves no room for it.
    lacks_room: bool,
}

impl Completion {
    /// For the chains of one store. To be called on a runtime.
    pub fn new(store: Arc<Store>, settings: Settings) -> Self {
        let (queue, added, counters) = (Mutex::default(), Notify::new(), Arc::default());
        let shared = Arc::new(Shared { store, settings, queue, added, counters });
        let worker = tokio::spawn(shared.clone().work());
        Self { shared, worker }
    }

    /// Sees to a chain that was mounted, whose index has this digest, until it is not mounted any more.
    pub fn add(&self, fs: &Arc<LayerFs>, index: Digest) {
        let due = Instant::now() + self.shared.settings.delay;
        self.shared.lock().push(Chain::new(fs, index, due));
        self.shared.added.notify_one();
    }

    /// What has been done.
    pub fn counters(&self) -> &Arc<CompletionCounters> {
        &self.shared.counters
    }

    /// Mounted chains that wait for their turn, or for better times.
    pub fn waiting(&self) -> usize {
        let waits = |chain: &&Chain| !chain.settled && chain.fs.strong_count() > 0;
        self.shared.lock().iter().filter(waits).count()
    }
}

impl Chain {
    fn new(fs: &Arc<LayerFs>, index: Digest, due: Instant) -> Self {
        let (fs, failures, evicted_before) = (Arc::downgrade(fs), 0, 0);
        let (settled, was_evicted, lacks_room) = (false, false, false);
        Self { fs, index, due, failures, settled, evicted_before, was_evicted, lacks_room }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl Shared {
    async fn work(self: Arc<Self>) {
        loop {
            let mut chain = self.next().await;
            let done = match self.is_settled(&mut chain) {
                true => Ok(()),
                false => self.complete(&chain).await,
            };
            let pause = match done {
                Ok(()) => {
                    (chain.settled, chain.failures, chain.lacks_room) = (true, 0, false);
                    (chain.evicted_before, chain.was_evicted) = (self.evicted(), false);
                    REVIEW
                }
                Err(Stop::Unneeded | Stop::Condemned) => continue,
                Err(Stop::Trouble(trouble)) => self.put_off(&mut chain, &trouble),
            };
            chain.due = Instant::now() + pause;
            self.lock().push(chain);
        }
    }

    /// Whether a chain that was done still is.
    fn is_settled(&self, chain: &mut Chain) -> bool {
        if !chain.settled {
            return false;
        }
        let Some(fs) = chain.fs.upgrade() else { return true };
        if fs.boot_to_compare().is_some() {
            return false;
        }
        let progress = Progress::of(&fs);
        if progress.is_whole() {
            return true;
        }
        self.counters.lost.fetch_add(1, Ordering::Relaxed);
        chain.was_evicted = self.evicted() != chain.evicted_before;
        tracing::warn!(index = %chain.index, percent = progress.percent(), "an image is not complete any more: a part of it was taken away, or found damaged; it is completed anew, if there is room");
        false
    }

    fn evicted(&self) -> u64 {
        self.store.counters().evicted_bytes.load(Ordering::Relaxed)
    }

    /// For how long.
    fn put_off(&self, chain: &mut Chain, trouble: &Trouble) -> Duration {
        self.counters.postponed.fetch_add(1, Ordering::Relaxed);
        trouble.tell(chain);
        chain.lacks_room = matches!(trouble, Trouble::NoRoom(_));
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(chain.failures);
        (chain.settled, chain.failures) = (false, (chain.failures + 1).min(u32::BITS - 1));
        if trouble.may_pass() { pause.min(LONGEST_PAUSE) } else { LASTING }
    }

    /// Waits for the next chain to be due.
    async fn next(&self) -> Chain {
        loop {
            let due = {
                let mut queue = self.lock();
                queue.retain(|chain| chain.fs.strong_count() > 0);
                let without_room = queue.iter().filter(|chain| chain.lacks_room).count();
                self.counters.without_room.store(without_room as u64, Ordering::Relaxed);
                let next = (0..queue.len()).min_by_key(|&at| queue[at].due);
                match next {
                    Some(at) if queue[at].due <= Instant::now() => return queue.remove(at),
                    next => next.map(|at| queue[at].due),
                }
            };
            let come = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = come => {}
                () = self.added.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chain>> {
        // Pushing and taking leave the queue whole wherever a panic strikes.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
