//! How far a pack has come, and whether it is worth waiting for what is still to come of it.
//!
//! A reader who misses something may fetch its span, which takes him a round trip and the time of half a mebibyte, or wait
//! until the pack has brought it. The second is not slower while what is before it in the stream is no more than fills
//! the line ([`is_near`](Progress::is_near)): he would stand behind it in any case. Of a pack that has stopped, he goes away
//! after a moment.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Compressed bytes worth waiting for whatever the line: what a span has that is fetched instead.
const NEAR: u64 = 256 << 10;

#[derive(Default)]
pub(super) struct Progress {
    /// Bytes of the blob that have come.
    received: AtomicU64,
    /// Bytes that fill the line.
    window: AtomicU64,
    ended: AtomicBool,
    waiting: AtomicUsize,
    changed: Notify,
}

/// A reader that waits for the pack, until it is dropped.
pub(super) struct Waiting<'p>(&'p Progress);

impl Progress {
    /// Notes how much has come.
    pub(super) fn received(&self, bytes: u64, window: u64) {
        self.received.store(bytes, Ordering::Release);
        self.window.store(window, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Has readers look again.
    pub(super) fn landed(&self) {
        self.changed.notify_waiters();
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether what ends at this offset of the blob will be here no later than its span would be.
    pub(super) fn is_near(&self, end: u64) -> bool {
        let ahead = end.saturating_sub(self.received.load(Ordering::Acquire));
        !self.has_ended() && ahead <= self.window.load(Ordering::Relaxed) + NEAR
    }

    /// Ends with the next change; watches from now on.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Counts as a reader who waits.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        Waiting(self)
    }

    /// Whether a reader waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_worth_waiting_for_until_the_end() {
        let progress = Progress::default();
        assert!(progress.is_near(NEAR) && !progress.is_near(NEAR + 1));
        progress.received(1000, 50);
        assert!(progress.is_near(NEAR + 1050) && !progress.is_near(NEAR + 1051));
        progress.end();
        assert!(!progress.is_near(0));
    }
}
