//! Receiving: pieces of a range as they arrive, cut into spans that land while the rest is on its way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use jaunt_formats::Digest;
use tokio::time::Instant;

use super::Fetcher;
use super::lane::Passage;
use super::memory::Held;
use super::patience::Patience;
use super::run::{Run, Stop};
use crate::class::Class;
use crate::source::{ByteStream, Source, SourceError, Trouble};
use crate::trace::What;

/// How long an answer is left standing for readers that wait. After that it is abandoned: a server does not wait for
/// ever either.
const STAND_BACK: Duration = Duration::from_secs(2);

/// An answer on its way.
pub(super) struct Incoming {
    stream: ByteStream,
    passage: Passage,
    patience: Patience,
    /// Bytes of the last piece that are not used yet.
    piece: Bytes,
}

impl Incoming {
    pub(super) fn new(stream: ByteStream, passage: Passage, patience: Patience) -> Self {
        Self { stream, passage, patience, piece: Bytes::new() }
    }
}

impl Fetcher {
    /// Asks one source for what is left of a run, and lands each span as soon as it is there.
    pub(super) async fn receive(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        run: &mut Run,
        passage: Passage,
        held: Arc<Held>,
    ) -> Result<(), Stop> {
        let (blob, range) = (self.layer.converted.digest, run.blob());
        self.node.metrics.fetches.inc();
        let (begun, traced, class) = (Instant::now(), self.node.settings.trace.begin(), self.class_of(run));
        let (stream, patience) =
            (source.fetch(blob, range.clone()), Patience::new(self.node.settings.silence));
        let mut incoming = Incoming::new(stream, passage, patience);
        let mut held = Some(held);
        let mut at = range.start;
        while let Some(next) = run.front() {
            let span = self.layer.spans[next].blob_range();
            self.skip(&mut incoming, source, run, span.start - at).await?;
            let bytes = self.take(&mut incoming, source, run, span.end - span.start).await?;
            at = span.end;
            let Some(ticket) = run.pop_front(&self.layer) else { break };
            // A reader of what is still to come waits for this as well. What nobody needs any more is kept all the same: it is here.
            let class = || {
                let class = self.flights.class_of([&ticket]).into_iter().chain(self.class_of(run)).min();
                Some(class.unwrap_or(Class::Background))
            };
            let decoder = self.as_class_is(class, |class| self.node.pool.decoder(class)).await;
            let Some(decoder) = decoder else { break };
            let memory = run.memory_of(next).or_else(|| held.clone());
            self.clone().land(ticket, bytes, source.clone(), run.wrong, (decoder, memory));
            // Neighbours may stand back for long, and readers that come meanwhile need the memory.
            if run.has_its_own() && held.take().is_some() {
                self.bring_along(run, &mut incoming.passage);
            }
        }
        let class = class.unwrap_or(Class::Background);
        self.node.settings.trace.end(traced, || What::Fetch { blob, range: range.clone(), class });
        let took = begun.elapsed();
        self.node.metrics.fetch_seconds.observe(took.as_secs_f64());
        let milliseconds = took.as_secs_f64() * 1000.0;
        let (start, len) = (range.start, range.end - range.start);
        tracing::debug!(source = source.name(), %blob, start, len, milliseconds, "fetched");
        Ok(())
    }

    /// Passes over bytes between two spans.
    async fn skip(
        &self,
        incoming: &mut Incoming,
        source: &Arc<dyn Source>,
        run: &Run,
        mut len: u64,
    ) -> Result<(), Stop> {
        while len > 0 {
            self.refill(incoming, source, run).await?;
            let skipped = usize::try_from(len).unwrap_or(usize::MAX).min(incoming.piece.len());
            incoming.piece.advance(skipped);
            len -= skipped as u64;
        }
        Ok(())
    }

    /// The next `len` bytes.
    async fn take(
        &self,
        incoming: &mut Incoming,
        source: &Arc<dyn Source>,
        run: &Run,
        len: u64,
    ) -> Result<Bytes, Stop> {
        // At most 64 MiB, by the promise of `Span`.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.refill(incoming, source, run).await?;
        if incoming.piece.len() >= len {
            return Ok(incoming.piece.split_to(len));
        }
        let mut bytes = BytesMut::with_capacity(len);
        while bytes.len() < len {
            self.refill(incoming, source, run).await?;
            let wanted = (len - bytes.len()).min(incoming.piece.len());
            bytes.extend_from_slice(&incoming.piece.split_to(wanted));
        }
        Ok(bytes.freeze())
    }

    /// Makes sure that there are bytes to use.
    async fn refill(&self, incoming: &mut Incoming, source: &Arc<dyn Source>, run: &Run) -> Result<(), Stop> {
        while incoming.piece.is_empty() {
            let asked = (self.layer.converted.digest, run.blob());
            incoming.piece = self.next_bytes(incoming, source, &asked, || self.class_of(run)).await?;
        }
        Ok(())
    }

    /// The next bytes of an answer to who has `asked` for a range of a blob, as urgently as `class` says by then.
    pub(super) async fn next_bytes(
        &self,
        incoming: &mut Incoming,
        source: &Arc<dyn Source>,
        asked: &(Digest, Range<u64>),
        class: impl Fn() -> Option<Class>,
    ) -> Result<Bytes, Stop> {
        let mut begun = Instant::now();
        let failed = |trouble, cause: &str| {
            let (place, (blob, range), cause) = (source.name().to_owned(), asked.clone(), cause.into());
            Stop::Failed(SourceError { place, blob, range, trouble, cause })
        };
        let outcome = match self.next_piece(incoming, class, &mut begun).await? {
            Waited::Piece(Some(Ok(piece))) => Ok(piece),
            Waited::Piece(Some(Err(error))) => Err(Stop::Failed(error)),
            Waited::Piece(None) => Err(failed(Trouble::Broken, "the answer ended early")),
            Waited::InVain => {
                Err(failed(Trouble::Silent, "no answer, or hardly any, in all the time it had"))
            }
        };
        let piece = outcome.inspect_err(|stop| match stop {
            Stop::Failed(error) if error.trouble.may_pass() => {
                incoming.passage.failed(error.trouble == Trouble::Silent);
            }
            _ => {}
        })?;
        incoming.patience.spend(begun.elapsed(), piece.len());
        incoming.passage.delivered(piece.len() as u64);
        self.node.metrics.fetched_bytes.inc_by(piece.len() as u64);
        Ok(piece)
    }

    /// The next piece, unless nobody needs it, or it is time to stand back. What was spent on that is not waited for the piece
    /// since it `begun`.
    async fn next_piece(
        &self,
        incoming: &mut Incoming,
        class: impl Fn() -> Option<Class>,
        begun: &mut Instant,
    ) -> Result<Waited, Stop> {
        let mut ends = incoming.patience.ends(Instant::now());
        loop {
            let changed = self.flights.changed();
            let class = class().ok_or(Stop::Unneeded)?;
            incoming.passage.becomes(class);
            if class.stands_back() && !self.node.pool.urgency.is_quiet() {
                let stood = Instant::now();
                tokio::select! {
                    () = self.node.pool.urgency.quiet() => {}
                    () = changed => {}
                    () = tokio::time::sleep(STAND_BACK) => return Err(Stop::StoodBack),
                }
                ends += stood.elapsed();
                *begun += stood.elapsed();
                continue;
            }
            tokio::select! {
                biased;
                piece = incoming.stream.next() => return Ok(Waited::Piece(piece)),
                () = tokio::time::sleep_until(ends) => return Ok(Waited::InVain),
                () = changed => {}
            }
        }
    }
}

/// What waiting for a piece brought.
enum Waited {
    Piece(Option<Result<Bytes, SourceError>>),
    InVain,
}
