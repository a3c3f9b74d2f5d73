//! Who waits for a turn, by class: the most urgent class first, and within a class who came first.
//!
//! What there is a turn of (a lane, memory) decides whether the first may have it; nobody overtakes who must wait.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::class::Class;

/// Waiters that each wish for a `W`, and are sent a `T` when it is their turn.
pub(super) struct Queues<W, T>([VecDeque<(W, oneshot::Sender<T>)>; Class::ALL.len()]);

impl<W, T> Default for Queues<W, T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| VecDeque::new()))
    }
}

impl<W: Copy, T> Queues<W, T> {
    /// Comes to stand at the end of a class. Who drops the answer has gone away.
    pub(super) fn join(&mut self, class: Class, wish: W) -> oneshot::Receiver<T> {
        let (start, started) = oneshot::channel();
        self.0[class as usize].push_back((wish, start));
        started
    }

    /// Who is next, and what for. Those before him have gone away.
    pub(super) fn first(&mut self) -> Option<(Class, W)> {
        Class::ALL.into_iter().find_map(|class| {
            let queue = &mut self.0[class as usize];
            queue.retain(|(_, start)| !start.is_closed());
            queue.front().map(|(wish, _)| (class, *wish))
        })
    }

    /// Takes the first of a class, who has his turn.
    pub(super) fn pop(&mut self, class: Class) -> Option<oneshot::Sender<T>> {
        self.0[class as usize].pop_front().map(|(_, start)| start)
    }
}
