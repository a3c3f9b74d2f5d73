//! Fetching what will probably be asked for next, while nothing is being asked for.
//!
//! A starting program reads all over a few directories, and a directory's files are neighbours in the tar. So when
//! a second read misses close to an earlier one, the spans around it are fetched as well. Measured on a Python
//! start (pandas, 176 misses without this): 60 % fewer misses for a tenth of the image more.
//!
//! As far as that is cheap, they come with the request for the miss itself ([`Beside`](crate::fetch::Beside)); what is left is
//! a job here. Strictly optional: a job starts only while no reader waits for a fetch, is small, and is dropped when newer
//! ones fill the queue. The newest runs first: that is where the program is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::fetch::Urgency;

/// Misses this close to each other, in compressed bytes, are one neighbourhood.
const NEAR: u64 = 2 << 20;
/// Compressed bytes fetched on either side of a miss.
const REACH: u64 = 512 << 10;
/// Jobs that wait; older ones are forgotten.
const QUEUE: usize = 8;
/// Jobs that run: one on the line while the other is decoded.
const WORKERS: usize = 2;
/// Misses remembered for each layer.
const MEMORY: usize = 64;

/// Fetches ahead for all layers of a node.
#[derive(Clone)]
pub(crate) struct Prefetcher(Arc<Inner>);

struct Inner {
    enabled: bool,
    jobs: Mutex<Jobs>,
    urgency: Urgency,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<BoxFuture<'static, ()>>,
    workers: usize,
}

/// Where a layer's recent misses were, as offsets in its blob.
#[derive(Default)]
pub(crate) struct Misses(Mutex<VecDeque<u64>>);

impl Prefetcher {
    /// One that fetches ahead only if `enabled`, and only while no reader waits.
    pub(crate) fn new(enabled: bool, urgency: Urgency) -> Self {
        Self(Arc::new(Inner { enabled, jobs: Mutex::default(), urgency }))
    }

    /// A fetch of what may be wanted soon. Returns at once; the fetch may never run.
    pub(crate) fn suggest(&self, fetch: impl Future<Output = ()> + Send + 'static) {
        if !self.0.enabled {
            return;
        }
        let mut jobs = self.0.lock();
        jobs.queue.push_front(fetch.boxed());
        jobs.queue.truncate(QUEUE);
        if jobs.workers < WORKERS {
            jobs.workers += 1;
            let inner = self.0.clone();
            tokio::spawn(async move { inner.work().await });
        }
    }
}

impl Inner {
    async fn work(&self) {
        loop {
            self.urgency.quiet().await;
            let next = {
                let mut jobs = self.lock();
                let next = jobs.queue.pop_front();
                if next.is_none() {
                    jobs.workers -= 1;
                }
                next
            };
            let Some(fetch) = next else { return };
            fetch.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        // Pushing and popping leave the queue whole wherever a panic strikes.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Misses {
    /// Notes a miss; the blob range worth fetching around it, if there was another one nearby.
    pub(crate) fn note(&self, miss: &Range<u64>) -> Option<Range<u64>> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let neighbour = recent.iter().any(|&other| other.abs_diff(miss.start) <= NEAR);
        recent.push_front(miss.start);
        recent.truncate(MEMORY);
        neighbour.then(|| miss.start.saturating_sub(REACH)..miss.end.saturating_add(REACH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_miss_fetches_nothing_else() {
        let misses = Misses::default();
        assert_eq!(misses.note(&(10 << 20..11 << 20)), None);
        assert_eq!(misses.note(&(50 << 20..51 << 20)), None);
        assert_eq!(misses.note(&(11 << 20..12 << 20)), Some((11 << 20) - REACH..(12 << 20) + REACH));
        assert_eq!(misses.note(&(0..1)), None);
        assert_eq!(misses.note(&(2..3)), Some(0..3 + REACH));
    }

    #[tokio::test]
    async fn the_newest_jobs_run_once_no_reader_waits_and_the_oldest_are_forgotten() {
        let urgency = Urgency::default();
        let prefetcher = Prefetcher::new(true, urgency.clone());
        let (ran, mut told) = tokio::sync::mpsc::unbounded_channel();
        let reader = urgency.wait();
        for job in 0..QUEUE + 3 {
            let ran = ran.clone();
            prefetcher.suggest(async move { ran.send(job).unwrap() });
        }
        tokio::task::yield_now().await;
        assert!(told.try_recv().is_err());
        drop((reader, ran));
        let mut order = Vec::new();
        while order.len() < QUEUE {
            order.push(told.recv().await.unwrap());
        }
        assert_eq!(order, (3..QUEUE + 3).rev().collect::<Vec<_>>());
        assert_eq!(told.recv().await, None);
    }
}
