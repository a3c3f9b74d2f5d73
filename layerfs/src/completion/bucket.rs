//! A limit to bytes a second.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// Lets through what is asked for once all that went before has had its time: a request may be larger than a second's
/// worth, and none are saved up.
pub(super) struct Bucket {
    rate: Option<NonZeroU64>,
    free: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, free: Instant::now() }
    }

    /// Waits for its turn, and takes so many bytes. Cancel-safe.
    pub(super) async fn take(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        tokio::time::sleep_until(self.free).await;
        self.free = self.free.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_passes_than_the_rate_allows_and_nothing_is_saved_up() {
        let begun = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(1000));
        for _ in 0..5 {
            bucket.take(4000).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 16, "the last is on its way");
        tokio::time::sleep(Duration::from_secs(100)).await;
        let begun = Instant::now();
        bucket.take(4000).await;
        bucket.take(4000).await;
        assert_eq!(begun.elapsed().as_secs(), 4);
        let mut open = Bucket::new(None);
        open.take(u64::MAX).await;
        open.take(u64::MAX).await;
        assert_eq!(begun.elapsed().as_secs(), 4);
    }
}
