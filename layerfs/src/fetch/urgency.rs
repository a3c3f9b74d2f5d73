//! Readers that wait, all over the node: while there are any, less urgent fetches stand back.
//!
//! A reader counts for a while only. One that waits for a host which does not answer would otherwise stop everything
//! that is not urgent for all the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many readers wait.
#[derive(Clone, Default)]
pub(crate) struct Urgency(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: AtomicUsize,
    quiet: Notify,
}

/// A reader that waits, until it is dropped.
pub(crate) struct Waiting(Arc<Inner>);

impl Urgency {
    /// Makes others stand back.
    pub(crate) fn wait(&self) -> Waiting {
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self.0.clone())
    }

    /// Whether no reader waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire) == 0
    }

    /// Waits until no reader waits. Cancel-safe.
    pub(crate) async fn quiet(&self) {
        loop {
            let changed = self.0.quiet.notified();
            if self.is_quiet() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.quiet.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_quiet_once_the_last_reader_is_served() {
        let urgency = Urgency::default();
        let (first, second) = (urgency.wait(), urgency.wait());
        let mut quiet = std::pin::pin!(urgency.quiet());
        drop(first);
        assert!(futures_util::poll!(&mut quiet).is_pending());
        drop(second);
        quiet.await;
    }
}
