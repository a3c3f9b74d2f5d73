//! Who reads a file in sequence, and how far ahead of him to fetch.
//!
//! There is no OPEN and so no handle: a stream is an inode and the offset where its last read ended. The kernel has several
//! reads of one reader in flight, which arrive in any order, each of 1 MiB at most: a read that close to where a stream is
//! belongs to it. Once [`ENOUGH`] has been read in sequence, what follows is asked for, [`FIRST`] of it and then twice as
//! much each time a quarter of that has been read, up to what fills the line. Reads here and there begin a stream each, and
//! none of those ever has enough.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{AbortHandle, abortable};

/// Bytes read in sequence before anything is fetched ahead: more than the kernel's own first read of a file.
const ENOUGH: u64 = 256 << 10;
/// The first window, and the least that the largest may be.
const FIRST: u64 = 1 << 20;
/// How far a read may be from where its stream is.
const SLACK: u64 = 1 << 20;
/// Streams remembered, least recently used last.
const STREAMS: usize = 32;

/// The streams of one mount.
pub(crate) struct Streams {
    recent: Mutex<VecDeque<Stream>>,
    /// The largest window, in bytes of a file.
    most: AtomicU64,
}

struct Stream {
    inode: u64,
    next: u64,
    read: u64,
    window: u64,
    asked: u64,
    /// What is being fetched ahead.
    fetches: VecDeque<Fetching>,
}

/// A fetch ahead of a reader, which stops when this is dropped.
struct Fetching {
    end: u64,
    handle: AbortHandle,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self { recent: Mutex::default(), most: AtomicU64::new(4 * FIRST) }
    }
}

impl Streams {
    /// Notes a read; what to fetch ahead of it, which may lie beyond the file.
    pub(crate) fn note(&self, inode: u64, range: Range<u64>) -> Option<Range<u64>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let near = |stream: &Stream| stream.inode == inode && stream.next.abs_diff(range.start) <= SLACK;
        let found = recent.iter().position(near).and_then(|at| recent.remove(at));
        let mut stream = found.unwrap_or_else(|| Stream::new(inode, range.start));
        let ahead = stream.advance(&range, self.most.load(Ordering::Relaxed));
        recent.push_front(stream);
        recent.truncate(STREAMS);
        ahead
    }

    /// What `fetch`es up to `end` of a file, for as long as its reader is a stream and has not come so far.
    pub(crate) fn fetching<F: Future<Output = ()> + Send>(
        &self,
        inode: u64,
        end: u64,
        fetch: F,
    ) -> impl Future<Output = ()> + Send + use<F> {
        let (fetch, handle) = abortable(fetch);
        let fetching = Fetching { end, handle };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = recent.iter_mut().find(|stream| stream.inode == inode && stream.asked == end) {
            stream.fetches.push_back(fetching);
        }
        fetch.map(drop)
    }

    /// Sets how much is worth having ahead of a reader.
    pub(crate) fn set_most(&self, bytes: u64) {
        self.most.store(bytes.max(FIRST), Ordering::Relaxed);
    }
}

impl Stream {
    fn new(inode: u64, next: u64) -> Self {
        Self { inode, next, read: 0, window: FIRST, asked: next, fetches: VecDeque::new() }
    }

    fn advance(&mut self, range: &Range<u64>, most: u64) -> Option<Range<u64>> {
        if range.end <= self.next {
            return None;
        }
        self.read += range.end - self.next.max(range.start);
        self.next = range.end;
        self.fetches.retain(|fetch| fetch.end > range.end && !fetch.handle.is_aborted());
        self.asked = self.asked.max(self.next);
        if self.read < ENOUGH || self.asked - self.next >= self.window / 4 * 3 {
            return None;
        }
        let ahead = self.asked..self.next + self.window;
        self.window = (self.window * 2).min(most.max(FIRST));
        self.asked = ahead.end;
        (!ahead.is_empty()).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// What is asked for while so many reads of `len` bytes follow each other.
    fn sequence(streams: &Streams, inode: u64, len: u64, reads: u64) -> Vec<Range<u64>> {
        (0..reads).filter_map(|at| streams.note(inode, at * len..(at + 1) * len)).collect()
    }

    #[test]
    fn a_window_opens_after_a_while_and_doubles_up_to_what_is_worth_it() {
        let streams = Streams::default();
        streams.set_most(4 << 20);
        let asked = sequence(&streams, 7, 128 * KIB, 200);
        assert_eq!(asked[0], 256 * KIB..1280 * KIB);
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "nothing twice, nothing left out");
        let ahead: Vec<u64> = asked.iter().map(|range| range.end - range.start).collect();
        assert!(ahead.iter().all(|len| *len >= 1 << 20), "{ahead:?}");
        assert!(asked[asked.len() - 1].end >= 200 * 128 * KIB + (3 << 20));
        assert!(asked[asked.len() - 1].end <= 200 * 128 * KIB + (4 << 20));
    }

    #[test]
    fn reads_that_arrive_out_of_order_are_one_stream() {
        let streams = Streams::default();
        let order = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9];
        let asked: Vec<_> =
            order.iter().filter_map(|at| streams.note(1, at * 256 * KIB..(at + 1) * 256 * KIB)).collect();
        assert!(!asked.is_empty());
        assert_eq!(streams.recent.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_is_fetched_ahead_ends_with_its_stream_or_once_the_reader_is_there() {
        let streams = Streams::default();
        for leaves in [true, false] {
            let ahead = sequence(&streams, 7, 128 * KIB, 2).pop().unwrap();
            let mut fetch = Box::pin(streams.fetching(7, ahead.end, std::future::pending()));
            assert!(fetch.as_mut().now_or_never().is_none());
            if leaves {
                (0..STREAMS as u64).for_each(|other| assert_eq!(streams.note(100 + other, 0..1), None));
            } else {
                let _ = streams.note(7, ahead.start..ahead.end);
            }
            assert!(fetch.now_or_never().is_some());
        }
    }

    #[test]
    fn reads_here_and_there_fetch_nothing_ahead_nor_disturb_a_stream() {
        let streams = Streams::default();
        let mut chance = crate::chance::Chance(1);
        let mut asked = 0;
        for at in 0..2000 {
            let place = chance.below(1 << 20) * 4 * KIB;
            assert_eq!(streams.note(1, place..place + 4 * KIB), None);
            asked += usize::from(streams.note(2, at * 64 * KIB..(at + 1) * 64 * KIB).is_some());
        }
        assert!(asked > 10);
    }
}
