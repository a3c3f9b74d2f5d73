//! One fetch for all who want the same span at the same time, from the wish to the outcome.
//!
//! ```text
//! join                take              complete
//! -----> wanted ------------> flying ------------> landed (kept for those who followed, then forgotten)
//!          | nobody follows     | ticket dropped
//!          v any more           v
//!       forgotten             lost (followers may join anew)
//! ```
//!
//! Whoever wants a span joins and gets a [`Follower`]. Whoever is to fetch takes a run of wanted neighbours, and gets
//! a [`Ticket`] for each: the duty to report an outcome. A ticket that goes away without one (its task was dropped,
//! or panicked) tells its followers so, and the next to join is taken anew. Outcomes are not kept: whoever joins after the
//! end starts anew.
//!
//! A flight is as urgent as the most urgent of those who joined it, and is needed as long as one of them is there. What lies
//! between the spans of a run flies along, whether or not anybody wants it yet: who comes to want it follows that flight.
//!
//! Invariants: at most one flight of a span is wanted or flying; a follower is always told, or its flight still goes on.
//! Everything happens under one lock, and no lock is held while waiting.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::class::Class;
use super::sync::{Arc, Mutex, MutexGuard};

/// Fetches that are wanted or under way, by number of span.
pub struct SingleFlight<V>(Arc<Shared<V>>);

struct Shared<V> {
    state: Mutex<State<V>>,
    changed: Notify,
}

struct State<V> {
    next: u64,
    /// The flights that are wanted or flying.
    current: BTreeMap<usize, u64>,
    flights: HashMap<u64, Flight<V>>,
    closed: bool,
}

struct Flight<V> {
    class: Class,
    followers: usize,
    phase: Phase<V>,
    wakers: Vec<Waker>,
}

enum Phase<V> {
    Wanted,
    Flying,
    Landed(V),
    Lost,
}

/// The right to be told of an outcome, as a future: `None` if the fetch ended without one. Dropping it takes the wish
/// back.
pub struct Follower<V> {
    shared: Arc<Shared<V>>,
    flight: u64,
    key: usize,
}

/// The duty to report an outcome.
pub struct Ticket<V> {
    shared: Arc<Shared<V>>,
    flight: u64,
    key: usize,
}

impl<V: Clone> SingleFlight<V> {
    /// Nothing wanted.
    pub fn new() -> Self {
        let state = State { next: 0, current: BTreeMap::new(), flights: HashMap::new(), closed: false };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Wants a span. The second value says whether the caller must see to it that it is taken, as one of `class`, whether
    /// or not he goes on to follow: it was not wanted yet, or less urgently, and others rely on it.
    pub fn join(&self, key: usize, class: Class) -> (Follower<V>, bool) {
        let mut state = self.0.lock();
        let closed = state.closed;
        let follower = |flight| Follower { shared: self.0.clone(), flight, key };
        if let Some(&id) = state.current.get(&key)
            && let Some(flight) = state.flights.get_mut(&id)
        {
            flight.followers += 1;
            let raised = class < flight.class;
            flight.class = flight.class.min(class);
            let flying = matches!(flight.phase, Phase::Flying);
            if raised && flying {
                self.0.changed.notify_waiters();
            }
            return (follower(id), raised && !flying);
        }
        let id = state.number();
        if !closed {
            state.begin(key, id, Flight { class, followers: 1, phase: Phase::Wanted, wakers: Vec::new() });
        }
        (follower(id), !closed)
    }

    /// Takes a span that is wanted at least as urgently as `class`, and its wanted neighbours on both sides as far as
    /// `fits` agrees to them: it is given the lowest and the highest of the run that would be, and which two wanted ones of it
    /// would come to follow each other. All that lies between those two is taken along, so nothing that flies may, and
    /// what is there already is for `fits` to refuse. In order; empty if the span is not wanted (any more).
    pub fn take(
        &self,
        key: usize,
        class: Class,
        fits: impl Fn(usize, usize, (usize, usize)) -> bool,
    ) -> Vec<Ticket<V>> {
        let mut state = self.0.lock();
        if !state.is_wanted(key, class) {
            return Vec::new();
        }
        let wanted = |key: &usize| state.is_wanted(*key, class);
        let (mut first, mut last) = (key, key);
        for above in state.current.range(key + 1..).map(|(key, _)| *key).filter(wanted) {
            if !fits(first, above, (last, above)) || state.has_flying(last + 1..above) {
                break;
            }
            last = above;
        }
        for below in state.current.range(..key).rev().map(|(key, _)| *key).filter(wanted) {
            if !fits(below, last, (below, first)) || state.has_flying(below + 1..first) {
                break;
            }
            first = below;
        }
        let ticket = |key| Ticket { shared: self.0.clone(), flight: state.fly(key), key };
        (first..=last).map(ticket).collect()
    }

    /// The lowest of a range of spans that is wanted at least as urgently as `class`, and not taken.
    pub fn first_wanted(&self, keys: Range<usize>, class: Class) -> Option<usize> {
        let state = self.0.lock();
        let mut keys = state.current.range(keys).map(|(key, _)| *key);
        keys.find(|key| state.is_wanted(*key, class))
    }

    /// How urgently the most urgent of some spans that fly is wanted by now; `None` if nobody needs any of them.
    pub fn class_of<'t>(&self, tickets: impl IntoIterator<Item = &'t Ticket<V>>) -> Option<Class>
    where
        V: 't,
    {
        let state = self.0.lock();
        let flights = tickets.into_iter().filter_map(|ticket| state.flights.get(&ticket.flight));
        flights.filter(|flight| flight.followers > 0 && !state.closed).map(|flight| flight.class).min()
    }

    /// How urgently anything at all is wanted, if it is.
    pub fn most_urgent(&self) -> Option<Class> {
        let state = self.0.lock();
        let flights = state.current.values().filter_map(|id| state.flights.get(id));
        flights.filter(|flight| flight.followers > 0).map(|flight| flight.class).min()
    }

    /// Whether nothing is needed any more.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// Has everybody look again how urgently things are wanted.
    pub fn announce(&self) {
        self.0.changed.notify_waiters();
    }

    /// Ends with the next change of how urgently something that flies is wanted, or whether it is. Begins to watch
    /// when it is called, not when it is polled.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// Nothing is needed any more, whoever follows.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let current: Vec<(usize, u64)> = state.current.iter().map(|(&key, &id)| (key, id)).collect();
        for (key, id) in current {
            state.end(key, id, Phase::Lost, |phase| matches!(phase, Phase::Wanted));
        }
        self.0.changed.notify_waiters();
    }
}

impl<V: Clone> Default for SingleFlight<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Shared<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        // Nothing under the lock panics between two statements that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> State<V> {
    fn is_wanted(&self, key: usize, class: Class) -> bool {
        let flight = self.current.get(&key).and_then(|id| self.flights.get(id));
        flight.is_some_and(|flight| matches!(flight.phase, Phase::Wanted) && flight.class <= class)
    }

    fn has_flying(&self, keys: Range<usize>) -> bool {
        let mut flights = self.current.range(keys).filter_map(|(_, id)| self.flights.get(id));
        flights.any(|flight| matches!(flight.phase, Phase::Flying))
    }

    /// Has a span fly that does not yet, whoever wants it.
    fn fly(&mut self, key: usize) -> u64 {
        let current = self.current.get(&key).copied();
        if let Some((id, flight)) = current.and_then(|id| Some((id, self.flights.get_mut(&id)?))) {
            flight.phase = Phase::Flying;
            return id;
        }
        let (id, class) = (self.number(), Class::Background);
        self.begin(key, id, Flight { class, followers: 0, phase: Phase::Flying, wakers: Vec::new() });
        id
    }

    /// A number that no flight has had.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn begin(&mut self, key: usize, id: u64, flight: Flight<V>) {
        self.current.insert(key, id);
        self.flights.insert(id, flight);
    }

    /// Ends a flight in `phase` if it is in one that `from` names, and tells its followers.
    fn end(&mut self, key: usize, id: u64, phase: Phase<V>, from: impl Fn(&Phase<V>) -> bool) {
        let Some(flight) = self.flights.get_mut(&id).filter(|flight| from(&flight.phase)) else { return };
        flight.phase = phase;
        flight.wakers.drain(..).for_each(Waker::wake);
        if flight.followers == 0 {
            self.flights.remove(&id);
        }
        self.current.remove(&key);
    }
}

impl<V> Ticket<V> {
    /// The span.
    pub fn key(&self) -> usize {
        self.key
    }

    /// Ends the flight: followers get the outcome.
    pub fn complete(self, outcome: V) {
        let flying = |phase: &Phase<V>| matches!(phase, Phase::Flying);
        self.shared.lock().end(self.key, self.flight, Phase::Landed(outcome), flying);
    }
}

impl<V> Drop for Ticket<V> {
    fn drop(&mut self) {
        let flying = |phase: &Phase<V>| matches!(phase, Phase::Flying);
        self.shared.lock().end(self.key, self.flight, Phase::Lost, flying);
    }
}

impl<V> Follower<V> {
    /// The span.
    pub fn key(&self) -> usize {
        self.key
    }
}

impl<V: Clone> Future for Follower<V> {
    type Output = Option<V>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<V>> {
        let mut state = self.shared.lock();
        let Some(flight) = state.flights.get_mut(&self.flight) else { return Poll::Ready(None) };
        match &flight.phase {
            Phase::Landed(outcome) => Poll::Ready(Some(outcome.clone())),
            Phase::Lost => Poll::Ready(None),
            Phase::Wanted | Phase::Flying => {
                if !flight.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    flight.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl<V> Drop for Follower<V> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Some(flight) = state.flights.get_mut(&self.flight) else { return };
        flight.followers -= 1;
        if flight.followers > 0 {
            return;
        }
        match flight.phase {
            Phase::Flying => self.shared.changed.notify_waiters(),
            Phase::Wanted => {
                state.current.remove(&self.key);
                state.flights.remove(&self.flight);
            }
            Phase::Landed(_) | Phase::Lost => {
                state.flights.remove(&self.flight);
            }
        }
    }
}
