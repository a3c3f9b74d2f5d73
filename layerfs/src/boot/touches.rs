//! What a start touches first, noted as its reads arrive.
//!
//! Only reads that reach this process are seen: what is in the page cache, or in a mount that the kernel reads by itself, is
//! not, and the kernel's read-ahead makes ranges larger than what a program asked for. So a trace is as good as the cache was
//! cold and the read-ahead small ([`crate::fuse::ReadAhead`]).
//!
//! A container is made by programs that look into it (for its users' names) long before its own is read: only then can it come to rest.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jaunt_formats::boot::MAX_TOUCHES;

/// When noting ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchLimits {
    /// Without a new touch for so long, the start is over, once a program has been read.
    pub settled: Duration,
    /// So long after the first touch, noting ends whatever comes.
    pub longest: Duration,
}

/// The first touches of one mount.
pub struct FirstTouches {
    limits: TouchLimits,
    over: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: Option<(Instant, SystemTime)>,
    /// Whether a program has been read.
    runs: bool,
    last: Option<Instant>,
    /// What has been touched of each inode: sorted, no two meet.
    seen: HashMap<u64, Vec<Range<u64>>>,
    noted: Vec<Noted>,
}

/// A range of a file that was touched for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The file's inode number.
    pub inode: u64,
    /// The range.
    pub range: Range<u64>,
    /// When, after the first touch of all.
    pub after: Duration,
}

/// A start that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// When the first touch was.
    pub at: SystemTime,
    /// Whether touches came to rest by themselves.
    pub settled: bool,
    /// Them.
    pub touches: Vec<Noted>,
}

impl FirstTouches {
    /// Nothing touched.
    pub fn new(limits: TouchLimits) -> Self {
        Self { limits, over: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Notes a read of a file that is a program, or not. Costs a look at a flag once the start is over.
    pub(crate) fn note(&self, inode: u64, range: Range<u64>, is_program: impl FnOnce() -> bool) {
        if range.is_empty() || self.over.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let mut state = self.lock();
        let (begun, _) = *state.begun.get_or_insert_with(|| (now, SystemTime::now()));
        state.runs = state.runs || is_program();
        for range in add(state.seen.entry(inode).or_default(), range) {
            state.last = Some(now);
            state.noted.push(Noted { inode, range, after: now - begun });
        }
        if state.noted.len() >= MAX_TOUCHES {
            self.over.store(true, Ordering::Relaxed);
        }
    }

    /// The start, once it is over; `None` before, and for who asks again.
    pub fn take_over(&self) -> Option<Start> {
        let mut state = self.lock();
        let ((begun, at), last) = (state.begun?, state.last?);
        let settled = state.runs && last.elapsed() >= self.limits.settled;
        let is_over = settled || begun.elapsed() >= self.limits.longest || self.over.load(Ordering::Relaxed);
        if !is_over {
            return None;
        }
        self.over.store(true, Ordering::Relaxed);
        let State { mut noted, .. } = std::mem::take(&mut *state);
        noted.truncate(MAX_TOUCHES);
        Some(Start { at, settled, touches: noted })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic could leave is a touch noted without its range: it is noted again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a range to what has been seen; the parts of it that are new.
fn add(seen: &mut Vec<Range<u64>>, range: Range<u64>) -> Vec<Range<u64>> {
    let first = seen.partition_point(|known| known.end < range.start);
    let last = seen.partition_point(|known| known.start <= range.end);
    let (mut new, mut at) = (Vec::new(), range.start);
    let mut joined = range.clone();
    for known in &seen[first..last] {
        if known.start > at {
            new.push(at..known.start);
        }
        at = at.max(known.end);
        joined = joined.start.min(known.start)..joined.end.max(known.end);
    }
    if at < range.end {
        new.push(at..range.end);
    }
    seen.splice(first..last, [joined]);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_of_a_range_is_noted() {
        let mut seen = Vec::new();
        type Case = (Range<u64>, &'static [(u64, u64)]);
        let cases: [Case; 7] = [
            (10..20, &[(10, 20)]),
            (30..40, &[(30, 40)]),
            (12..18, &[]),
            (15..35, &[(20, 30)]),
            (10..40, &[]),
            (0..50, &[(0, 10), (40, 50)]),
            (60..61, &[(60, 61)]),
        ];
        for (range, new) in cases {
            let added: Vec<_> =
                add(&mut seen, range.clone()).iter().map(|new| (new.start, new.end)).collect();
            assert_eq!(added, new, "{range:?}");
        }
        assert_eq!(seen, [0..50, 60..61]);
    }

    #[test]
    fn a_start_is_over_when_touches_rest_and_is_told_once() {
        let limits = |settled| TouchLimits { settled, longest: Duration::from_secs(600) };
        let touches = FirstTouches::new(limits(Duration::from_secs(600)));
        assert_eq!(touches.take_over(), None);
        touches.note(7, 0..4096, || true);
        assert_eq!(touches.take_over(), None, "it goes on");
        let touches = FirstTouches::new(limits(Duration::ZERO));
        assert_eq!(touches.take_over(), None, "it has not begun");
        touches.note(7, 0..4096, || false);
        assert_eq!(touches.take_over(), None, "no program has been read");
        touches.note(9, 5..10, || true);
        touches.note(7, 0..4096, || false);
        let start = touches.take_over().unwrap();
        let noted: Vec<_> = start.touches.iter().map(|noted| (noted.inode, noted.range.clone())).collect();
        assert!(start.settled && noted == [(7, 0..4096), (9, 5..10)]);
        touches.note(8, 0..1, || true);
        assert_eq!(touches.take_over(), None, "it is over");
        let longest = TouchLimits { settled: Duration::from_secs(600), longest: Duration::ZERO };
        let touches = FirstTouches::new(longest);
        touches.note(7, 0..4096, || false);
        assert!(!touches.take_over().unwrap().settled);
    }
}
