//! A run of spans: fetched with one request where all goes well, and with as many as it takes where not.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jaunt_formats::launch::LaunchLayer;
use tokio::time::Instant;

use super::lane::{Lane, Passage};
use super::memory::Held;
use super::round::{Next, Round};
use super::{Fetcher, Landed, Outcome};
use crate::class::Class;
use crate::read_error::ReadErrors;
use crate::single_flight::{Follower, Ticket};
use crate::source::{Source, SourceError, Trouble};
use crate::spans;

/// How long a host is left alone at most, however long it wants to be: it may be well before that.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Spans to fetch, in the order in which they lie in the blob.
pub(super) struct Run {
    tickets: VecDeque<Ticket<Outcome>>,
    blob: Range<u64>,
    /// Decoded bytes of the largest span, neighbours aside.
    largest: u64,
    /// How often they arrived wrong already.
    pub(super) wrong: usize,
    /// What it brings along beside that for which it was made.
    along: Option<Along>,
}

/// What a run brings along: neighbours of what it was made for. With its first request or not at all, so that nothing is
/// held for them while it waits.
pub(super) struct Along {
    /// What it was made for.
    pub(super) own: Range<usize>,
    /// What wants the neighbours that are still to come, once all of its own has.
    pub(super) followers: Vec<Follower<Outcome>>,
    /// Memory for them: what arrives, and a span decoded.
    pub(super) held: Arc<Held>,
}

/// Why receiving stopped before the end.
pub(super) enum Stop {
    /// Nobody needs the rest.
    Unneeded,
    /// A reader waits for something else, and has done so for long.
    StoodBack,
    /// The source failed.
    Failed(SourceError),
}

impl Run {
    pub(super) fn new(layer: &LaunchLayer, tickets: Vec<Ticket<Outcome>>) -> Self {
        let mut run = Self { tickets: tickets.into(), blob: 0..0, largest: 0, wrong: 0, along: None };
        run.measure(layer);
        run
    }

    fn measure(&mut self, layer: &LaunchLayer) {
        let keys = || self.tickets.iter().map(Ticket::key);
        self.largest = keys().map(|at| u64::from(layer.spans[at].tar_len)).max().unwrap_or(0);
        self.blob = blob_range(layer, &self.tickets);
    }

    /// The same with neighbours before it and behind it.
    pub(super) fn with(
        mut self,
        layer: &LaunchLayer,
        before: Vec<Ticket<Outcome>>,
        behind: Vec<Ticket<Outcome>>,
        along: Along,
    ) -> Self {
        self.tickets.extend(behind);
        before.into_iter().rev().for_each(|ticket| self.tickets.push_front(ticket));
        Self { blob: blob_range(layer, &self.tickets), along: Some(along), ..self }
    }

    /// Brings nothing along any more but what `is_wanted` by now, and what lies between that and its own.
    fn leave_neighbours(&mut self, layer: &LaunchLayer, is_wanted: impl Fn(&Ticket<Outcome>) -> bool) {
        let Some(Along { own, followers, .. }) = self.along.take() else { return };
        drop(followers);
        let stays = |ticket: &Ticket<Outcome>| own.contains(&ticket.key()) || is_wanted(ticket);
        let behind = self.tickets.iter().rposition(stays).map_or(0, |last| last + 1);
        self.tickets.truncate(behind);
        let before = self.tickets.iter().position(stays).unwrap_or(0);
        self.tickets.drain(..before);
        self.measure(layer);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// The next span to land.
    pub(super) fn front(&self) -> Option<usize> {
        self.tickets.front().map(Ticket::key)
    }

    /// Hands the next span's ticket over to who lands it.
    pub(super) fn pop_front(&mut self, layer: &LaunchLayer) -> Option<Ticket<Outcome>> {
        let ticket = self.tickets.pop_front()?;
        if let Some(along) = &mut self.along {
            along.followers.retain(|follower| follower.key() != ticket.key());
        }
        self.blob.start = self.front().map_or(self.blob.end, |next| layer.spans[next].blob_offset.0);
        Some(ticket)
    }

    /// The range of the blob that is still to come.
    pub(super) fn blob(&self) -> Range<u64> {
        self.blob.clone()
    }

    /// Bytes to fetch.
    pub(super) fn bytes(&self) -> u64 {
        self.blob.end - self.blob.start
    }

    /// Bytes until what it was made for is here.
    pub(super) fn own_bytes(&self, layer: &LaunchLayer) -> u64 {
        let own = self.along.as_ref().and_then(|along| spans::blob_range(layer, &along.own));
        own.map_or(self.blob.end, |own| own.end).saturating_sub(self.blob.start)
    }

    /// Whether nothing but neighbours is still to come.
    pub(super) fn has_its_own(&self) -> bool {
        self.along.as_ref().is_some_and(|along| self.front().is_none_or(|next| next >= along.own.end))
    }

    /// Memory of its own for a span: that which is held for neighbours, if it is one.
    pub(super) fn memory_of(&self, span: usize) -> Option<Arc<Held>> {
        self.along.as_ref().filter(|along| !along.own.contains(&span)).map(|along| along.held.clone())
    }

    /// Bytes that fetching it holds, beside those held for neighbours: what arrives, and two spans decoded.
    fn memory(&self, layer: &LaunchLayer) -> u64 {
        let own = self.along.as_ref().and_then(|along| spans::blob_range(layer, &along.own));
        own.map_or(self.bytes(), |own| own.end - own.start) + 2 * self.largest
    }

    /// Decoded bytes of its largest span.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    /// Ends the flights of spans that have become local.
    pub(super) fn end_local(&mut self, is_local: impl Fn(usize) -> bool) {
        for ticket in std::mem::take(&mut self.tickets) {
            match is_local(ticket.key()) {
                true => ticket.complete(Ok(Landed::Kept)),
                false => self.tickets.push_back(ticket),
            }
        }
    }

    /// Hands all tickets over to who lands them.
    pub(super) fn take_all(&mut self) -> Vec<Ticket<Outcome>> {
        self.tickets.drain(..).collect()
    }

    /// Whether a span is one that it brings along while something of its own is still to come.
    fn is_beside(&self, span: usize) -> bool {
        self.along.as_ref().is_some_and(|along| !along.own.contains(&span)) && !self.has_its_own()
    }

    pub(super) fn fail(self, error: &ReadErrors) {
        self.tickets.into_iter().for_each(|ticket| ticket.complete(Err(error.clone())));
    }
}

fn blob_range(layer: &LaunchLayer, tickets: &VecDeque<Ticket<Outcome>>) -> Range<u64> {
    match (tickets.front(), tickets.back()) {
        (Some(first), Some(last)) => {
            spans::blob_range(layer, &(first.key()..last.key() + 1)).unwrap_or_default()
        }
        _ => 0..0,
    }
}

impl Fetcher {
    /// The way to the source that is asked first.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        let first = self.sources.order(&self.layer.converted.digest).into_iter().next();
        self.node.pool.lane(first.as_deref().map_or("", Source::host))
    }

    /// How urgently a run is needed by now, if it is. Guesses at what it brings along are no reason to go on until all of its own
    /// is here; readers of that are.
    pub(super) fn class_of(&self, run: &Run) -> Option<Class> {
        let class_of = |beside: bool| {
            self.flights.class_of(run.tickets.iter().filter(|ticket| run.is_beside(ticket.key()) == beside))
        };
        let beside = class_of(true).filter(|class| !class.stands_back());
        beside.into_iter().chain(class_of(false)).min()
    }

    /// Fetches a run, with a passage to the first source or none yet.
    ///
    /// Whoever has memory has his passage, too: in the other order, those with the one would wait for those with the other.
    pub(super) async fn fetch(self: Arc<Self>, mut run: Run, mut passage: Option<Passage>) {
        let mut round = Round::new();
        // Dropping what is left of the run tells its followers, if there still are any.
        while self.class_of(&run).is_some() {
            let source = match self.next_step(&mut round) {
                Next::Ask(source) => source,
                other => {
                    passage = None;
                    self.leave_neighbours(&mut run);
                    match self.otherwise(&mut run, &mut round, other).await {
                        ControlFlow::Continue(()) => continue,
                        ControlFlow::Break(None) => return,
                        ControlFlow::Break(Some(error)) => return run.fail(&error),
                    }
                }
            };
            let (lane, chosen) = (self.node.pool.lane(source.host()), Instant::now());
            let passed = match passage.take().filter(|passage| passage.leads(&lane)) {
                Some(passage) => Some(Ok(passage)),
                None => {
                    self.leave_neighbours(&mut run);
                    let enter = |class| lane.enter(class, run.bytes()).map(Some);
                    self.as_class_is(|| self.class_of(&run), enter).await
                }
            };
            let Some(passed) = passed else { return };
            let Ok(passed) = passed else {
                round.was_not_asked(&*source);
                continue;
            };
            let Some(held) = self.hold_for(&mut run).await.map(Arc::new) else { return };
            if lane.fell_silent_after(chosen) {
                // Found out by others while this waited.
                round.was_not_asked(&*source);
                continue;
            }
            let start = run.blob().start;
            let received = self.receive(&source, &mut run, passed, held).await;
            match received {
                Ok(()) => return self.note_trouble(None),
                Err(Stop::Unneeded) => return,
                Err(Stop::StoodBack) => {
                    round.again(source);
                    self.leave_neighbours(&mut run);
                    self.stand_back(&run).await;
                }
                Err(Stop::Failed(error)) => {
                    tracing::debug!(%error, cause = %error.cause, "a source did not give a range");
                    self.note_failure(&source, &error, start);
                    let error = Arc::new(error);
                    self.note_trouble(Some(error.clone()));
                    round.failed(&*source, error);
                    self.leave_neighbours(&mut run);
                }
            }
        }
    }

    /// Neighbours that readers have come to wait for stay.
    fn leave_neighbours(&self, run: &mut Run) {
        run.leave_neighbours(&self.layer, |ticket| {
            self.flights.class_of([ticket]).is_some_and(|class| !class.stands_back())
        });
    }

    /// Goes on with what a run brings along, all of its own being here, as what it is needed for by now.
    pub(super) fn bring_along(&self, run: &mut Run, passage: &mut Passage) {
        let Some(along) = &mut run.along else { return };
        let join = |ticket: &Ticket<Outcome>| self.flights.join(ticket.key(), Class::Nearby).0;
        along.followers = run.tickets.iter().map(join).collect();
        passage.becomes(self.class_of(run).unwrap_or(Class::Nearby));
        passage.expect(run.bytes());
    }

    /// Waits until no reader waits, unless one comes to need the run.
    async fn stand_back(&self, run: &Run) {
        let urgency = &self.node.pool.urgency;
        let turn = |class: Class| async move {
            if class.stands_back() {
                urgency.quiet().await;
            }
            Some(())
        };
        // Whether it is still needed is looked at next.
        let _ = self.as_class_is(|| self.class_of(run), turn).await;
    }

    /// Memory for a run and, where there is some at once, for what it brings along as well; `None` once nobody needs it any more.
    async fn hold_for(&self, run: &mut Run) -> Option<Held> {
        if run.along.is_some() {
            let class = self.class_of(run)?;
            if let Some(held) = self.node.pool.hold_now(class, run.memory(&self.layer)) {
                return Some(held);
            }
            self.leave_neighbours(run);
        }
        self.hold(run, run.memory(&self.layer)).await
    }

    /// Memory of so many bytes for a run; `None` once nobody needs it any more.
    pub(super) async fn hold(&self, run: &Run, bytes: u64) -> Option<Held> {
        self.as_class_is(|| self.class_of(run), |class| self.node.pool.hold(class, bytes)).await
    }

    /// Waits for something that depends on the class, beginning anew when that changes; `None` once there is none.
    pub(super) async fn as_class_is<T, F: Future<Output = Option<T>>>(
        &self,
        class: impl Fn() -> Option<Class>,
        wait: impl Fn(Class) -> F,
    ) -> Option<T> {
        let mut now = class()?;
        'anew: loop {
            let mut waiting = std::pin::pin!(wait(now));
            loop {
                let changed = self.flights.changed();
                let then = std::mem::replace(&mut now, class()?);
                if now != then {
                    continue 'anew;
                }
                tokio::select! {
                    had = &mut waiting => return had,
                    () = changed => {}
                }
            }
        }
    }

    fn next_step(&self, round: &mut Round) -> Next {
        let standing = |host: &str| self.node.pool.lane(host).standing();
        match self.skips_converted() {
            Some(why) => Next::GiveUp(why),
            None => round.next(&self.sources, &self.layer.converted.digest, standing),
        }
    }

    /// Notes what a source answered that was asked for a blob's bytes from `start` on, for whoever asks it next.
    pub(super) fn note_failure(&self, source: &Arc<dyn Source>, error: &SourceError, start: u64) {
        self.node.metrics.note_failure(source.host(), error.trouble.name());
        self.sources.failed(&**source, &error.blob, error.trouble);
        match error.trouble {
            Trouble::Busy { rest } => {
                self.node.pool.lane(source.host()).rest(Instant::now() + rest.min(LONGEST_REST));
            }
            Trouble::Silent => source.kept_silent(&error.blob, start),
            _ => {}
        }
    }

    /// What there is to do when no source of the converted blob is asked: the original, where it is gone for good, and
    /// waiting, where trouble may pass. Ends with an error where neither helps.
    async fn otherwise(
        self: &Arc<Self>,
        run: &mut Run,
        round: &mut Round,
        next: Next,
    ) -> ControlFlow<Option<ReadErrors>> {
        let (why, mut pause) = match next {
            Next::Ask(_) => return ControlFlow::Continue(()),
            Next::Wait { pause, gone } => (gone, Some(pause)),
            Next::GiveUp(why) => (Some(why), None),
        };
        if let Some(why) = why {
            match self.land_original(run, &why).await {
                Ok(()) => return ControlFlow::Break(None),
                Err(none) if none.may_pass => pause = Some(pause.unwrap_or_else(|| round.pause())),
                Err(none) if pause.is_none() => return ControlFlow::Break(Some(none.error)),
                Err(_) => {}
            }
        }
        if let Some(pause) = pause {
            self.pause(run, pause).await;
        }
        ControlFlow::Continue(())
    }

    /// Waits, but not longer than the run is needed.
    async fn pause(&self, run: &Run, pause: Duration) {
        let mut pause = std::pin::pin!(tokio::time::sleep(pause));
        loop {
            let changed = self.flights.changed();
            if self.class_of(run).is_none() {
                return;
            }
            tokio::select! {
                () = &mut pause => return,
                () = changed => {}
            }
        }
    }
}
