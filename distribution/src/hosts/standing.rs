//! Which hosts are in trouble: a mirror that does not answer is not asked first, for a while.
//!
//! ```text
//! good --fell--> resting (1 s, then twice as long each time, a minute at most) --time--> good
//!   \<--------------------------------rose-------------------------------------------/
//! ```
//!
//! One that answers and then keeps silent rises with every answer: whoever was left waiting for the rest says so, and it rests for long.
//! Answers to what was asked before do not end that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Of a host that kept somebody waiting until he gave up.
const REST_OF_SILENT: Duration = Duration::from_secs(300);

/// How a host has answered of late. Clones share it, and so it outlives a reading of the settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The last rest, while no call has gone well since.
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    began: Instant,
    length: Duration,
}

impl Rest {
    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.length
    }

    /// One for silence has nothing to say of the next.
    fn next(self) -> Option<Duration> {
        (self.length != REST_OF_SILENT).then(|| (self.length * 2).min(LONGEST_REST))
    }
}

impl Standing {
    /// Whether others are to be asked first.
    pub(crate) fn rests(&self) -> bool {
        self.lock().rest.is_some_and(|rest| !rest.is_over())
    }

    /// A call failed that another host may answer. `true` when that begins a first rest.
    pub(crate) fn fell(&self) -> bool {
        let mut state = self.lock();
        // Calls that were on their way together fail together: that is one fall.
        if state.rest.is_some_and(|rest| !rest.is_over()) {
            return false;
        }
        let next = state.rest.and_then(Rest::next);
        state.rest = Some(Rest { began: Instant::now(), length: next.unwrap_or(FIRST_REST) });
        next.is_none()
    }

    /// Somebody gave up waiting for it. `true` when it does not rest for that already.
    pub(crate) fn kept_silent(&self) -> bool {
        let mut state = self.lock();
        let known = state.rest.is_some_and(|rest| rest.length == REST_OF_SILENT && !rest.is_over());
        state.rest = Some(Rest { began: Instant::now(), length: REST_OF_SILENT });
        !known
    }

    /// The others keep silent as well.
    pub(crate) fn may_be_asked_again(&self) {
        let mut state = self.lock();
        state.rest = state.rest.filter(|rest| rest.length != REST_OF_SILENT);
    }

    /// A call went well that began at that moment.
    pub(crate) fn rose(&self, begun: Instant) {
        let mut state = self.lock();
        state.rest = state.rest.filter(|rest| rest.began > begun);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_together_are_one_and_good_answers_end_them() {
        let (standing, same) = (Standing::default(), Standing::default());
        let clone = standing.clone();
        assert!(!standing.rests());
        assert!(standing.fell() && !clone.fell());
        assert!(clone.rests() && !same.rests());
        assert_eq!(standing.lock().rest.map(|rest| rest.length), Some(FIRST_REST));
        clone.rose(Instant::now());
        assert!(!standing.rests() && standing.fell());
    }

    #[test]
    fn rests_grow_up_to_a_minute() {
        let standing = Standing::default();
        let past = Instant::now().checked_sub(Duration::from_secs(100));
        // A machine that has been up for less than that has no such instant.
        let Some(past) = past else { return };
        let mut rests = Vec::new();
        for _ in 0..8 {
            standing.fell();
            let rest = standing.lock().rest.unwrap();
            rests.push(rest.length.as_secs());
            standing.lock().rest = Some(Rest { began: past, ..rest });
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn who_keeps_silent_rests_for_long_unless_the_others_do_as_well() {
        let (standing, begun) = (Standing::default(), Instant::now());
        assert!(standing.kept_silent() && !standing.kept_silent(), "it is told of once");
        // What was asked before is answered now, and what was asked with it fails.
        standing.rose(begun);
        assert!(!standing.fell() && standing.rests());
        standing.may_be_asked_again();
        assert!(!standing.rests() && standing.fell(), "and falls as one that never did");
        standing.may_be_asked_again();
        assert!(standing.rests(), "that was no silence");
        standing.rose(Instant::now());
        assert!(!standing.rests());
    }
}
