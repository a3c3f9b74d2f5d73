//! How fast blobs are fetched: in the background under a limit, but not while somebody waits.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};

use jaunt_layerfs::layers::Bucket;

/// The limit, and how many wait for their turn regardless of it.
pub(super) struct Pace {
    bucket: Bucket,
    urgent: AtomicUsize,
}

/// While one lives, there is no limit.
pub(super) struct Urgent<'a>(&'a Pace);

impl Pace {
    /// So many bytes a second; none: as many as come.
    pub fn new(limit: Option<NonZeroU64>) -> Self {
        Self { bucket: Bucket::new(limit), urgent: AtomicUsize::new(0) }
    }

    /// Waits until so many bytes may have come.
    pub async fn take(&self, bytes: usize) {
        if self.urgent.load(Ordering::Relaxed) == 0 {
            self.bucket.take(bytes as u64).await;
        }
    }

    /// Lifts the limit, also for what is in the way.
    pub fn lift(&self) -> Urgent<'_> {
        self.urgent.fetch_add(1, Ordering::Relaxed);
        Urgent(self)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_no_limit_while_somebody_waits() {
        let pace = Pace::new(NonZeroU64::new(10));
        let begun = tokio::time::Instant::now();
        pace.take(100).await;
        let urgent = pace.lift();
        pace.take(1000).await;
        assert_eq!(begun.elapsed().as_secs(), 0);
        drop(urgent);
        pace.take(1).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
    }
}
