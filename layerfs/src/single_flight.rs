//! One fetch for all who want the same thing at the same time.
//!
//! The first to [`join`](SingleFlight::join) leads and gets a [`Ticket`]; the others follow and wait. A leader
//! that goes away without an outcome (its task was dropped, or panicked) wakes its followers with `None`, and
//! the next to join leads. Outcomes are not kept: whoever joins after the end leads anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

type Flights<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>;

/// Fetches under way, by key.
pub struct SingleFlight<K, V> {
    flights: Flights<K, V>,
}

/// What joining made of the caller.
pub enum Joined<K: Eq + Hash, V> {
    /// It must do the work and report with the ticket.
    Leader(Ticket<K, V>),
    /// Somebody else is at it.
    Follower(Follower<V>),
}

/// The duty to report an outcome.
pub struct Ticket<K: Eq + Hash, V> {
    key: K,
    outcome: watch::Sender<Option<V>>,
    flights: Flights<K, V>,
}

/// The right to be told of it.
pub struct Follower<V>(watch::Receiver<Option<V>>);

impl<K: Eq + Hash + Clone, V: Clone> SingleFlight<K, V> {
    /// No fetch under way.
    pub fn new() -> Self {
        Self { flights: Flights::default() }
    }

    /// Leads, or follows who already leads.
    pub fn join(&self, key: K) -> Joined<K, V> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.entry(key) {
            Entry::Occupied(flight) => Joined::Follower(Follower(flight.get().clone())),
            Entry::Vacant(place) => {
                let (outcome, receiver) = watch::channel(None);
                let key = place.key().clone();
                place.insert(receiver);
                Joined::Leader(Ticket { key, outcome, flights: self.flights.clone() })
            }
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash, V> Ticket<K, V> {
    /// What is to be done.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Ends the flight: followers get the outcome.
    pub fn complete(self, outcome: V) {
        self.outcome.send_replace(Some(outcome));
    }

    /// A follower of this very flight.
    pub fn follow(&self) -> Follower<V> {
        Follower(self.outcome.subscribe())
    }
}

/// The flight ends with its ticket, whatever became of it; followers see the channel close after the outcome.
impl<K: Eq + Hash, V> Drop for Ticket<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<V: Clone> Follower<V> {
    /// Waits for the outcome; `None` if the leader went away without one. Cancel-safe.
    pub async fn outcome(mut self) -> Option<V> {
        let outcome = self.0.wait_for(Option::is_some).await;
        outcome.ok().and_then(|outcome| outcome.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(joined: Joined<u32, u32>) -> Ticket<u32, u32> {
        match joined {
            Joined::Leader(ticket) => ticket,
            Joined::Follower(_) => panic!("somebody else leads"),
        }
    }

    fn follower(joined: Joined<u32, u32>) -> Follower<u32> {
        match joined {
            Joined::Follower(follower) => follower,
            Joined::Leader(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn followers_get_the_leaders_outcome() {
        let flights = SingleFlight::new();
        let ticket = leader(flights.join(1));
        let followers: Vec<_> = (0..64).map(|_| follower(flights.join(1))).collect();
        drop(leader(flights.join(2)));
        ticket.complete(7);
        for follower in followers {
            assert_eq!(follower.outcome().await, Some(7));
        }
        leader(flights.join(1));
    }

    #[tokio::test]
    async fn a_leader_that_vanishes_lets_the_next_try() {
        let flights = SingleFlight::new();
        let ticket = leader(flights.join(1));
        let follower = follower(flights.join(1));
        drop(ticket);
        assert_eq!(follower.outcome().await, None);
        leader(flights.join(1)).complete(1);
    }
}
