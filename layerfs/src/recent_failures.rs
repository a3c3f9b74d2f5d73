//! Failures that took long, remembered for a moment.
//!
//! The kernel asks twice: when a read-ahead has failed, it reads the page that the program waits for once more,
//! by itself. With a registry that is silent, each of the two would wait until the client gives up. So what has
//! failed slowly fails at once for the next moment, and is tried anew after that. Quick failures are not
//! remembered: trying again costs nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A failure that took this long was a wait for somebody silent.
const SLOW: Duration = Duration::from_secs(2);
/// The kernel asks again within microseconds; a busy machine may take longer. Short beside the wait itself, so
/// that readers notice at once when the registry is back.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Slow failures of the last moment, by what failed.
pub(crate) struct RecentFailures<K, E>(Mutex<Vec<(K, E, Instant)>>);

impl<K: PartialEq, E: Clone> RecentFailures<K, E> {
    /// Notes that `keys` failed after `took`.
    pub(crate) fn note(&self, keys: impl IntoIterator<Item = K>, error: &E, took: Duration) {
        if took >= SLOW {
            let now = Instant::now();
            self.recent().extend(keys.into_iter().map(|key| (key, error.clone(), now)));
        }
    }

    /// How one of `keys` failed a moment ago.
    pub(crate) fn find(&self, keys: impl IntoIterator<Item = K>) -> Option<E> {
        let recent = self.recent();
        if recent.is_empty() {
            return None;
        }
        keys.into_iter()
            .find_map(|key| recent.iter().find(|(failed, ..)| *failed == key))
            .map(|(_, error, _)| error.clone())
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Vec<(K, E, Instant)>> {
        // Whatever a panic leaves is a list of failures.
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(.., at)| at.elapsed() < REMEMBERED);
        recent
    }
}

impl<K, E> Default for RecentFailures<K, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_slow_failures_are_remembered_and_only_for_a_moment() {
        let failures = RecentFailures::default();
        failures.note([1, 2], &"quick", Duration::from_millis(3));
        assert_eq!(failures.find([1, 2]), None);
        failures.note([1, 2], &"slow", SLOW);
        assert_eq!(failures.find([5, 2]), Some("slow"));
        assert_eq!(failures.find([5]), None);
        tokio::time::sleep(REMEMBERED).await;
        assert_eq!(failures.find([1, 2]), None);
    }
}
