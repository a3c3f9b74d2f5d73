//! Which source is asked next, and what is done when all have been.
//!
//! Every source is asked once in a round, those of a host in passing trouble once in all: each would cost the full wait.
//! Hosts that kept silent towards others of late are asked last, and those that want to be left alone are not asked.
//! After a round in which trouble may pass, there is another one after a pause, as long as anybody waits. After one in
//! which every answer was final there is one more, at once: then it is an error.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::Digest;
use tokio::time::Instant;

use super::lane::Standing;
use crate::read_error::{ReadError, ReadErrors};
use crate::source::{Source, SourceError, SourceSet, Trouble};

/// Pauses between rounds: this, then each three times as long, to a limit: readers notice at once when a registry is back.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Rounds in which all answers were final.
const FINAL_ROUNDS: u32 = 2;

/// Where a fetch is in its rounds.
pub(super) struct Round {
    asked: HashSet<String>,
    in_trouble: HashSet<String>,
    /// A source to ask once more before all others.
    again: Option<Arc<dyn Source>>,
    /// Whether some trouble of this round may pass.
    may_pass: bool,
    /// Who said in this round that it does not have the blob, or not in ranges.
    gone: Option<ReadErrors>,
    finals: u32,
    pause: Duration,
    last: Option<ReadErrors>,
}

/// What to do next.
pub(super) enum Next {
    /// Ask this source.
    Ask(Arc<dyn Source>),
    /// Wait, then ask again what is next. Where somebody said that it does not have the blob in ranges, waiting for the others is
    /// not all that can be done.
    Wait { pause: Duration, gone: Option<ReadErrors> },
    /// There is no use.
    GiveUp(ReadErrors),
}

impl Round {
    pub(super) fn new() -> Self {
        Self {
            asked: HashSet::new(),
            in_trouble: HashSet::new(),
            again: None,
            may_pass: false,
            gone: None,
            finals: 0,
            pause: FIRST_PAUSE,
            last: None,
        }
    }

    /// The next source to ask for `blob`, or what else there is to do, where hosts stand as `standing` says.
    pub(super) fn next(
        &mut self,
        sources: &SourceSet,
        blob: &Digest,
        standing: impl Fn(&str) -> Standing,
    ) -> Next {
        if let Some(source) = self.again.take() {
            return Next::Ask(source);
        }
        let (mut next, mut rested) = (None, None);
        let left = |source: &Arc<dyn Source>| {
            !self.asked.contains(source.name()) && !self.in_trouble.contains(source.host())
        };
        for source in sources.order(blob).into_iter().filter(left) {
            match standing(source.host()) {
                Standing::Well => {
                    next = Some(source);
                    break;
                }
                Standing::Silent => next = next.or(Some(source)),
                Standing::Rests(until) => {
                    rested = Some(rested.map_or(until, |first: Instant| first.min(until)))
                }
            }
        }
        if let Some(source) = next {
            self.asked.insert(source.name().to_owned());
            return Next::Ask(source);
        }
        self.asked.clear();
        self.in_trouble.clear();
        let gone = self.gone.take();
        if std::mem::take(&mut self.may_pass) {
            return Next::Wait { pause: self.pause(), gone };
        }
        if let Some(rested) = rested {
            return Next::Wait { pause: rested - Instant::now(), gone };
        }
        self.finals += 1;
        if self.finals < FINAL_ROUNDS && self.last.is_some() {
            return Next::Wait { pause: Duration::ZERO, gone: None };
        }
        Next::GiveUp(self.last.take().unwrap_or_else(|| nobody(blob)))
    }

    /// How long to wait before the next round.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = jittered(self.pause);
        self.pause = (self.pause * 3).min(LONGEST_PAUSE);
        pause
    }

    /// Asks a source once more, without holding anything against it.
    pub(super) fn again(&mut self, source: Arc<dyn Source>) {
        self.again = Some(source);
    }

    /// Takes back that a source was to be asked.
    pub(super) fn was_not_asked(&mut self, source: &dyn Source) {
        self.asked.remove(source.name());
    }

    /// Notes that a source did not give what it was asked for.
    pub(super) fn failed(&mut self, source: &dyn Source, error: Arc<SourceError>) {
        if error.trouble.may_pass() {
            self.may_pass = true;
            self.in_trouble.insert(source.host().to_owned());
        }
        let trouble = error.trouble;
        let error = ReadErrors::from(ReadError::Source(error));
        if matches!(trouble, Trouble::Whole | Trouble::Gone) {
            self.gone = Some(error.clone());
        }
        self.last = Some(error);
    }
}

fn nobody(blob: &Digest) -> ReadErrors {
    let cause = "no repository is known to hold it".into();
    let (place, range) = ("anywhere".to_owned(), 0..0);
    let error = SourceError { place, blob: *blob, range, trouble: Trouble::Gone, cause };
    ReadErrors::from(ReadError::Source(Arc::new(error)))
}

/// Between half of a pause and the whole, so that nodes do not return in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() >> 32;
    pause / 2 + (pause / 2).mul_f64(random as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemorySource;

    fn error(trouble: Trouble) -> Arc<SourceError> {
        let (place, cause) = ("x".to_owned(), "y".into());
        Arc::new(SourceError { place, blob: Digest::of(b""), range: 0..1, trouble, cause })
    }

    /// What a fetch does that meets `trouble` everywhere: sources asked, and pauses.
    fn steps(names: &[&str], trouble: Trouble, limit: usize) -> Vec<String> {
        let (set, mut round, mut steps) = (SourceSet::default(), Round::new(), Vec::new());
        for name in names {
            set.learn(&(Arc::new(MemorySource::named(name, [])) as Arc<dyn Source>));
        }
        while steps.len() < limit {
            match round.next(&set, &Digest::of(b""), |_| Standing::Well) {
                Next::Ask(source) => {
                    steps.push(source.name().to_owned());
                    round.failed(&*source, error(trouble));
                }
                Next::Wait { pause, .. } if pause.is_zero() => {}
                Next::Wait { .. } => steps.push("pause".to_owned()),
                Next::GiveUp(_) => {
                    steps.push("give up".to_owned());
                    break;
                }
            }
        }
        steps
    }

    #[test]
    fn trouble_that_may_pass_is_waited_for_and_final_answers_are_asked_for_twice() {
        assert_eq!(steps(&["a", "b"], Trouble::Silent, 7), ["a", "b", "pause", "a", "b", "pause", "a"]);
        for trouble in [Trouble::Refused, Trouble::Gone, Trouble::Wrong] {
            assert_eq!(steps(&["a", "b"], trouble, 9), ["a", "b", "a", "b", "give up"]);
        }
        assert_eq!(steps(&[], Trouble::Gone, 9), ["give up"]);
    }

    #[test]
    fn who_was_silent_is_asked_last_and_who_rests_is_waited_for_where_nobody_else_is_left() {
        let (set, mut round) = (SourceSet::default(), Round::new());
        for name in ["rests", "silent", "well"] {
            set.learn(&(Arc::new(MemorySource::named(name, [])) as Arc<dyn Source>));
        }
        let until = Instant::now() + Duration::from_secs(9);
        let standing = |host: &str| match host {
            "rests" => Standing::Rests(until),
            "silent" => Standing::Silent,
            _ => Standing::Well,
        };
        for name in ["well", "silent"] {
            let Next::Ask(source) = round.next(&set, &Digest::of(b""), standing) else { panic!("{name}") };
            assert_eq!(source.name(), name);
            round.failed(&*source, error(Trouble::Gone));
        }
        let Next::Wait { pause, gone } = round.next(&set, &Digest::of(b""), standing) else { panic!() };
        assert!(pause > Duration::from_secs(8) && gone.is_some());
    }
}
