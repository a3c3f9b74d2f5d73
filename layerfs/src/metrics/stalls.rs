//! Which files readers have waited for, of one mount: the worst of them, however many there are.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Files that are remembered. Those that have been waited for the least make room for others.
const FILES: usize = 64;

/// What readers of one file have waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall<K> {
    /// The file.
    pub file: K,
    /// For how long in all, as long as it is remembered.
    pub waited: Duration,
    /// How many reads.
    pub reads: u64,
}

/// What readers of a mount have waited.
#[derive(Debug)]
pub struct Stalls<K>(Mutex<State<K>>);

#[derive(Debug)]
struct State<K> {
    files: Vec<Stall<K>>,
    waited: Duration,
}

impl<K: Copy + PartialEq> Stalls<K> {
    /// A read of `file` has waited.
    pub fn note(&self, file: K, waited: Duration) {
        let mut state = self.lock();
        state.waited += waited;
        if let Some(stall) = state.files.iter_mut().find(|stall| stall.file == file) {
            stall.waited += waited;
            stall.reads += 1;
            return;
        }
        let new = Stall { file, waited, reads: 1 };
        let least = (state.files.len() >= FILES)
            .then(|| state.files.iter_mut().min_by_key(|stall| stall.waited))
            .flatten();
        match least {
            None => state.files.push(new),
            Some(least) if least.waited <= waited => *least = new,
            Some(_) => {}
        }
    }

    /// The files that were waited for the longest, the worst first.
    pub fn worst(&self) -> Vec<Stall<K>> {
        let mut files = self.lock().files.clone();
        files.sort_by_key(|stall| std::cmp::Reverse(stall.waited));
        files
    }

    /// What all readers of all files have waited.
    pub fn waited(&self) -> Duration {
        self.lock().waited
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Every change leaves sums wherever a panic strikes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Stalls<K> {
    fn default() -> Self {
        Self(Mutex::new(State { files: Vec::new(), waited: Duration::ZERO }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_stay_and_the_sum_is_of_all() {
        let stalls = Stalls::default();
        for file in 0..1000_u64 {
            stalls.note(file, Duration::from_millis(if file == 3 { 50 } else { 1 }));
        }
        stalls.note(3, Duration::from_millis(5));
        let worst = stalls.worst();
        assert_eq!((worst.len(), worst[0].file, worst[0].reads), (FILES, 3, 2));
        assert_eq!(worst[0].waited, Duration::from_millis(55));
        assert_eq!(stalls.waited(), Duration::from_millis(999 + 55));
    }
}
