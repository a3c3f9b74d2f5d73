//! How long a source may keep silent, or all but silent.
//!
//! Waiting takes from the patience and bytes give it back, at [`SLOWEST`] the second: a server that drips is given up
//! like one that says nothing. Time that its reader spends on something else costs a server nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second below which a source is as good as silent: one span of usual size takes ten seconds then.
const SLOWEST: f64 = 16.0 * 1024.0;

/// What is left of the patience with one answer.
pub(crate) struct Patience {
    whole: Duration,
    left: Duration,
}

impl Patience {
    pub(crate) fn new(whole: Duration) -> Self {
        Self { whole, left: whole }
    }

    /// Until when to wait, beginning now.
    pub(crate) fn ends(&self, now: Instant) -> Instant {
        now + self.left
    }

    /// Takes what was waited, and gives back what the bytes are worth.
    pub(crate) fn spend(&mut self, waited: Duration, bytes: usize) {
        let bought = Duration::from_secs_f64(bytes as f64 / SLOWEST);
        self.left = self.left.saturating_sub(waited).saturating_add(bought).min(self.whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dripping_wears_it_out_and_a_slow_line_does_not() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let (mut drip, mut slow) = (Patience::new(8 * second), Patience::new(8 * second));
        for _ in 0..8 {
            drip.spend(second, 10);
            slow.spend(second, 16 << 10);
        }
        assert!(drip.ends(now) < now + second / 10);
        assert_eq!(slow.ends(now), now + 8 * second);
    }
}
