//! From wanted spans to runs, each in its turn.

use std::ops::Range;
use std::sync::Arc;

use super::run::{Along, Run};
use super::{Fetcher, Outcome};
use crate::class::Class;
use crate::single_flight::Ticket;
use crate::spans;

/// Requests to a host that stand back, from which number on none brings anything along.
const STANDING_BACK: usize = 4;

/// What a request brings beside what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nothing.
    Nothing,
    /// What lies around it, as far as that takes little more time than the request itself.
    Neighbours,
}

impl Fetcher {
    /// Sees to it that those of a run of spans that are wanted are fetched, as `class` has its turn.
    pub(crate) fn dispatch(self: &Arc<Self>, keys: Range<usize>, class: Class, beside: Beside) {
        let this = self.clone();
        tokio::spawn(async move { this.fetch_wanted(keys, class, beside).await });
    }

    async fn fetch_wanted(self: Arc<Self>, keys: Range<usize>, class: Class, beside: Beside) {
        // Whoever wants them may be gone, and others may have taken them along, by the time it is their turn.
        while let Some(first) = self.flights.first_wanted(keys.clone(), class) {
            if class.stands_back() {
                self.node.pool.urgency.quiet().await;
            }
            let request = spans::one_request(&self.layer, &(first..keys.end));
            let bytes = spans::blob_range(&self.layer, &request).map_or(0, |range| range.end - range.start);
            // A host that rests is nothing to wait for: whom else to ask is for the run to see.
            let mut passage = self.lane().enter(class, bytes).await.ok();
            // Neither does a run pass over what is here: that would be fetched again.
            let fits = |first, last, joint| {
                spans::fit(&self.layer, first, last, joint) && self.nothing_local_between(joint)
            };
            let tickets = self.flights.take(first, class, fits);
            let run = match beside {
                Beside::Neighbours if passage.is_some() => self.with_neighbours(tickets),
                _ => Run::new(&self.layer, tickets),
            };
            if run.is_empty() {
                continue;
            }
            if let Some(passage) = &mut passage {
                passage.expect(run.own_bytes(&self.layer));
            }
            if self.flights.first_wanted(keys.clone(), class).is_some() {
                self.dispatch(keys, class, beside);
            }
            return self.fetch(run, passage).await;
        }
    }

    /// A run of what was taken, and of what lies around it as far as that is cheap: a request less. Memory for that is what
    /// those that stand back may have, so that no reader waits for it.
    fn with_neighbours(self: &Arc<Self>, tickets: Vec<Ticket<Outcome>>) -> Run {
        let own = match (tickets.first(), tickets.last()) {
            (Some(first), Some(last)) => first.key()..last.key() + 1,
            _ => 0..0,
        };
        let run = Run::new(&self.layer, tickets);
        let lane = self.lane();
        let in_trouble = self.last_trouble().is_some() || self.node.unkept.fails(&self.layer.diff_id.0);
        if run.is_empty() || in_trouble || lane.standing_back() >= STANDING_BACK {
            return run;
        }
        // What other readers wait for is not to wait for what lies between.
        let leave_out =
            |at| self.is_local(at) || self.flights.first_wanted(at..at + 1, Class::Ahead).is_some();
        let (before, behind) = spans::beside(&self.layer, &own, lane.round_trip(), leave_out);
        let neighbours: Vec<usize> = before.clone().chain(behind.clone()).collect();
        let decoded = |at: &usize| u64::from(self.layer.spans[*at].tar_len);
        let Some(largest) = neighbours.iter().map(decoded).max() else { return run };
        let len = |of| spans::blob_range(&self.layer, of).map_or(0, |range| range.end - range.start);
        let held = self.node.pool.hold_now(Class::Nearby, len(&before) + len(&behind) + largest);
        let Some(held) = held.map(Arc::new) else { return run };
        let (followers, news) = self.join(&neighbours, Class::Nearby);
        let take = |nearest: Option<usize>, side: &Range<usize>| {
            let fits = |first, last, joint| {
                side.start <= first && last < side.end && self.nothing_local_between(joint)
            };
            nearest.map_or_else(Vec::new, |nearest| self.flights.take(nearest, Class::Nearby, fits))
        };
        let before_own = take(before.clone().next_back(), &before);
        let behind_own = take(behind.clone().next(), &behind);
        // Nobody wants them for their own sake: without a reader of the miss nothing comes along. Those who have come to want what
        // others took meanwhile are seen to.
        drop(followers);
        if let Some(news) = news
            && self.flights.first_wanted(news.clone(), Class::Nearby).is_some()
        {
            self.dispatch(news, Class::Nearby, Beside::Nothing);
        }
        if before_own.is_empty() && behind_own.is_empty() {
            return run;
        }
        run.with(&self.layer, before_own, behind_own, Along { own, followers: Vec::new(), held })
    }

    /// Whether none of the spans between two is here.
    fn nothing_local_between(&self, joint: (usize, usize)) -> bool {
        (joint.0 + 1..joint.1).all(|at| !self.is_local(at))
    }
}
