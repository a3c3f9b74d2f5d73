//! What is told of things that fail again and again: when one begins to, now and then how many have, and that it is over.
//!
//! ```text
//!              failed                          failed                      succeeded
//! (well) ─────────────────> failing, told ───────────────> same ─────────────────────> (well): told
//!        │ many others fail                                summary now and then
//!        └────────────────> failing, only counted ──────────────────────> (well): told with the last of them
//! ```
//!
//! A registry that is gone fails every read of every container. Each line of a log that says so once more hides one that
//! says something else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Things that are told of by name while they fail; further ones are counted.
const NAMED: usize = 8;
/// Things that are kept in mind. Beyond it, what fails is counted and forgotten.
const KNOWN: usize = 4096;
/// Time between two summaries.
const SUMMARY: Duration = Duration::from_secs(60);
/// Who has not been asked for anything in so long is not waited for any longer.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What fails at the moment, by name.
#[derive(Debug)]
pub struct TroubleLog<K> {
    state: Mutex<State<K>>,
    any: AtomicBool,
}

/// What is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// It begins to fail.
    Begins,
    /// So many things go on failing, and so often have all of them since the last line.
    GoesOn {
        /// Things that fail.
        failing: usize,
        /// Failures since the last line.
        failures: u64,
    },
    /// It is well again, after so many failures and so long.
    Recovered {
        /// Its failures.
        failures: u64,
        /// Since the first of them.
        after: Duration,
    },
    /// All is well again, also what was only counted.
    AllRecovered {
        /// Failures of all that were only counted.
        failures: u64,
    },
}

#[derive(Debug)]
struct State<K> {
    failing: BTreeMap<K, Failing>,
    /// Failures that no line has told of.
    untold: u64,
    /// Failures of things that have no line of their own.
    counted: u64,
    told: Instant,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    failures: u64,
    named: bool,
}

impl<K: Ord> TroubleLog<K> {
    /// Whether `what` fails, as far as it is kept in mind.
    pub fn fails(&self, what: &K) -> bool {
        self.any.load(Ordering::Acquire) && self.lock().failing.contains_key(what)
    }

    /// `what` failed. Says what is to be told of it, if anything.
    pub fn failed(&self, what: K, now: Instant) -> Option<Say> {
        let mut state = self.lock();
        self.any.store(true, Ordering::Release);
        state.failing.retain(|_, failing| now.saturating_duration_since(failing.last) < FORGOTTEN);
        let named = state.failing.values().filter(|failing| failing.named).count() < NAMED;
        let known = state.failing.len();
        match state.failing.get_mut(&what) {
            Some(failing) => {
                failing.last = now;
                failing.failures += 1;
                state.counted += u64::from(!failing.named);
            }
            None if named => {
                state.failing.insert(what, Failing { since: now, last: now, failures: 1, named });
                if known == 0 {
                    state.told = now;
                }
                return Some(Say::Begins);
            }
            None => {
                if known < KNOWN {
                    state.failing.insert(what, Failing { since: now, last: now, failures: 1, named });
                }
                state.counted += 1;
            }
        }
        state.untold += 1;
        if now.saturating_duration_since(state.told) < SUMMARY {
            return None;
        }
        state.told = now;
        Some(Say::GoesOn { failing: state.failing.len(), failures: std::mem::take(&mut state.untold) })
    }

    /// `what` did not fail. Costs nothing while nothing does.
    pub fn succeeded(&self, what: &K, now: Instant) -> Option<Say> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        let healed = state.failing.remove(what)?;
        let over = state.failing.is_empty();
        self.any.store(!over, Ordering::Release);
        if over {
            state.untold = 0;
        }
        let counted = if over { std::mem::take(&mut state.counted) } else { 0 };
        if healed.named {
            let after = now.saturating_duration_since(healed.since);
            return Some(Say::Recovered { failures: healed.failures, after });
        }
        (counted > 0).then_some(Say::AllRecovered { failures: counted })
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // A panic in between costs a line at most.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for TroubleLog<K> {
    fn default() -> Self {
        let state = State { failing: BTreeMap::new(), untold: 0, counted: 0, told: Instant::now() };
        Self { state: Mutex::new(state), any: AtomicBool::new(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_file_is_told_once_then_summed_up_and_its_recovery_told_once() {
        let (log, begun) = (TroubleLog::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(log.succeeded(&1, at(0)), None);
        assert_eq!(log.failed(1, at(0)), Some(Say::Begins));
        for second in 1..60 {
            assert_eq!(log.failed(1, at(second)), None);
        }
        assert_eq!(log.failed(1, at(60)), Some(Say::GoesOn { failing: 1, failures: 60 }));
        assert_eq!(log.failed(1, at(61)), None);
        assert_eq!(log.succeeded(&2, at(62)), None, "another file says nothing of it");
        let after = Duration::from_secs(70);
        assert_eq!(log.succeeded(&1, at(70)), Some(Say::Recovered { failures: 62, after }));
        assert_eq!(log.succeeded(&1, at(71)), None);
        assert_eq!(log.failed(1, at(72)), Some(Say::Begins));
    }

    #[test]
    fn a_thousand_files_are_a_few_lines_and_one_summary() {
        let (log, now) = (TroubleLog::default(), Instant::now());
        let said: Vec<_> = (0..1000).filter_map(|file| log.failed(file, now)).collect();
        assert_eq!(said, [Say::Begins; NAMED]);
        let later = now + SUMMARY;
        let failures = 1000 - NAMED as u64 + 1;
        assert_eq!(log.failed(500, later), Some(Say::GoesOn { failing: 1000, failures }));
        let recovered: Vec<_> = (0..1000).filter_map(|file| log.succeeded(&file, later)).collect();
        assert_eq!(recovered.len(), NAMED + 1, "{recovered:?}");
        assert_eq!(recovered.last(), Some(&Say::AllRecovered { failures }));
    }

    #[test]
    fn what_is_never_asked_for_again_is_forgotten_and_memory_is_bounded() {
        let (log, now) = (TroubleLog::default(), Instant::now());
        for file in 0..3 * KNOWN {
            log.failed(file, now);
        }
        assert_eq!(log.lock().failing.len(), KNOWN);
        assert_eq!(log.failed(7 * KNOWN, now + FORGOTTEN), Some(Say::Begins));
        assert_eq!(log.lock().failing.len(), 1);
    }
}
