//! One layer, readable at any tar offset: from the store where it is there, else through the source.
//!
//! A miss becomes one fetch for each run of neighbouring missing spans, whoever else wants them meanwhile
//! follows; each span is verified, decoded, kept, and only then handed on. A span whose bytes are wrong is
//! fetched once more by itself, then it is an error to those who wait for it, and to nobody else.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::{Digest, Span};

use crate::prefetch::{Misses, Prefetcher};
use crate::recent_failures::RecentFailures;
use crate::single_flight::{Follower, Joined, SingleFlight, Ticket};
use crate::source::{Source, SourceError, SourceSet};
use crate::store::{LargeFiles, LayerFile, Store};
use crate::verify::{TarBytes, VerifyError, verify};

/// Compressed bytes fetched with one request at most: beyond it, two requests share the line as well.
const MAX_FETCH: u64 = 4 << 20;
/// Bytes of tar that one request brings at most. Zeros compress a thousandfold, and what a request brings is
/// held in memory until it has been handed on: 4 MiB of such a blob would be gigabytes.
const MAX_FETCH_TAR: u64 = 16 << 20;
/// Bytes of tar prefetched on either side of a miss at most: eight times the compressed reach.
const MAX_PREFETCH_TAR: u64 = 4 << 20;
/// How often wrong bytes are fetched again.
const REFETCHES: u32 = 1;

/// A layer of an image. Cheap to clone.
#[derive(Clone)]
pub struct Layer(pub(crate) Arc<Inner>);

/// What all holders of a layer share.
pub(crate) struct Inner {
    layer: LaunchLayer,
    large: LargeFiles,
    store: Arc<Store>,
    file: OnceLock<Arc<LayerFile>>,
    sources: SourceSet,
    flights: SingleFlight<usize, Outcome>,
    failures: RecentFailures<usize, Arc<ReadError>>,
    misses: Misses,
    prefetcher: Prefetcher,
    counters: Arc<Counters>,
}

type Outcome = Result<TarBytes, Arc<ReadError>>;

/// What reading has cost, over all layers that share it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests to the source.
    pub fetches: AtomicU64,
    /// Compressed bytes that arrived.
    pub fetched_bytes: AtomicU64,
    /// Spans that arrived with wrong bytes.
    pub wrong_spans: AtomicU64,
}

/// Why a range of a layer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be fetched.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What was fetched is not what the index says, twice.
    #[error("span at tar offset {} of layer {diff_id}: bytes {}..{} of blob {blob} are wrong", span.tar_offset, span.blob_range().start, span.blob_range().end)]
    Wrong {
        /// The layer's diffID.
        diff_id: Digest,
        /// The blob.
        blob: Digest,
        /// The span.
        span: Box<Span>,
        /// In what way.
        #[source]
        source: VerifyError,
    },
    /// The range lies beyond the layer, or in no span of it.
    #[error("bytes {}..{} lie outside the spans of layer {diff_id}", range.start, range.end)]
    OutOfRange {
        /// The layer's diffID.
        diff_id: Digest,
        /// The range.
        range: Range<u64>,
    },
    /// The store lost it as fast as it was fetched.
    #[error("layer {diff_id} does not stay in the store")]
    Store {
        /// The layer's diffID.
        diff_id: Digest,
    },
    /// A fetch ended without an outcome, again and again: the daemon is stopping.
    #[error("the fetch of layer {diff_id} was abandoned")]
    Abandoned {
        /// The layer's diffID.
        diff_id: Digest,
    },
}

impl Layer {
    /// A layer that no source is known of yet. `Layers` makes them.
    pub(crate) fn new(
        layer: LaunchLayer,
        large: LargeFiles,
        store: Arc<Store>,
        prefetcher: Prefetcher,
        counters: Arc<Counters>,
    ) -> Self {
        Self(Arc::new(Inner {
            layer,
            large,
            store,
            file: OnceLock::new(),
            sources: SourceSet::default(),
            flights: SingleFlight::new(),
            failures: RecentFailures::default(),
            misses: Misses::default(),
            prefetcher,
            counters,
        }))
    }

    /// What the index says of it.
    pub fn launch(&self) -> &LaunchLayer {
        &self.0.layer
    }

    /// Adds places that it may be fetched from.
    pub fn learn(&self, sources: &[Arc<dyn Source>]) {
        sources.iter().for_each(|source| self.0.sources.learn(source));
    }

    /// Its local file.
    pub fn file(&self) -> &LayerFile {
        self.0.file()
    }

    /// The range's bytes if all of them are local. Blocks on the disk at most.
    pub fn read_local(&self, range: &Range<u64>) -> Option<Bytes> {
        let file = self.0.file();
        file.has(range).then(|| file.read(range)).flatten()
    }

    /// The range's bytes, fetched if need be. Cancel-safe: fetches under way go on for others and for the store.
    ///
    /// # Errors
    /// A part of it can neither be found in the store nor fetched and verified.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, ReadErrors> {
        let inner = &self.0;
        let spans = inner.spans_of(&range)?;
        let _waiting = inner.prefetcher.stand_back();
        self.suggest_neighbours(&spans);
        // What the store turns out not to have any more when it is read is missing in the next round.
        for _ in 0..3 {
            let fetched = self.fetch_missing(spans.clone()).await?;
            if let Some(bytes) = inner.assemble(&range, spans.clone(), &fetched) {
                return Ok(bytes);
            }
        }
        Err(ReadErrors::from(ReadError::Store { diff_id: inner.layer.diff_id.0 }))
    }

    /// Fetches what is missing of a run of spans into the store, for nobody in particular. Failures are left to
    /// the reader who will really want it.
    pub async fn prefetch(&self, spans: Range<usize>) {
        if let Err(error) = self.fetch_missing(spans).await {
            tracing::debug!(%error, "a prefetch failed");
        }
    }

    fn suggest_neighbours(&self, spans: &Range<usize>) {
        let Some(miss) = self.0.blob_range(spans) else { return };
        if let Some(around) = self.0.misses.note(&miss) {
            let (before, after) = self.0.spans_in_blob(&around, spans);
            for side in [before, after] {
                if !side.clone().all(|span| self.0.is_local(span)) {
                    let layer = self.clone();
                    self.0.prefetcher.suggest(async move { layer.prefetch(side).await });
                }
            }
        }
    }

    /// For each span of the range: its bytes, or `None` where they are in the store.
    async fn fetch_missing(&self, spans: Range<usize>) -> Result<Vec<Option<TarBytes>>, ReadErrors> {
        // Two rounds heal a leader that went away; more would only spin while the daemon stops.
        let mut results: Vec<Option<TarBytes>> = vec![None; spans.len()];
        for _ in 0..3 {
            let pending = self.join(spans.clone(), &results);
            if pending.is_empty() {
                return Ok(results);
            }
            for (span, follower) in pending {
                if let Some(outcome) = follower.outcome().await {
                    results[span - spans.start] = Some(outcome?);
                }
            }
        }
        Err(ReadErrors::from(ReadError::Abandoned { diff_id: self.0.layer.diff_id.0 }))
    }

    /// Starts a fetch for each run of missing spans that nobody is fetching, and follows all missing ones.
    fn join(&self, spans: Range<usize>, have: &[Option<TarBytes>]) -> Vec<(usize, Follower<Outcome>)> {
        let mut pending = Vec::new();
        let mut run: Vec<Ticket<usize, Outcome>> = Vec::new();
        for at in spans.clone().filter(|at| have[at - spans.start].is_none()) {
            if self.0.is_local(at) {
                continue;
            }
            match self.0.flights.join(at) {
                Joined::Follower(follower) => pending.push((at, follower)),
                // It may have landed between the first look and the join.
                Joined::Leader(_) if self.0.is_local(at) => {}
                Joined::Leader(ticket) => {
                    pending.push((at, ticket.follow()));
                    if !self.0.extends(&run, at) {
                        self.start(std::mem::take(&mut run));
                    }
                    run.push(ticket);
                }
            }
        }
        self.start(run);
        pending
    }

    fn start(&self, run: Vec<Ticket<usize, Outcome>>) {
        if !run.is_empty() {
            let inner = self.0.clone();
            tokio::spawn(async move { inner.fetch_run(run).await });
        }
    }
}

/// An outcome that several readers may share.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadErrors(Arc<ReadError>);

impl From<ReadError> for ReadErrors {
    fn from(error: ReadError) -> Self {
        Self(Arc::new(error))
    }
}

impl From<Arc<ReadError>> for ReadErrors {
    fn from(error: Arc<ReadError>) -> Self {
        Self(error)
    }
}

impl Inner {
    /// The local file, opened by the first read: a mount has more layers than its container reads.
    fn file(&self) -> &LayerFile {
        self.file.get_or_init(|| self.store.layer(&self.layer, &self.large))
    }

    /// The spans that cover a range of the tar.
    fn spans_of(&self, range: &Range<u64>) -> Result<Range<usize>, ReadError> {
        // Where only content has digests, headers are in no span; the index has no file there.
        if range.start > range.end || range.end > self.layer.tar_len || !self.layer.covers(range) {
            return Err(ReadError::OutOfRange { diff_id: self.layer.diff_id.0, range: range.clone() });
        }
        let spans = &self.layer.spans;
        let first = spans.partition_point(|span| span.tar_range().end <= range.start);
        let last = spans.partition_point(|span| span.tar_offset.0 < range.end);
        Ok(first..last.max(first))
    }

    /// A range, out of what was fetched of its spans and what the store has of the others. Reads all of them,
    /// so that whatever the store has lost is known after one round.
    fn assemble(
        &self,
        range: &Range<u64>,
        spans: Range<usize>,
        fetched: &[Option<TarBytes>],
    ) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
        let mut whole = true;
        for (span, fetched) in self.layer.spans[spans].iter().zip(fetched) {
            let own = span.tar_range();
            let part = range.start.max(own.start)..range.end.min(own.end);
            match fetched {
                Some(fetched) => bytes.extend_from_slice(fetched.slice(&part)),
                None => match self.file().read(&part) {
                    Some(local) => bytes.extend_from_slice(&local),
                    None => whole = false,
                },
            }
        }
        whole.then_some(bytes)
    }

    /// Where a run of spans lies in the blob; `None` for an empty run.
    fn blob_range(&self, spans: &Range<usize>) -> Option<Range<u64>> {
        let run = self.layer.spans.get(spans.clone())?;
        Some(run.first()?.blob_range().start..run.last()?.blob_range().end)
    }

    /// The spans that start in a blob range, and not far off in the tar, before and behind a run of them.
    fn spans_in_blob(&self, range: &Range<u64>, around: &Range<usize>) -> (Range<usize>, Range<usize>) {
        let spans = &self.layer.spans;
        let tar_start = |at: usize| spans.get(at).map_or(self.layer.tar_len, |span| span.tar_offset.0);
        let lowest = tar_start(around.start).saturating_sub(MAX_PREFETCH_TAR);
        let highest = tar_start(around.end).saturating_add(MAX_PREFETCH_TAR);
        let first =
            spans.partition_point(|span| span.blob_offset.0 < range.start || span.tar_offset.0 < lowest);
        let last =
            spans.partition_point(|span| span.blob_offset.0 < range.end && span.tar_range().end <= highest);
        (first.min(around.start)..around.start, around.end..last.max(around.end))
    }

    fn is_local(&self, span: usize) -> bool {
        self.file().has(&self.layer.spans[span].tar_range())
    }

    /// Whether span `at` can ride with the request for `run`.
    fn extends(&self, run: &[Ticket<usize, Outcome>], at: usize) -> bool {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return true };
        let first = &self.layer.spans[*first.key()];
        let (before, next) = (&self.layer.spans[*last.key()], &self.layer.spans[at]);
        before.blob_range().end == next.blob_range().start
            && next.blob_range().end - first.blob_offset.0 <= MAX_FETCH
            && next.tar_range().end - first.tar_offset.0 <= MAX_FETCH_TAR
    }

    /// Fetches neighbouring spans with one request and reports each.
    async fn fetch_run(self: Arc<Self>, run: Vec<Ticket<usize, Outcome>>) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
        let (spans, keys) = (&self.layer.spans, *first.key()..*last.key() + 1);
        if let Some(error) = self.failures.find(keys.clone()) {
            return run.into_iter().for_each(|ticket| ticket.complete(Err(error.clone())));
        }
        let range = spans[*first.key()].blob_range().start..spans[*last.key()].blob_range().end;
        let begun = Instant::now();
        match self.fetch(range.clone()).await {
            Err(error) => {
                let error = Arc::new(ReadError::from(error));
                self.failures.note(keys, &error, begun.elapsed());
                run.into_iter().for_each(|ticket| ticket.complete(Err(error.clone())));
            }
            Ok(bytes) => {
                for ticket in run {
                    let span = spans[*ticket.key()].blob_range();
                    let part = slice(&bytes, span.start - range.start..span.end - range.start);
                    let outcome = self.clone().land(*ticket.key(), part).await;
                    ticket.complete(outcome.map_err(Arc::new));
                }
            }
        }
    }

    /// Verifies, decodes and keeps one span; fetches it again if its bytes are wrong.
    async fn land(self: Arc<Self>, at: usize, mut bytes: Bytes) -> Result<TarBytes, ReadError> {
        let mut refetches = 0;
        loop {
            let this = self.clone();
            // Hashing and decoding half a mebibyte takes a millisecond: not on a thread that serves others.
            let verified = tokio::task::spawn_blocking(move || this.open_span(at, &bytes)).await;
            match verified.map_err(|_| ReadError::Abandoned { diff_id: self.layer.diff_id.0 })? {
                Ok(verified) => return Ok(verified),
                Err(source) => {
                    self.counters.wrong_spans.fetch_add(1, Ordering::Relaxed);
                    let span = Box::new(self.layer.spans[at]);
                    let (diff_id, blob) = (self.layer.diff_id.0, self.layer.converted.digest);
                    let wrong = ReadError::Wrong { diff_id, blob, span, source };
                    if refetches == REFETCHES {
                        return Err(wrong);
                    }
                    tracing::warn!(error = %wrong, "fetching it again");
                    refetches += 1;
                    bytes = self.fetch(self.layer.spans[at].blob_range()).await?;
                }
            }
        }
    }

    fn open_span(&self, at: usize, bytes: &[u8]) -> Result<TarBytes, VerifyError> {
        let verified = verify(&self.layer.spans[at], self.layer.scope, bytes)?;
        if let Err(error) = self.file().keep(&verified) {
            // A full disk costs a fetch the next time; it must not cost the reader who waits now.
            tracing::warn!(diff_id = %self.layer.diff_id, %error, "a span cannot be kept; it is served from memory");
        }
        Ok(verified)
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, SourceError> {
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        let (start, begun) = (range.start, Instant::now());
        let bytes = self.sources.fetch(self.layer.converted.digest, range).await?;
        self.counters.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(blob = %self.layer.converted.digest, start, len = bytes.len(), milliseconds, "fetched");
        Ok(bytes)
    }
}

/// A part of what a source gave; empty, and so refused by `verify`, where the source gave too little.
fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    match part {
        Some((start, end)) if end <= bytes.len() => bytes.slice(start..end),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
