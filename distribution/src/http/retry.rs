//! When to try again: after failures of the network, 429, 408 and the 5xx that pass.
//!
//! Pauses grow threefold and are jittered, so that the nodes of a cluster do not return in step. A
//! server's `Retry-After` replaces the pause; one longer than the limit ends the tries.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use crate::limits;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The tries left for one request.
pub(crate) struct Backoff {
    left: u32,
    pause: Duration,
    /// The longest pause that a server may ask for.
    longest: Duration,
}

impl Backoff {
    /// For a request tried `attempts` times in all.
    pub(crate) fn new(attempts: u32) -> Self {
        Self { left: attempts.saturating_sub(1), pause: FIRST_PAUSE, longest: limits::RETRY_AFTER }
    }

    /// The same where a server may ask for a pause of `longest` at most.
    pub(crate) fn with_longest(self, longest: Duration) -> Self {
        Self { longest: longest.min(self.longest), ..self }
    }

    /// How long to wait before the next try, or `None` when there is none.
    pub(crate) fn after_failure(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.pause;
        self.pause = (pause * 3).min(LONGEST_PAUSE);
        Some(jittered(pause))
    }

    /// The same after an answer; `None` also when the answer is final.
    pub(crate) fn after_answer(&mut self, response: &Response) -> Option<Duration> {
        if !passes(response.status()) {
            return None;
        }
        let pause = self.after_failure()?;
        match retry_after(response.headers()) {
            Some(asked) if asked > self.longest => None,
            Some(asked) => Some(asked),
            None => Some(pause),
        }
    }
}

/// Whether a status tells of a trouble that may be over soon.
pub(crate) fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long a server wants to be left alone, in seconds or by an HTTP date, where it says so.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(Timestamp::now())).unwrap_or_default())
}

/// Between half of a pause and the whole. The standard library's hasher keys are the randomness.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() >> 32;
    let half = pause / 2;
    half + half.mul_f64(random as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = Backoff::new(3);
        let first = backoff.after_failure().unwrap();
        let second = backoff.after_failure().unwrap();
        assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&first), "{first:?}");
        assert!((Duration::from_millis(150)..=Duration::from_millis(300)).contains(&second), "{second:?}");
        assert_eq!(backoff.after_failure(), None);
        assert_eq!(Backoff::new(0).after_failure(), None);
    }

    #[test]
    fn reads_seconds_and_dates() {
        let header = |text| (RETRY_AFTER, HeaderValue::from_static(text));
        let read = |text: &'static str| retry_after(&HeaderMap::from_iter([header(text)]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(read("Wed, 21 Oct 2195 07:28:00 GMT").unwrap() > limits::RETRY_AFTER);
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
    }
}
