//! How many bytes to have under way from one host at a time.
//!
//! Too few, and the line idles for a round trip between requests; too many, and the next reader's bytes queue behind
//! them. What fills the line is its rate times the round trip, and both are seen from here:
//!
//! - the round trip is the least time from a request to its first byte, over the last [`MEMORY`];
//! - the rate is the highest at which bytes came while some request was under way, over the same time: what all
//!   requests received from when this one was sent until now, by the time that took.
//!
//! The window is [`GAIN`] times the product of the two. While the line has room, twice the bytes under way come at
//! twice the rate, and the window doubles with every round trip; once it is full, the rate stays and so does the window.
//! A failure takes half of the rate back. (The idea is BBR's, without its probing for a shorter round trip: a request's
//! first byte is one each time.)
//!
//! A request may start while less than a window is under way, so that one is always on its way before the line falls
//! idle. No I/O, no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// How far estimates look back: twice this at most.
const MEMORY: Duration = Duration::from_secs(5);
/// Once for the bytes on their way here, once for the requests on their way there.
const GAIN: f64 = 2.0;
/// Two spans of usual size: one being decoded, one on the line.
const LEAST: u64 = 512 << 10;
/// 10 Gbit/s over 6 ms, and what the memory bar leaves room for.
const MOST: u64 = 16 << 20;
/// Before anything is known: what slow start would allow, in spans of usual size.
const FIRST: u64 = 1 << 20;

/// Estimates for one host.
#[derive(Debug, Default)]
pub(crate) struct Window {
    delivered: u64,
    /// Bytes a second.
    rate: Extreme,
    /// Seconds. Kept as its negative, so that the highest is the shortest.
    round_trip: Extreme,
}

/// When a request was sent, and how much had come by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    at: Instant,
    delivered: u64,
}

impl Window {
    /// Notes that a request is sent.
    pub(crate) fn sent(&self, now: Instant) -> Sent {
        Sent { at: now, delivered: self.delivered }
    }

    /// Notes that the first byte of a request's answer came.
    pub(crate) fn answered(&mut self, sent: &Sent, now: Instant) {
        self.round_trip.note(-(now - sent.at).as_secs_f64(), now);
    }

    /// Notes that bytes of a request's answer came.
    pub(crate) fn delivered(&mut self, sent: &Sent, bytes: u64, now: Instant) {
        self.delivered += bytes;
        let took = (now - sent.at).as_secs_f64();
        if took > 0.0 {
            self.rate.note((self.delivered - sent.delivered) as f64 / took, now);
        }
    }

    /// Notes that a request failed.
    pub(crate) fn failed(&mut self) {
        self.rate.halve();
    }

    /// Bytes to have under way.
    pub(crate) fn bytes(&self) -> u64 {
        self.per_round_trip().map_or(FIRST, |product| bytes(GAIN * product).clamp(LEAST, MOST))
    }

    /// Bytes that come in one round trip; none before anything is known.
    pub(crate) fn round_trip(&self) -> u64 {
        self.per_round_trip().map_or(0, bytes)
    }

    fn per_round_trip(&self) -> Option<f64> {
        Some(self.rate.highest()? * -self.round_trip.highest()?)
    }
}

/// A float becomes the nearest integer there is, and never less than 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn bytes(float: f64) -> u64 {
    float as u64
}

/// The highest of the values noted of late: of this stretch of [`MEMORY`] and the one before.
#[derive(Debug, Default)]
struct Extreme {
    since: Option<Instant>,
    current: Option<f64>,
    before: Option<f64>,
}

impl Extreme {
    fn note(&mut self, value: f64, now: Instant) {
        let age = self.since.map_or(Duration::ZERO, |since| now - since);
        if self.since.is_none() || age >= MEMORY {
            self.before = self.current.take().filter(|_| age < 2 * MEMORY);
            self.since = Some(now);
        }
        self.current = Some(self.current.map_or(value, |highest| highest.max(value)));
    }

    fn halve(&mut self) {
        for value in [&mut self.current, &mut self.before].into_iter().flatten() {
            *value /= 2.0;
        }
    }

    fn highest(&self) -> Option<f64> {
        match (self.current, self.before) {
            (Some(current), Some(before)) => Some(current.max(before)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(of: f64) -> Duration {
        Duration::from_secs_f64(of)
    }

    /// Requests of `len` bytes over a line of `rate` bytes a second and `round_trip`, as many as the window allows:
    /// the rate reached, and the longest queue met, both once the window has settled.
    fn simulate(rate: f64, round_trip: f64, len: u64) -> (f64, f64) {
        let begun = Instant::now();
        let (mut window, mut now, mut line_free, mut under_way) = (Window::default(), 0.0, 0.0_f64, 0);
        // Answers in order: when the first byte is here, when the last.
        let mut answers: std::collections::VecDeque<(f64, f64, Sent)> = Default::default();
        let (settled, end) = (1.0 + 20.0 * round_trip, 3.0 + 60.0 * round_trip);
        let (mut received, mut longest) = (0.0, 0.0_f64);
        while now < end {
            while under_way < window.bytes() || under_way == 0 {
                let start = (now + round_trip).max(line_free);
                line_free = start + len as f64 / rate;
                answers.push_back((start, line_free, window.sent(begun + seconds(now))));
                under_way += len;
            }
            let (first, last, sent) = answers.pop_front().unwrap();
            now = last;
            window.answered(&sent, begun + seconds(first.max(0.000_001)));
            window.delivered(&sent, len, begun + seconds(now));
            under_way -= len;
            if now > settled {
                received += len as f64;
                longest = longest.max(line_free - now);
            }
        }
        (received / (now - settled) / rate, longest)
    }

    #[test]
    fn fills_the_line_and_queues_no_more_than_about_a_round_trip_on_it() {
        let megabyte = 1_000_000.0;
        for (rate, round_trip) in
            [(125.0, 0.0005), (125.0, 0.01), (125.0, 0.05), (1250.0, 0.005), (12.5, 0.05), (2.0, 0.2)]
        {
            let (rate, len) = (rate * megabyte, 200_000);
            let (reached, queued) = simulate(rate, round_trip, len);
            assert!(reached > 0.95, "{reached} of {rate} B/s at {round_trip} s");
            let least = (LEAST + len) as f64 / rate;
            assert!(
                queued <= least.max(3.2 * round_trip),
                "{queued} s queued at {rate} B/s and {round_trip} s"
            );
        }
    }

    #[test]
    fn the_window_is_bounded_and_a_failure_halves_it() {
        let (mut window, now) = (Window::default(), Instant::now());
        assert_eq!(window.bytes(), FIRST);
        assert_eq!(window.round_trip(), 0);
        let sent = window.sent(now);
        window.answered(&sent, now + seconds(0.01));
        window.delivered(&sent, 4_000_000, now + seconds(0.02));
        assert_eq!((window.bytes(), window.round_trip()), (4_000_000, 2_000_000));
        window.failed();
        assert_eq!(window.bytes(), 2_000_000);
        (0..20).for_each(|_| window.failed());
        assert_eq!(window.bytes(), LEAST);
        window.delivered(&sent, 4_000_000_000, now + seconds(0.03));
        assert_eq!(window.bytes(), MOST);
    }

    #[test]
    fn estimates_are_of_late() {
        let (mut window, now) = (Window::default(), Instant::now());
        let sent = window.sent(now);
        window.answered(&sent, now + seconds(0.001));
        window.delivered(&sent, 100_000_000, now + seconds(1.0));
        for second in 2..14 {
            let at = now + seconds(f64::from(second));
            let sent = window.sent(at);
            window.answered(&sent, at + seconds(0.1));
            window.delivered(&sent, 1_000_000, at + seconds(0.5));
        }
        assert_eq!(window.round_trip.highest(), Some(-0.1));
        assert_eq!(window.bytes(), LEAST, "0.1 s of 2 MB/s, twice");
        assert_eq!(window.round_trip(), 200_000);
    }
}
