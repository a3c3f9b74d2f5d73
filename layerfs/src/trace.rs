//! What happens on a node, in the order in which it does: steps that are taken, what readers touch, what is fetched.
//!
//! It shows where the time of a start went, and what a start touches: path, extent, order and time. Whoever wants to
//! know switches it on and takes the events away every so often; what is not taken in time is counted as lost, so memory is
//! bounded. Off, it is a look at a pointer, and nothing is made that it would have told.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jaunt_formats::Digest;

use crate::class::Class;

/// Events that wait to be taken: 10 MB of them.
const MOST: usize = 1 << 16;

/// Where events go, or nowhere. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Mutex<Waiting>>>);

#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    lost: u64,
}

/// Something that has taken its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Something was done.
    Step {
        /// Of what kind.
        name: &'static str,
        /// To what.
        subject: String,
    },
    /// A reader asked for a part of a file. The kernel keeps what it was given: so that is, but for what it has had to
    /// forget, the first touch.
    Touch {
        /// The mount, by its name in messages.
        mount: Arc<str>,
        /// The file.
        inode: u64,
        /// The part of it.
        extent: Range<u64>,
        /// Whether he waited for something to be fetched.
        missed: bool,
    },
    /// A range of a blob arrived.
    Fetch {
        /// The blob.
        blob: Digest,
        /// The range.
        range: Range<u64>,
        /// How urgent it was when it began.
        class: Class,
    },
}

impl Trace {
    /// One that keeps what it is told.
    pub fn on() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether anybody wants to know.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a step, which ends when what is returned goes. `subject` is asked only if anybody wants to know.
    #[must_use]
    pub fn step(&self, name: &'static str, subject: impl FnOnce() -> String) -> Step {
        Step(self.is_on().then(|| (self.clone(), Begun::now(), name, subject())))
    }

    /// The beginning of something that may be told later; `None` if nobody wants to know.
    pub fn begin(&self) -> Option<Begun> {
        self.is_on().then(Begun::now)
    }

    /// Tells what has ended by now.
    pub fn end(&self, begun: Option<Begun>, what: impl FnOnce() -> What) {
        let (Some(waiting), Some(Begun { at, from })) = (&self.0, begun) else { return };
        let event = Event { at, took: from.elapsed(), what: what() };
        let mut waiting = lock(waiting);
        match waiting.events.len() < MOST {
            true => waiting.events.push(event),
            false => waiting.lost += 1,
        }
    }

    /// Takes away what there is, in the order in which it ended; and how many events were lost before that.
    pub fn take(&self) -> (Vec<Event>, u64) {
        let Some(waiting) = &self.0 else { return Default::default() };
        let mut waiting = lock(waiting);
        (std::mem::take(&mut waiting.events), std::mem::take(&mut waiting.lost))
    }
}

/// When something began.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    at: SystemTime,
    from: Instant,
}

impl Begun {
    fn now() -> Self {
        Self { at: SystemTime::now(), from: Instant::now() }
    }
}

/// A step that is under way.
#[derive(Debug)]
pub struct Step(Option<(Trace, Begun, &'static str, String)>);

impl Drop for Step {
    fn drop(&mut self) {
        if let Some((trace, begun, name, subject)) = self.0.take() {
            trace.end(Some(begun), || What::Step { name, subject });
        }
    }
}

/// A list and a number, sound wherever a panic strikes.
fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Trace {}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Trace(on)" } else { "Trace(off)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_nothing_is_asked_and_nothing_kept() {
        let trace = Trace::default();
        drop(trace.step("a", || panic!("nobody wants to know")));
        assert!(trace.begin().is_none());
        trace.end(None, || panic!("nobody wants to know"));
        assert_eq!(trace.take(), (Vec::new(), 0));
    }

    #[test]
    fn what_is_told_is_taken_once_in_order_and_no_more_than_fits_is_kept() {
        let trace = Trace::on();
        let outer = trace.step("outer", || "x".to_owned());
        drop(trace.clone().step("inner", String::new));
        drop(outer);
        let (events, lost) = trace.take();
        let names = events.iter().map(|event| match &event.what {
            What::Step { name, .. } => *name,
            other => panic!("{other:?}"),
        });
        assert_eq!((names.collect::<Vec<_>>(), lost), (vec!["inner", "outer"], 0));
        assert!(events[1].at <= events[0].at && events[1].took >= events[0].took);
        for _ in 0..MOST + 3 {
            drop(trace.step("many", String::new));
        }
        let (events, lost) = trace.take();
        assert_eq!((events.len(), lost), (MOST, 3));
        assert_eq!(trace.take(), (Vec::new(), 0));
    }
}
