//! Looking for the next request for a moment, instead of sleeping until it wakes the thread.
//!
//! Who walks through a tree asks one thing after the other, each as soon as the last one was answered. To be woken for each
//! costs several times what answering it does: the kernel wakes whoever serves where a processor is idle, and an idle processor has to
//! be woken itself. So who has just answered one of several such requests looks for the next before he sleeps.
//!
//! Invariants: nobody lingers but after a request that came within the same time after the one before it, so requests that
//! come now and then cost nothing; no more threads of the process than half its processors do, and none where there is but
//! one; whoever else wants the processor has it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::sched_yield;

/// Threads of this process that linger.
static LINGERING: AtomicUsize = AtomicUsize::new(0);
/// How many may.
static MOST: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(0, |processors| processors.get() / 2));

/// What answers the requests of one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// How many there are.
    pub count: usize,
    /// How long one that has just answered looks for the next request before it sleeps, if requests follow one
    /// another within that time. Zero: not at all.
    pub linger: Duration,
}

impl Threads {
    /// What [`Self::linger`] is if nothing else is said: a few times what it takes two threads to wake each other.
    pub const LINGER: Duration = Duration::from_micros(50);
}

impl From<usize> for Threads {
    fn from(count: usize) -> Self {
        Self { count, linger: Self::LINGER }
    }
}

/// When the threads of a mount linger.
#[derive(Debug)]
pub(super) struct Linger {
    window: Duration,
    /// Set before the first request comes.
    device: OnceLock<OwnedFd>,
    since: Instant,
    /// When the last answer was given, in nanoseconds from `since`.
    answered: AtomicU64,
}

impl Linger {
    pub fn new(window: Duration) -> Self {
        Self { window, device: OnceLock::new(), since: Instant::now(), answered: AtomicU64::new(0) }
    }

    /// Where requests come from: kept until the session ends.
    pub fn on(&self, device: OwnedFd) {
        let _ = self.device.set(device);
    }

    /// A request has come.
    pub fn begin(&self) -> Answering<'_> {
        let idle = self.now().saturating_sub(self.answered.load(Ordering::Relaxed));
        Answering { linger: self, one_of_many: u128::from(idle) < self.window.as_nanos() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Until there is a request, the device is of no use any more, or enough time has gone by.
    fn wait(&self) {
        let (Some(device), Some(_turn)) = (self.device.get(), Turn::take(*MOST)) else { return };
        let from = Instant::now();
        while from.elapsed() < self.window {
            let mut polled = [PollFd::new(device, PollFlags::IN)];
            if poll(&mut polled, Some(&Timespec::default())) != Ok(0) {
                return;
            }
            sched_yield();
        }
    }
}

/// A request that is being answered. Dropped, it has been, and its thread looks for the next.
pub(super) struct Answering<'l> {
    linger: &'l Linger,
    one_of_many: bool,
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.linger.answered.store(self.linger.now(), Ordering::Relaxed);
        if self.one_of_many {
            self.linger.wait();
        }
    }
}

/// One of the threads that linger.
struct Turn;

impl Turn {
    fn take(most: usize) -> Option<Self> {
        let turn = Self;
        // Counted, and no more so once it is dropped.
        let before = LINGERING.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe's end to read from, and the other.
    fn device() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    #[test]
    fn only_requests_that_follow_one_another_are_lingered_for() {
        let linger = Linger::new(Duration::from_secs(60));
        let (reading, writing) = device();
        linger.on(reading);
        // A request is there already, so nobody waits here.
        rustix::io::write(&writing, b"request").unwrap();
        drop(linger.begin());
        assert!(linger.begin().one_of_many);
        let seldom = Linger::new(Duration::from_millis(1));
        drop(seldom.begin());
        std::thread::sleep(Duration::from_millis(2));
        assert!(!seldom.begin().one_of_many);
    }

    #[test]
    fn who_lingers_sees_a_request_and_the_end_of_the_device() {
        let hour = Duration::from_secs(3600);
        for end in [false, true] {
            let linger = Linger::new(hour);
            let (reading, writing) = device();
            linger.on(reading);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| linger.wait());
                if end {
                    drop(writing);
                } else {
                    rustix::io::write(&writing, b"request").unwrap();
                }
                waiting.join().unwrap();
            });
        }
    }

    #[test]
    fn nobody_lingers_for_no_time_at_all() {
        let linger = Linger::new(Duration::ZERO);
        linger.answered.store(u64::MAX, Ordering::Relaxed);
        assert!(!linger.begin().one_of_many);
    }

    #[test]
    fn no_more_threads_linger_than_may() {
        // The count is the process's, and other tests linger as well.
        let held: Vec<_> = (0..100).filter_map(|_| Turn::take(3)).collect();
        assert!(held.len() <= 3);
        drop(held);
        assert!(Turn::take(0).is_none());
        assert!(Turn::take(usize::MAX).is_some());
    }
}
