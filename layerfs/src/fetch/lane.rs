//! The way to one host: who may send a request next.
//!
//! Requests start in order of class, strictly, and within a class in the order in which they came. A request starts
//! while less than a [`Window`] is under way. Classes that stand back start none while something more urgent is under way,
//! and two at a time at most: one on the line while the other is decoded. What they have under way does not count
//! for the others: it is paused.
//!
//! Hosts have a lane each: one that is silent holds up nobody else's readers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queues::Queues;
use super::window::{Sent, Window};
use crate::class::Class;

/// Requests under way at most. Registries count them.
const REQUESTS: usize = 32;
/// Requests of classes that stand back.
const STANDING_BACK: usize = 2;

/// One host's lane.
#[derive(Default)]
pub(crate) struct Lane(Mutex<State>);

#[derive(Default)]
struct State {
    window: Window,
    /// Bytes of requests that do not stand back, and of those that do.
    under_way: [u64; 2],
    requests: [usize; Class::ALL.len()],
    /// By bytes.
    queues: Queues<u64, Passage>,
}

/// The right to have a request under way, until it is dropped.
pub(crate) struct Passage {
    lane: Arc<Lane>,
    class: Class,
    sent: Sent,
    /// Bytes that are still to come.
    left: u64,
    answered: bool,
}

impl Lane {
    /// Waits for its turn. Cancel-safe.
    pub(crate) async fn enter(self: &Arc<Self>, class: Class, bytes: u64) -> Option<Passage> {
        let started = self.lock().queues.join(class, bytes);
        self.start_what_may();
        started.await.ok()
    }

    /// Bytes that fill it.
    pub(crate) fn window(&self) -> u64 {
        self.lock().window.bytes()
    }

    fn start_what_may(self: &Arc<Self>) {
        loop {
            // Sent without the lock: a waiter that is gone leaves a passage to be dropped, which takes the lock.
            let Some((start, passage)) = self.next() else { return };
            let _ = start.send(passage);
        }
    }

    fn next(self: &Arc<Self>) -> Option<(oneshot::Sender<Passage>, Passage)> {
        let mut state = self.lock();
        let (class, bytes) = state.queues.first()?;
        if !state.admits(class) {
            return None;
        }
        let start = state.queues.pop(class)?;
        state.under_way[usize::from(class.stands_back())] += bytes;
        state.requests[class as usize] += 1;
        let sent = state.window.sent(Instant::now());
        let passage = Passage { lane: self.clone(), class, sent, left: bytes, answered: false };
        Some((start, passage))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are changed in one statement each.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admits(&self, class: Class) -> bool {
        let urgent = self.requests[Class::Demand as usize] + self.requests[Class::Ahead as usize];
        let others = self.requests.iter().sum::<usize>() - urgent;
        let [urgent_bytes, other_bytes] = self.under_way;
        if class.stands_back() {
            return urgent == 0 && others < STANDING_BACK && other_bytes < self.window.bytes();
        }
        urgent < REQUESTS && urgent_bytes < self.window.bytes()
    }
}

impl Passage {
    /// Whether it is one of this lane.
    pub(crate) fn leads(&self, lane: &Arc<Lane>) -> bool {
        Arc::ptr_eq(&self.lane, lane)
    }

    /// Says how many bytes will come, before the first has.
    pub(crate) fn expect(&mut self, bytes: u64) {
        let mut state = self.lane.lock();
        let under_way = &mut state.under_way[usize::from(self.class.stands_back())];
        *under_way = *under_way - self.left + bytes;
        self.left = bytes;
    }

    /// Notes that bytes came.
    pub(crate) fn delivered(&mut self, bytes: u64) {
        let now = Instant::now();
        {
            let mut state = self.lane.lock();
            if !self.answered {
                self.answered = true;
                state.window.answered(&self.sent, now);
            }
            state.window.delivered(&self.sent, bytes, now);
            let arrived = bytes.min(self.left);
            self.left -= arrived;
            state.under_way[usize::from(self.class.stands_back())] -= arrived;
        }
        self.lane.start_what_may();
    }

    /// Notes that the request failed.
    pub(crate) fn failed(&self) {
        self.lane.lock().window.failed();
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        {
            let mut state = self.lane.lock();
            state.under_way[usize::from(self.class.stands_back())] -= self.left;
            state.requests[self.class as usize] -= 1;
        }
        self.lane.start_what_may();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;

    type Entering = BoxFuture<'static, Option<Passage>>;

    /// Asks to enter, and so comes to stand in the queue.
    fn enter(lane: &Arc<Lane>, class: Class, bytes: u64) -> (Entering, Option<Passage>) {
        let lane = lane.clone();
        let mut entering = async move { lane.enter(class, bytes).await }.boxed();
        let passage = entering.as_mut().now_or_never().flatten();
        (entering, passage)
    }

    fn poll(entering: &mut Entering) -> Option<Passage> {
        entering.as_mut().now_or_never().flatten()
    }

    #[tokio::test]
    async fn the_most_urgent_is_next_and_nothing_else_starts_before_it() {
        let lane = Arc::new(Lane::default());
        let (_, first) = enter(&lane, Class::Demand, 100 << 20);
        let mut first = first.unwrap();
        let (mut background, none) = enter(&lane, Class::Background, 1);
        assert!(none.is_none());
        let (mut boot, none) = enter(&lane, Class::Boot, 100);
        assert!(none.is_none());
        let (mut later, _) = enter(&lane, Class::Demand, 1);
        let (mut latest, _) = enter(&lane, Class::Demand, 1);
        assert!(poll(&mut later).is_none(), "a window is under way");
        first.delivered(100 << 20);
        let later = poll(&mut later).unwrap();
        let latest = poll(&mut latest).unwrap();
        assert!(poll(&mut boot).is_none(), "demand is under way");
        drop((first, later));
        assert!(poll(&mut boot).is_none());
        drop(latest);
        let boot = poll(&mut boot).unwrap();
        let background = poll(&mut background).unwrap();
        let (mut third, none) = enter(&lane, Class::Boot, 1);
        assert!(none.is_none(), "two stand back at a time");
        // A reader does not wait for what stands back.
        let (_, reader) = enter(&lane, Class::Demand, 1);
        assert!(reader.is_some());
        let (_, huge) = enter(&lane, Class::Demand, 100 << 20);
        assert!(huge.is_some());
        drop(huge);
        drop((boot, background));
        assert!(poll(&mut third).is_none());
        drop(reader);
        assert!(poll(&mut third).is_some());
    }

    #[tokio::test]
    async fn who_no_longer_waits_holds_up_nobody() {
        let lane = Arc::new(Lane::default());
        let (_, first) = enter(&lane, Class::Demand, 100 << 20);
        let (gone, _) = enter(&lane, Class::Demand, 100 << 20);
        let (mut next, _) = enter(&lane, Class::Demand, 1);
        drop(gone);
        drop(first);
        assert!(poll(&mut next).is_some());
        // Started, but gone before it could take its passage.
        let (_, first) = enter(&lane, Class::Demand, 100 << 20);
        let (started, _) = enter(&lane, Class::Demand, 100 << 20);
        let (mut next, _) = enter(&lane, Class::Demand, 1);
        drop(first);
        drop(started);
        assert!(poll(&mut next).is_some());
        assert_eq!(lane.lock().under_way, [0, 0]);
    }

    #[tokio::test]
    async fn some_requests_start_whatever_their_size_and_never_more_than_a_registry_bears() {
        let lane = Arc::new(Lane::default());
        let (_, huge) = enter(&lane, Class::Demand, 1 << 40);
        assert!(huge.is_some());
        drop(huge);
        let under_way: Vec<_> = (0..40).filter_map(|_| enter(&lane, Class::Demand, 1).1).collect();
        assert_eq!(under_way.len(), REQUESTS);
    }
}
