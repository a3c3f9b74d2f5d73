//! One request at a time for each snapshot, and what the last one has made.
//!
//! For threads that may block: no lock is held across an await.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::IdMaps;

/// The maps of the clones that this process has made.
type Made = Arc<Mutex<Option<IdMaps>>>;

/// A lock for each snapshot that somebody has asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks(Arc<Mutex<HashMap<u64, Made>>>);

impl Locks {
    /// Works on one snapshot's, alone.
    pub fn with<T>(&self, id: u64, work: impl FnOnce(&mut Option<IdMaps>) -> T) -> T {
        let made = Arc::clone(lock(&self.0).entry(id).or_default());
        let mut made = lock(&made);
        work(&mut made)
    }

    /// Forgets a snapshot, unless somebody works on its, or waits.
    pub fn forget(&self, id: u64) {
        let mut locks = lock(&self.0);
        if locks.get(&id).is_some_and(|made| Arc::strong_count(made) == 1) {
            locks.remove(&id);
        }
    }
}

/// What a panic has left is looked at before it is used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_forgotten_when_nobody_has_it() {
        let locks = Locks::default();
        let known = || lock(&locks.0).len();
        locks.with(1, |_| {
            locks.forget(1);
            assert_eq!(known(), 1, "somebody works");
        });
        locks.with(2, |_| ());
        locks.forget(1);
        assert_eq!(known(), 1);
        locks.forget(2);
        assert_eq!(known(), 0);
    }
}
