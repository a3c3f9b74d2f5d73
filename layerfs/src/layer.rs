//! One layer, readable at any tar offset: from the store where it is there, else fetched.
//!
//! Reads that miss and find one another's neighbourhood bring what lies around them as well ([`prefetch`](crate::prefetch)).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jaunt_formats::launch::LaunchLayer;
use tokio::time::Instant;

use crate::class::Class;
use crate::fetch::{Beside, Fetcher, Landed};
use crate::prefetch::{Misses, Prefetcher};
use crate::recent_failures::RecentFailures;
use crate::source::Source;
use crate::spans;
use crate::store::LayerFile;

pub use crate::read_error::{OriginalError, ReadError, ReadErrors};

/// How long a reader that waits makes everything else stand back. One whose registry does not answer must not stop
/// what others prefetch.
const URGENT: Duration = Duration::from_secs(2);
/// Bytes of tar fetched ahead of a reader in sequence, whatever the line.
const LEAST_AHEAD: u64 = 8 << 20;
const MOST_AHEAD: u64 = 32 << 20;
/// How often a read starts over because the store lost what it had.
const ROUNDS: usize = 3;

/// A layer of an image. Cheap to clone. When the last of its clones is gone, its fetches stop.
#[derive(Clone)]
pub struct Layer(pub(crate) Arc<Handle>);

/// What the holders of a layer share.
pub(crate) struct Handle {
    fetcher: Arc<Fetcher>,
    failures: RecentFailures<usize, ReadErrors>,
    misses: Misses,
    prefetcher: Prefetcher,
}

impl Layer {
    /// A layer that no source is known of yet. `Layers` makes them.
    pub(crate) fn new(fetcher: Arc<Fetcher>, prefetcher: Prefetcher) -> Self {
        let (failures, misses) = (RecentFailures::default(), Misses::default());
        Self(Arc::new(Handle { fetcher, failures, misses, prefetcher }))
    }

    /// What the index says of it.
    pub fn launch(&self) -> &LaunchLayer {
        &self.0.fetcher.layer
    }

    /// Adds places that it may be fetched from.
    pub fn learn(&self, sources: &[Arc<dyn Source>]) {
        sources.iter().for_each(|source| self.0.fetcher.sources.learn(source));
    }

    /// What fetches it.
    pub(crate) fn fetcher(&self) -> &Arc<Fetcher> {
        &self.0.fetcher
    }

    /// Its local file.
    pub fn file(&self) -> &Arc<LayerFile> {
        self.0.fetcher.file()
    }

    /// Bytes of it that are local. Opens no file.
    pub fn present_bytes(&self) -> u64 {
        self.0.fetcher.present_bytes()
    }

    /// Bytes that there are to be had of it.
    pub fn total_bytes(&self) -> u64 {
        self.launch().spans.iter().map(|span| u64::from(span.tar_len)).sum()
    }

    /// The range's bytes if all of them are local. Blocks on the disk at most.
    pub fn read_local(&self, range: &Range<u64>) -> Option<Bytes> {
        let file = self.file();
        file.has(range).then(|| file.read(range)).flatten()
    }

    /// The range's bytes, fetched if need be. Cancel-safe: a fetch that others wait for as well goes on.
    ///
    /// # Errors
    /// A part of it can neither be found in the store nor fetched and verified, or not in the time a read may take.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, ReadErrors> {
        self.read_around(range, true).await
    }

    /// The same for a part of something large: what lies around it is not fetched as well, however near another miss was.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn read_alone(&self, range: Range<u64>) -> Result<Vec<u8>, ReadErrors> {
        self.read_around(range, false).await
    }

    /// A fetch of what is missing of a range, for a reader who will come to it; `None` where nothing is.
    pub(crate) fn ahead(&self, range: &Range<u64>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let fetcher = self.0.fetcher.clone();
        let spans = spans::covering(&fetcher.layer, range)?;
        let missing = |at: &usize| !fetcher.is_local(*at);
        let (first, last) = (spans.clone().find(missing)?, spans.clone().rfind(missing)?);
        let ahead = fetcher.node.settings.ahead;
        ahead.then_some(async move { fetcher.guess(first..last + 1, Class::Ahead).await })
    }

    /// Bytes of tar that are worth fetching ahead of a reader: twice what fills the line, once for what is on its way and
    /// once for what is decoded and waits for him.
    pub(crate) fn worth_ahead(&self) -> u64 {
        let layer = self.launch();
        let grows = layer.tar_len.div_ceil(layer.converted.len.max(1)).clamp(1, 8);
        (2 * self.0.fetcher.lane().window() * grows).clamp(LEAST_AHEAD, MOST_AHEAD)
    }

    async fn read_around(&self, range: Range<u64>, around: bool) -> Result<Vec<u8>, ReadErrors> {
        let fetcher = &self.0.fetcher;
        let Some(spans) = spans::covering(&fetcher.layer, &range) else {
            let diff_id = fetcher.layer.diff_id.0;
            return Err(ReadErrors::from(ReadError::OutOfRange { diff_id, range }));
        };
        let beside = if around { self.suggest_neighbours(&spans) } else { Beside::Nothing };
        let reading = self.read_spans(&range, spans, beside);
        let mut reading = std::pin::pin!(reading);
        let waiting = fetcher.node.pool.urgency.wait();
        if let Ok(read) = tokio::time::timeout(URGENT, &mut reading).await {
            return read;
        }
        drop(waiting);
        reading.await
    }

    /// Fetches what is missing of a run of spans into the store, for nobody in particular: as `class` has its turn, and
    /// until it is done or given up. Stops when it is dropped.
    ///
    /// # Errors
    /// A span could not be had.
    pub async fn fetch(&self, spans: Range<usize>, class: Class) -> Result<(), ReadErrors> {
        self.0.fetcher.want(spans, class, Beside::Nothing, None).await.map(drop)
    }

    async fn read_spans(
        &self,
        range: &Range<u64>,
        spans: Range<usize>,
        beside: Beside,
    ) -> Result<Vec<u8>, ReadErrors> {
        let (fetcher, begun) = (&self.0.fetcher, Instant::now());
        let missing = spans.clone().filter(|at| !fetcher.is_local(*at));
        if let Some(error) = self.0.failures.find(missing) {
            return Err(error);
        }
        let deadline = begun + fetcher.node.settings.read_deadline;
        // What the store turns out not to have any more when it is read is missing in the next round.
        for _ in 0..ROUNDS {
            let landed = fetcher.want(spans.clone(), Class::Demand, beside, Some(deadline)).await;
            let landed = landed.inspect_err(|error| {
                let missing = spans.clone().filter(|at| !fetcher.is_local(*at));
                self.0.failures.note(missing, error, begun.elapsed());
            })?;
            if let Some(bytes) = self.assemble(range, spans.clone(), &landed) {
                return Ok(bytes);
            }
        }
        Err(ReadErrors::from(ReadError::Store { diff_id: fetcher.layer.diff_id.0 }))
    }

    /// A range, out of what landed of its spans and what the store has of the others. Reads all of them, so that
    /// whatever the store has lost is known after one round.
    fn assemble(
        &self,
        range: &Range<u64>,
        spans: Range<usize>,
        landed: &[Option<Landed>],
    ) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
        let mut whole = true;
        for (span, landed) in self.launch().spans[spans].iter().zip(landed) {
            let own = span.tar_range();
            let part = range.start.max(own.start)..range.end.min(own.end);
            match landed {
                Some(Landed::Bytes(fetched, _)) => bytes.extend_from_slice(fetched.slice(&part)),
                Some(Landed::Kept) | None => match self.file().read(&part) {
                    Some(local) => bytes.extend_from_slice(&local),
                    None => whole = false,
                },
            }
        }
        whole.then_some(bytes)
    }

    /// Whether what lies around a miss is to come with it, which is if another was near. Where the line is slow, or too much is
    /// brought along already, that is fetched once no reader waits.
    fn suggest_neighbours(&self, spans: &Range<usize>) -> Beside {
        let fetcher = &self.0.fetcher;
        if !fetcher.node.settings.ahead {
            return Beside::Nothing;
        }
        let Some(miss) = spans::blob_range(&fetcher.layer, spans) else { return Beside::Nothing };
        let Some(around) = self.0.misses.note(&miss) else { return Beside::Nothing };
        let (before, after) = spans::around(&fetcher.layer, &around, spans);
        for side in [before, after] {
            if !side.clone().all(|span| fetcher.is_local(span)) {
                // Not the layer itself: it must be able to go.
                let fetcher = fetcher.clone();
                self.0.prefetcher.suggest(async move { fetcher.guess(side, Class::Nearby).await });
            }
        }
        Beside::Neighbours
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.fetcher.flights.close();
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
