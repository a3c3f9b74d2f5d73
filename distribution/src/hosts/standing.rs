//! Which hosts are in trouble: a mirror that does not answer is not asked first, for a while.
//!
//! ```text
//! good --fell--> resting (1 s, then twice as long each time, a minute at most) --time--> good
//!   \<--------------------------------rose-------------------------------------------/
//! ```
//!
//! One that answers and then keeps silent rises with every answer. Who was left waiting for the rest says so, and it rests for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Of a host that kept somebody waiting for what it had begun to send.
const REST_OF_SILENT: Duration = Duration::from_secs(300);

/// How a host has answered of late. Clones share it, and so it outlives a reading of the settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The last rest, while no call has gone well since.
    rest: Option<(Instant, Duration)>,
}

impl Standing {
    /// Whether others are to be asked first.
    pub(crate) fn rests(&self) -> bool {
        self.lock().rest.is_some_and(|(began, rest)| began.elapsed() < rest)
    }

    /// A call failed that another host may answer. `true` when that begins a first rest.
    pub(crate) fn fell(&self) -> bool {
        let mut state = self.lock();
        let (first, rest) = match state.rest {
            None => (true, FIRST_REST),
            // Calls that were on their way together fail together: that is one fall.
            Some((began, rest)) if began.elapsed() < rest => return false,
            Some((_, rest)) => (false, (rest * 2).min(LONGEST_REST)),
        };
        state.rest = Some((Instant::now(), rest));
        first
    }

    /// Whether it has fallen since that moment, and not risen.
    pub(crate) fn fell_after(&self, moment: Instant) -> bool {
        self.lock().rest.is_some_and(|(began, _)| began > moment)
    }

    /// Somebody gave up waiting for it.
    pub(crate) fn kept_silent(&self) {
        self.lock().rest = Some((Instant::now(), REST_OF_SILENT));
    }

    /// A call went well.
    pub(crate) fn rose(&self) {
        self.lock().rest = None;
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
        assert_eq!(standing.lock().rest.map(|(_, rest)| rest), Some(FIRST_REST));
        clone.rose();
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
            let rest = standing.lock().rest.unwrap().1;
            rests.push(rest.as_secs());
            standing.lock().rest = Some((past, rest));
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
