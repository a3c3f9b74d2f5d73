//! The way to one host: who may send a request next.
//!
//! Requests start in order of class, strictly, and within a class in the order in which they came. A request starts
//! while less than a [`Window`] of what is as urgent, or more so, is under way: a reader does not wait for what is fetched
//! ahead of another. Classes that stand back start none while a reader's request is under way, nor beside two that are as urgent or
//! more so: one on the line while the other is decoded. A request counts as what it is needed for by now, which may change.
//!
//! Hosts have a lane each: one that is silent holds up nobody else's readers. A host that wants to be left alone for a
//! while is: who waits for it then is told so, and asks another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queues::Queues;
use super::window::{Sent, Window};
use crate::class::Class;

/// Requests under way at most. Registries count them.
const REQUESTS: usize = 32;
/// Those of them for what is fetched ahead.
const AHEAD: usize = REQUESTS / 2;
/// How long a host that kept silent is asked after others.
const SILENCE_COUNTS: Duration = Duration::from_secs(10);
/// Requests of classes that stand back.
const STANDING_BACK: usize = 2;

/// One host's lane.
#[derive(Default)]
pub(crate) struct Lane(Mutex<State>);

#[derive(Default)]
struct State {
    window: Window,
    under_way: [u64; Class::ALL.len()],
    requests: [usize; Class::ALL.len()],
    /// By bytes.
    queues: Queues<u64, Passage>,
    /// Until when its host wants to be left alone.
    rests: Option<Instant>,
    /// When it last kept silent, if it has said nothing since.
    silent: Option<Instant>,
}

/// Why there is no passage: the host wants to be left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resting;

/// What there is to be had from a host, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Answers.
    Well,
    /// Silence, of late.
    Silent,
    /// Nothing: it wants to be left alone until then.
    Rests(Instant),
}

/// The right to have a request under way, until it is dropped.
pub(crate) struct Passage {
    lane: Arc<Lane>,
    class: Class,
    sent: Sent,
    /// Bytes that are still to come, and count.
    left: u64,
    answered: bool,
}

impl Lane {
    /// Waits for its turn. Cancel-safe.
    ///
    /// # Errors
    /// The host rests, or comes to while this waits.
    pub(crate) async fn enter(self: &Arc<Self>, class: Class, bytes: u64) -> Result<Passage, Resting> {
        if matches!(self.standing(), Standing::Rests(_)) {
            return Err(Resting);
        }
        let started = self.lock().queues.join(class, bytes);
        self.start_what_may();
        started.await.map_err(|_| Resting)
    }

    /// Leaves the host alone, and sends those who wait for it elsewhere.
    pub(crate) fn rest(&self, until: Instant) {
        let mut state = self.lock();
        state.rests = state.rests.max(Some(until));
        // Who waits finds his answer dropped.
        state.queues = Queues::default();
    }

    /// What there is to be had from the host.
    pub(crate) fn standing(&self) -> Standing {
        let state = self.lock();
        let now = Instant::now();
        match (state.rests, state.silent) {
            (Some(until), _) if until > now => Standing::Rests(until),
            (_, Some(since)) if since + SILENCE_COUNTS > now => Standing::Silent,
            _ => Standing::Well,
        }
    }

    /// Whether the host has kept a request waiting in vain since `moment`, and said nothing to others.
    pub(crate) fn fell_silent_after(&self, moment: Instant) -> bool {
        self.lock().silent.is_some_and(|silent| silent > moment)
    }

    /// Bytes that fill it.
    pub(crate) fn window(&self) -> u64 {
        self.lock().window.bytes()
    }

    /// Bytes that come in one round trip.
    pub(crate) fn round_trip(&self) -> u64 {
        self.lock().window.round_trip()
    }

    /// Requests under way that stand back.
    pub(crate) fn standing_back(&self) -> usize {
        self.lock().requests[Class::Boot as usize..].iter().sum()
    }

    /// Whether nothing is under way.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.under_way == [0; Class::ALL.len()] && state.requests == [0; Class::ALL.len()]
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
        state.under_way[class as usize] += bytes;
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
        let [demand, ahead, ..] = self.requests;
        let bytes = |from: Class| -> u64 { self.under_way[from as usize..=class as usize].iter().sum() };
        match class {
            Class::Demand => demand < REQUESTS && bytes(Class::Demand) < self.window.bytes(),
            Class::Ahead => {
                ahead < AHEAD && demand + ahead < REQUESTS && bytes(Class::Demand) < self.window.bytes()
            }
            _ => {
                let others: usize = self.requests[Class::Boot as usize..=class as usize].iter().sum();
                demand + ahead == 0 && others < STANDING_BACK && bytes(Class::Boot) < self.window.bytes()
            }
        }
    }
}

impl Passage {
    /// Whether it is one of this lane.
    pub(crate) fn leads(&self, lane: &Arc<Lane>) -> bool {
        Arc::ptr_eq(&self.lane, lane)
    }

    /// Says how many of the bytes that are still to come count by now.
    pub(crate) fn expect(&mut self, bytes: u64) {
        {
            let under_way = &mut self.lane.lock().under_way[self.class as usize];
            *under_way = *under_way - self.left + bytes;
            self.left = bytes;
        }
        self.lane.start_what_may();
    }

    /// Says what it is needed for by now.
    pub(crate) fn becomes(&mut self, class: Class) {
        if class == self.class {
            return;
        }
        {
            let mut state = self.lane.lock();
            state.under_way[self.class as usize] -= self.left;
            state.requests[self.class as usize] -= 1;
            state.under_way[class as usize] += self.left;
            state.requests[class as usize] += 1;
            self.class = class;
        }
        self.lane.start_what_may();
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
            state.under_way[self.class as usize] -= arrived;
            state.silent = None;
        }
        self.lane.start_what_may();
    }

    /// Notes that the request failed, and whether because the host said nothing.
    pub(crate) fn failed(&self, silent: bool) {
        let mut state = self.lane.lock();
        state.window.failed();
        if silent {
            state.silent = Some(Instant::now());
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        {
            let mut state = self.lane.lock();
            state.under_way[self.class as usize] -= self.left;
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

    type Entering = BoxFuture<'static, Result<Passage, Resting>>;

    /// Asks to enter, and so comes to stand in the queue.
    fn enter(lane: &Arc<Lane>, class: Class, bytes: u64) -> (Entering, Option<Passage>) {
        let lane = lane.clone();
        let mut entering = async move { lane.enter(class, bytes).await }.boxed();
        let passage = poll(&mut entering);
        (entering, passage)
    }

    fn poll(entering: &mut Entering) -> Option<Passage> {
        entering.as_mut().now_or_never().and_then(Result::ok)
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
        let (mut third, none) = enter(&lane, Class::Background, 1);
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
        assert_eq!(lane.lock().under_way, [0; Class::ALL.len()]);
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

    #[tokio::test]
    async fn a_reader_does_not_wait_for_what_is_fetched_ahead_of_another() {
        let lane = Arc::new(Lane::default());
        let (_, ahead) = enter(&lane, Class::Ahead, 100 << 20);
        let (mut more, none) = enter(&lane, Class::Ahead, 1);
        assert!(ahead.is_some() && none.is_none());
        let (_, reader) = enter(&lane, Class::Demand, 100 << 20);
        let reader = reader.unwrap();
        drop(ahead);
        assert!(poll(&mut more).is_none(), "but what is fetched ahead waits for a reader");
        drop(reader);
        assert!(poll(&mut more).is_some());
    }

    #[tokio::test]
    async fn a_request_counts_as_what_it_is_needed_for_by_now() {
        let lane = Arc::new(Lane::default());
        let (_, stream) = enter(&lane, Class::Demand, 5);
        let mut stream = stream.unwrap();
        let (mut background, none) = enter(&lane, Class::Background, 1);
        assert!(none.is_none());
        stream.becomes(Class::Background);
        let background = poll(&mut background).unwrap();
        stream.becomes(Class::Demand);
        let (mut boot, none) = enter(&lane, Class::Boot, 1);
        assert!(none.is_none());
        drop(stream);
        assert!(poll(&mut boot).is_some());
        drop(background);
        assert_eq!(lane.lock().under_way, [0; Class::ALL.len()]);
        assert_eq!(lane.lock().requests, [0; Class::ALL.len()]);
    }

    #[tokio::test]
    async fn a_boot_pack_does_not_wait_for_what_is_less_urgent() {
        let lane = Arc::new(Lane::default());
        let along: Vec<_> = (0..4).map(|_| enter(&lane, Class::Demand, 1).1.unwrap()).collect();
        let (mut pack, none) = enter(&lane, Class::Boot, 1);
        let (mut background, too) = enter(&lane, Class::Background, 1);
        assert!(none.is_none() && too.is_none());
        let _nearby: Vec<_> = along
            .into_iter()
            .map(|mut passage| {
                passage.becomes(Class::Nearby);
                passage
            })
            .collect();
        assert!(poll(&mut pack).is_some() && poll(&mut background).is_none());
        assert_eq!(lane.standing_back(), 4);
    }

    #[tokio::test]
    async fn who_may_start_because_less_will_come_starts_at_once() {
        let lane = Arc::new(Lane::default());
        let (_, first) = enter(&lane, Class::Demand, 100 << 20);
        let (mut next, none) = enter(&lane, Class::Demand, 1);
        assert!(none.is_none());
        let mut first = first.unwrap();
        first.expect(1);
        assert!(poll(&mut next).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_rests_is_waited_for_by_nobody() {
        let lane = Arc::new(Lane::default());
        let (_, first) = enter(&lane, Class::Demand, 100 << 20);
        let (waiting, none) = enter(&lane, Class::Demand, 1);
        assert!(first.is_some() && none.is_none());
        lane.rest(Instant::now() + Duration::from_secs(9));
        assert!(waiting.await.is_err());
        assert!(lane.enter(Class::Demand, 1).await.is_err());
        drop(first);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(lane.enter(Class::Demand, 1).await.is_ok());
    }
}
