//! Looking for the next request for a moment, instead of sleeping until it wakes the thread.
//!
//! Who walks through a tree asks one thing after the other, each as soon as the last one was answered. To be woken for each
//! costs several times what answering it does: the kernel wakes whoever serves where a processor is idle, and an idle processor has to
//! be woken itself. So who has just answered one of several such requests looks for the next before he sleeps.
//!
//! Invariants: nobody lingers but after a request that came within the same time after the one before it, so requests that
//! come now and then cost nothing; one thread of a mount at most, so that another sleeps until it is woken, whoever has the processors;
//! no more threads of the process than half its processors, and none where there is but one; whoever else wants the processor has it.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::sched_yield;

/// Threads of this process that linger.
static LINGERING: AtomicUsize = AtomicUsize::new(0);
/// Those of a mount that may.
const OF_A_MOUNT: usize = 1;

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

/// So many that sleep as soon as they have answered.
impl From<usize> for Threads {
    fn from(count: usize) -> Self {
        Self { count, linger: Duration::ZERO }
    }
}

/// When the threads of a mount linger.
#[derive(Debug)]
pub(super) struct Linger {
    window: Duration,
    /// Set before the first request comes.
    device: OnceLock<OwnedFd>,
    since: Instant,
    /// When the last request was done with, in nanoseconds from `since`.
    answered: AtomicU64,
    /// Threads of this mount that linger.
    lingering: AtomicUsize,
    /// Requests that were found so.
    found: AtomicU64,
}

/// How lingering ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// There is a request, or the device is of no use any more.
    Ready,
    TimeUp,
    /// Enough others do.
    NoTurn,
}

impl Linger {
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            device: OnceLock::new(),
            since: Instant::now(),
            answered: AtomicU64::new(0),
            lingering: AtomicUsize::new(0),
            found: AtomicU64::new(0),
        }
    }

    /// Where requests come from: kept until the session ends, if it is of use.
    pub fn on(&self, device: OwnedFd) {
        if !self.window.is_zero() {
            let _ = self.device.set(device);
        }
    }

    /// Requests that nobody had to be woken for.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
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
    fn wait(&self, (lingering, most): (&AtomicUsize, usize)) -> Ended {
        let Some(device) = self.device.get() else { return Ended::NoTurn };
        let (Some(_ours), Some(_of_all)) =
            (Turn::take(&self.lingering, OF_A_MOUNT), Turn::take(lingering, most))
        else {
            return Ended::NoTurn;
        };
        let from = Instant::now();
        while from.elapsed() < self.window {
            let mut polled = [PollFd::new(device, PollFlags::IN)];
            if poll(&mut polled, Some(&Timespec::default())) != Ok(0) {
                self.found.fetch_add(1, Ordering::Relaxed);
                return Ended::Ready;
            }
            sched_yield();
        }
        Ended::TimeUp
    }
}

/// A request that a thread is at. Dropped, the thread is done with it, having answered it or given it away, and looks for the next.
pub(super) struct Answering<'l> {
    linger: &'l Linger,
    one_of_many: bool,
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.linger.answered.store(self.linger.now(), Ordering::Relaxed);
        if self.one_of_many {
            self.linger.wait((&LINGERING, half_the_processors()));
        }
    }
}

fn half_the_processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)) / 2
}

/// One of the threads that linger.
struct Turn<'c>(&'c AtomicUsize);

impl<'c> Turn<'c> {
    fn take(count: &'c AtomicUsize, most: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        // Counted, and no more so once it is dropped.
        let turn = Self(count);
        (before < most).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe's end to read from, and the other.
    fn device() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    /// A limit of one test's own.
    fn alone() -> AtomicUsize {
        AtomicUsize::new(0)
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
        let never = Linger::new(Duration::ZERO);
        never.answered.store(u64::MAX, Ordering::Relaxed);
        assert!(!never.begin().one_of_many);
    }

    #[test]
    fn who_lingers_sees_a_request_and_the_end_of_the_device_and_gives_up_on_silence() {
        for end in [false, true] {
            let linger = Linger::new(Duration::from_secs(60));
            let (reading, writing) = device();
            linger.on(reading);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| linger.wait((&alone(), 1)));
                if end {
                    drop(writing);
                } else {
                    rustix::io::write(&writing, b"request").unwrap();
                }
                assert_eq!(waiting.join().unwrap(), Ended::Ready);
                assert_eq!(linger.found(), 1);
            });
        }
        let linger = Linger::new(Duration::from_millis(1));
        let (reading, _writing) = device();
        linger.on(reading);
        assert_eq!(linger.wait((&alone(), 1)), Ended::TimeUp);
        assert_eq!(linger.found(), 0);
    }

    #[test]
    fn one_thread_of_a_mount_lingers_and_no_more_of_all_than_may() {
        let linger = Linger::new(Duration::from_millis(1));
        let (reading, _writing) = device();
        linger.on(reading);
        let of_all = alone();
        {
            let _other = Turn::take(&linger.lingering, OF_A_MOUNT).unwrap();
            assert_eq!(linger.wait((&of_all, 9)), Ended::NoTurn);
        }
        {
            let _others = [Turn::take(&of_all, 9).unwrap(), Turn::take(&of_all, 9).unwrap()];
            assert_eq!(linger.wait((&of_all, 2)), Ended::NoTurn);
            assert_eq!(linger.wait((&of_all, 3)), Ended::TimeUp);
        }
        assert_eq!(linger.wait((&of_all, 0)), Ended::NoTurn);
        let counts = [linger.lingering.load(Ordering::Relaxed), of_all.load(Ordering::Relaxed)];
        assert_eq!(counts, [0, 0]);
    }
}
