//! What fetches may hold in memory, compressed and decoded: who may have some next.
//!
//! Given in order of class, strictly, and within a class in the order in which it was asked for. What is not demand has a
//! part of it at most, and what stands back a part of that: a reader finds the rest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::queues::Queues;
use crate::class::Class;

/// KiB in all: what the memory bar of 64 MiB for a worker leaves beside itself, its connections and what is being replied.
const ALL: u32 = 16 << 10;
/// The part of it for everything but demand: two requests of usual size.
const NOT_DEMAND: u32 = 10 << 10;
/// The part of that for classes that stand back.
const STANDING_BACK: u32 = 6 << 10;
/// The part of that which is given to who would not wait for it: the next frame of a boot pack has room beside it.
const AT_ONCE: u32 = 4 << 10;

/// The memory of a node's fetches.
#[derive(Default)]
pub(crate) struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    /// KiB, by class.
    held: [u32; Class::ALL.len()],
    /// By KiB.
    queues: Queues<u32, Held>,
}

/// Memory that is spoken for, until it is dropped.
pub(crate) struct Held {
    memory: Arc<Memory>,
    class: Class,
    kib: u32,
}

impl Memory {
    /// Waits until `bytes` may be held. More than a class may ever hold counts as that much. Cancel-safe.
    pub(crate) async fn hold(self: &Arc<Self>, class: Class, bytes: u64) -> Option<Held> {
        let most = match class {
            Class::Demand => ALL - STANDING_BACK,
            class if class.stands_back() => STANDING_BACK,
            _ => NOT_DEMAND,
        };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(most).min(most);
        let started = self.lock().queues.join(class, kib);
        // Who goes away may have been the one that all others waited for.
        let _look_again = LookAgain(self);
        self.give_what_may();
        started.await.ok()
    }

    /// The same at once, if nobody as urgent waits for it and there is enough for others.
    pub(crate) fn hold_now(self: &Arc<Self>, class: Class, bytes: u64) -> Option<Held> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let mut state = self.lock();
        let waited_for = state.queues.first().is_some_and(|(first, _)| first <= class);
        let is_much = class.stands_back() && state.held_by(Class::stands_back).saturating_add(kib) > AT_ONCE;
        if waited_for || is_much || !state.admits(class, kib) {
            return None;
        }
        Some(self.give(&mut state, class, kib))
    }

    fn give_what_may(self: &Arc<Self>) {
        loop {
            // Sent without the lock: a waiter that is gone leaves something to be dropped, which takes the lock.
            let Some((start, held)) = self.next() else { return };
            let _ = start.send(held);
        }
    }

    fn next(self: &Arc<Self>) -> Option<(oneshot::Sender<Held>, Held)> {
        let mut state = self.lock();
        let (class, kib) = state.queues.first()?;
        if !state.admits(class, kib) {
            return None;
        }
        let start = state.queues.pop(class)?;
        Some((start, self.give(&mut state, class, kib)))
    }

    fn give(self: &Arc<Self>, state: &mut State, class: Class, kib: u32) -> Held {
        state.held[class as usize] += kib;
        Held { memory: self.clone(), class, kib }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are changed in one statement each.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admits(&self, class: Class, kib: u32) -> bool {
        let fits = |of, most| self.held_by(of).saturating_add(kib) <= most;
        fits(|_| true, ALL)
            && (class == Class::Demand || fits(|class| class != Class::Demand, NOT_DEMAND))
            && (!class.stands_back() || fits(Class::stands_back, STANDING_BACK))
    }

    /// What classes of a kind hold.
    fn held_by(&self, kind: fn(Class) -> bool) -> u32 {
        Class::ALL.into_iter().filter(|class| kind(*class)).map(|class| self.held[class as usize]).sum()
    }
}

/// Has the others look whether they may, at the end of a wait.
struct LookAgain<'m>(&'m Arc<Memory>);

impl Drop for LookAgain<'_> {
    fn drop(&mut self) {
        self.0.give_what_may();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.lock().held[self.class as usize] -= self.kib;
        self.memory.give_what_may();
    }
}
