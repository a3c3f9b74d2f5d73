//! One host's turn in a call, and the time that it has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::hosts::Route;
use crate::target::Target;

/// The time a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) end: Instant,
    /// The whole of it, for the error.
    pub(crate) limit: Duration,
}

/// One host's turn to answer a call.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) route: Arc<Route>,
    /// When it began.
    pub(crate) begun: Instant,
    /// Whether no other host is left to be asked.
    pub(crate) last: bool,
    pub(crate) deadline: Option<Deadline>,
}

impl Turn {
    /// The registry's own turn, or a mirror's: a part of the call, within the time there is for it.
    pub(crate) async fn bounded<T>(
        &self,
        target: &Target,
        part: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(Deadline { end, limit: after }) = self.deadline else { return part.await };
        let late = |_| Err(Error::Deadline { target: Box::new(target.clone()), after });
        tokio::time::timeout_at(end.into(), part).await.unwrap_or_else(late)
    }

    /// When it is over.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline.end)
    }

    /// Lets it take as long as it will.
    pub(crate) fn unbounded(&mut self) {
        self.deadline = None;
    }
}

impl Deadline {
    /// What one host may use of it while `others` wait behind it.
    pub(crate) fn share(self, others: u32) -> Self {
        let now = Instant::now();
        let left = self.end.saturating_duration_since(now);
        Self { end: now + left / others.saturating_add(1), limit: self.limit }
    }
}
