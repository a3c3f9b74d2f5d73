//! Wanting spans: joining those that are missing, and waiting for them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::dispatch::Beside;
use super::{Fetcher, Landed, Outcome};
use crate::class::Class;
use crate::read_error::{ReadError, ReadErrors};
use crate::single_flight::Follower;

/// Rounds with a fetch that ended without an outcome: the next heals it; more would only spin while the daemon stops.
const LOST: usize = 3;
const SECOND: Duration = Duration::from_secs(1);
/// How long nothing may come of what nobody has asked for yet.
const GUESS: Duration = Duration::from_secs(5);

impl Fetcher {
    /// For each of a run of spans: its bytes, or `None` where they are in the store. Cancel-safe: who goes away takes
    /// his wish back, and a fetch that nobody needs stops.
    ///
    /// # Errors
    /// A span could not be had, or not by `deadline`.
    pub(crate) async fn want(
        self: &Arc<Self>,
        spans: Range<usize>,
        class: Class,
        beside: Beside,
        deadline: Option<Instant>,
    ) -> Result<Vec<Option<Landed>>, ReadErrors> {
        let begun = Instant::now();
        let mut landed: Vec<Option<Landed>> = vec![None; spans.len()];
        let mut lost = 0;
        // What the store took away while this waited for the rest is missing in the next round; what has landed is not.
        while lost < LOST {
            let missing = |at: &usize| landed[at - spans.start].is_none() && !self.is_local(*at);
            let missing: Vec<usize> = spans.clone().filter(missing).collect();
            if missing.is_empty() {
                return Ok(landed);
            }
            let mut all_told = true;
            for follower in self.join_and_see_to(&missing, class, beside) {
                let at = follower.key() - spans.start;
                let Some(outcome) = self.outcome(follower, begun, deadline).await? else {
                    all_told = false;
                    continue;
                };
                // Who does not read drops the bytes at once.
                let outcome = outcome?;
                landed[at] = Some(if class == Class::Demand { outcome } else { Landed::Kept });
            }
            lost += usize::from(!all_told);
        }
        Err(ReadErrors::from(ReadError::Abandoned { diff_id: self.layer.diff_id.0 }))
    }

    /// Fetches what is missing of a run of spans, for somebody who may come to read it. Given up when nothing has come for
    /// some seconds, and not begun while the layer's sources are in trouble.
    pub(crate) async fn guess(self: &Arc<Self>, spans: Range<usize>, class: Class) {
        if self.last_trouble().is_some() {
            return;
        }
        let missing: Vec<usize> = spans.filter(|at| !self.is_local(*at)).collect();
        let mut wanted: FuturesUnordered<_> =
            self.join_and_see_to(&missing, class, Beside::Nothing).into_iter().collect();
        // What lands is in the store or, where that is full, dropped: nobody reads it now.
        while let Ok(Some(outcome)) = tokio::time::timeout(GUESS, wanted.next()).await {
            if let Some(Err(error)) = outcome {
                tracing::debug!(%error, "a fetch ahead of readers failed");
                return;
            }
        }
    }

    /// Joins every span, and sees to those that nobody has seen to yet.
    fn join_and_see_to(
        self: &Arc<Self>,
        missing: &[usize],
        class: Class,
        beside: Beside,
    ) -> Vec<Follower<Outcome>> {
        let (followers, news) = self.join(missing, class);
        if let Some(news) = news {
            self.dispatch(news, class, beside);
        }
        followers
    }

    /// Joins every span. The second value has those that nobody has seen to yet, as the caller must.
    pub(super) fn join(
        &self,
        missing: &[usize],
        class: Class,
    ) -> (Vec<Follower<Outcome>>, Option<Range<usize>>) {
        let mut followers = Vec::with_capacity(missing.len());
        let mut news: Option<Range<usize>> = None;
        for &at in missing {
            let (follower, new) = self.flights.join(at, class);
            if new && self.is_local(at) {
                // It landed between the look at the store and the join; others may have joined since.
                let landed = self.flights.take(at, class, |_, _, _| false);
                landed.into_iter().for_each(|ticket| ticket.complete(Ok(Landed::Kept)));
            } else if new {
                news = Some(news.map_or(at, |news| news.start)..at + 1);
            }
            followers.push(follower);
        }
        (followers, news)
    }

    async fn outcome(
        &self,
        mut follower: Follower<Outcome>,
        begun: Instant,
        deadline: Option<Instant>,
    ) -> Result<Option<Outcome>, ReadErrors> {
        let Some(mut deadline) = deadline else { return Ok(follower.await) };
        let after = self.node.settings.read_deadline;
        loop {
            if let Ok(outcome) = tokio::time::timeout_at(deadline, &mut follower).await {
                return Ok(outcome);
            }
            // An original that comes is no outage.
            match self.original.worth_waiting(begun, after) {
                Some(later) => deadline = later,
                None => {
                    let (diff_id, last) = (self.layer.diff_id.0, self.last_trouble());
                    // Whole seconds are enough to say.
                    let after = Duration::from_secs(begun.elapsed().as_secs()).max(after.min(SECOND));
                    return Err(ReadErrors::from(ReadError::Deadline { diff_id, after, last }));
                }
            }
        }
    }
}
