//! A limit to bytes a second.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets through what is asked for once all that went before has had its time: a request may be larger than a second's
/// worth, and none are saved up.
pub struct Bucket {
    rate: Option<NonZeroU64>,
    free: Mutex<Instant>,
}

impl Bucket {
    /// One that has let nothing through yet; no rate lets everything through.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, free: Mutex::new(Instant::now()) }
    }

    /// Waits for its turn, and takes so many bytes. Cancel-safe: who goes away has taken none.
    pub async fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        while let Err(until) = self.try_take(cost) {
            tokio::time::sleep_until(until).await;
        }
    }

    fn try_take(&self, cost: Duration) -> Result<(), Instant> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if *free > now {
            return Err(*free);
        }
        // A rate of one byte a second and a long request are a while that no clock knows.
        *free = now.checked_add(cost).unwrap_or(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_passes_than_the_rate_allows_and_nothing_is_saved_up() {
        let begun = Instant::now();
        let bucket = Bucket::new(NonZeroU64::new(1000));
        for _ in 0..5 {
            bucket.take(4000).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 16, "the last is on its way");
        tokio::time::sleep(Duration::from_secs(100)).await;
        let begun = Instant::now();
        bucket.take(4000).await;
        tokio::join!(bucket.take(4000), bucket.take(4000));
        assert_eq!(begun.elapsed().as_secs(), 8);
        let open = Bucket::new(None);
        open.take(u64::MAX).await;
        open.take(u64::MAX).await;
        assert_eq!(begun.elapsed().as_secs(), 8);
    }
}
