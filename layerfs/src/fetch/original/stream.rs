//! Streaming an original: from one source after the other, each time from the beginning.
//!
//! Bytes of two sources are never mixed: when the tar is not the layer's, it is known whose it was. A source that broke
//! off is asked for the rest, as long as each answer brings something.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::super::lane::{Lane, Passage};
use super::super::receive::Incoming;
use super::super::run::Stop;
use super::super::{Fetcher, patience::Patience};
use super::Progress;
use super::decompress::{DecompressError, Decompressor};
use crate::class::Class;
use crate::read_error::OriginalError;
use crate::source::{Source, SourceError, Trouble};
use crate::store::StoreError;
use crate::verify::whole::{TarWriter, WholeTar, WholeTarError};

/// What an answer that broke off must have brought for the rest to be asked for.
const WORTH: u64 = 64 << 10;

/// Why there is no tar from one source.
enum Ended {
    Unneeded,
    Failed(SourceError),
    Disk(StoreError),
}

impl Fetcher {
    /// The layer's tar, decompressed from its original, from whichever source has it.
    pub(super) async fn stream(self: &Arc<Self>) -> Result<WholeTar, OriginalError> {
        let blob = self.layer.original.digest;
        let _turn = self.turn_to_stream().await.ok_or(OriginalError::Unneeded)?;
        self.original.note(Progress::None);
        let mut in_trouble = HashSet::new();
        let mut last: Option<SourceError> = None;
        for source in self.sources.order(&blob) {
            if in_trouble.contains(source.host()) {
                continue;
            }
            let error = match self.from_one(&source).await {
                Ok(tar) => {
                    self.sources.succeeded(&*source, &blob);
                    return Ok(tar);
                }
                Err(Ended::Unneeded) => return Err(OriginalError::Unneeded),
                Err(Ended::Disk(error)) => return Err(error.into()),
                Err(Ended::Failed(error)) => error,
            };
            tracing::debug!(%error, cause = %error.cause, "a source did not give an original");
            self.node.metrics.note_failure(source.host(), error.trouble.name());
            self.sources.failed(&*source, &blob, error.trouble);
            if error.trouble == Trouble::Wrong {
                source.gave_wrong(&blob);
            }
            if error.trouble.may_pass() {
                in_trouble.insert(source.host().to_owned());
            }
            // What may pass is the better news.
            if last.as_ref().is_none_or(|last| error.trouble <= last.trouble) {
                last = Some(error);
            }
        }
        Err(last.map_or(OriginalError::NoSource, |error| OriginalError::Source(Arc::new(error))))
    }

    /// Who needs the stream; as long as the layer is there, it is worth something.
    fn stream_class(&self) -> Option<Class> {
        (!self.flights.is_closed()).then(|| self.flights.most_urgent().unwrap_or(Class::Background))
    }

    /// Waits for a turn as something that decompresses whole layers.
    async fn turn_to_stream(&self) -> Option<OwnedSemaphorePermit> {
        self.as_class_is(|| self.stream_class(), |class| self.node.pool.whole_layer(class)).await
    }

    async fn enter(&self, lane: &Arc<Lane>) -> Option<Passage> {
        // How much is under way at a time is little, and up to TCP: it must not keep others from the line.
        self.as_class_is(|| self.stream_class(), |class| lane.enter(class, 0)).await
    }

    /// The tar from one source.
    async fn from_one(self: &Arc<Self>, source: &Arc<dyn Source>) -> Result<WholeTar, Ended> {
        let (this, layer) = (self.clone(), &self.layer);
        let (tar_len, compression) = (layer.tar_len, layer.original.compression);
        let mut decompressor = off_thread(move || {
            let file = this.store.scratch_file(tar_len).map_err(Wrong::Disk)?;
            Ok(Decompressor::new(TarWriter::new(file, tar_len), compression)?)
        })
        .await
        .map_err(|wrong| self.ended(source, wrong))?;
        let (end, mut at, mut begun) = (layer.original.len, 0, 0);
        while at < end {
            match self.pump(source, &mut at, decompressor).await {
                Ok(fed) => decompressor = fed,
                Err((Ended::Failed(error), Some(fed))) if error.trouble.may_pass() && at - begun >= WORTH => {
                    tracing::debug!(%error, at, "an original broke off: asking for the rest");
                    (decompressor, begun) = (fed, at);
                }
                Err((ended, _)) => return Err(ended),
            }
        }
        let diff_id = layer.diff_id;
        let finished = off_thread(move || Ok(decompressor.finish(diff_id)?)).await;
        finished.map_err(|wrong| self.ended(source, wrong))
    }

    /// Asks for what is left, and decompresses it as it comes. What was decompressed before an answer broke off is good.
    async fn pump(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        at: &mut u64,
        mut decompressor: Decompressor,
    ) -> Result<Decompressor, (Ended, Option<Decompressor>)> {
        let asked = (self.layer.original.digest, *at..self.layer.original.len);
        let lane = self.node.pool.lane(source.host());
        let Some(passage) = self.enter(&lane).await else { return Err((Ended::Unneeded, None)) };
        self.node.metrics.fetches.inc();
        let stream = source.fetch(asked.0, asked.1.clone());
        let mut incoming = Incoming::new(stream, passage, Patience::new(self.node.settings.silence));
        while *at < asked.1.end {
            let piece = self.next_bytes(&mut incoming, source, &asked, || self.stream_class()).await;
            let mut piece = match piece {
                Ok(piece) => piece,
                // A server that is not read from for long may hang up; then the rest is asked for.
                Err(Stop::StoodBack) => continue,
                Err(Stop::Unneeded) => return Err((Ended::Unneeded, None)),
                Err(Stop::Failed(error)) => return Err((Ended::Failed(error), Some(decompressor))),
            };
            piece.truncate(usize::try_from(asked.1.end - *at).unwrap_or(usize::MAX));
            *at += piece.len() as u64;
            let fed = off_thread(move || Ok(decompressor.push(&piece).map(|()| decompressor)?)).await;
            decompressor = fed.map_err(|wrong| (self.ended(source, wrong), None))?;
            self.original.came(*at);
        }
        Ok(decompressor)
    }

    fn ended(&self, source: &Arc<dyn Source>, wrong: Wrong) -> Ended {
        let cause = match wrong {
            Wrong::Disk(error) => return Ended::Disk(error),
            Wrong::Blob(DecompressError::Tar(WholeTarError::Disk(source))) => {
                let (path, what) = (self.store.root().to_owned(), "write a layer's tar");
                return Ended::Disk(StoreError { path, what, source });
            }
            Wrong::Blob(error) => error.into(),
            Wrong::Panic(panic) => panic.into(),
        };
        let (place, blob, range) =
            (source.name().to_owned(), self.layer.original.digest, 0..self.layer.original.len);
        Ended::Failed(SourceError { place, blob, range, trouble: Trouble::Wrong, cause })
    }
}

/// What went wrong on a thread of its own.
enum Wrong {
    Disk(StoreError),
    Blob(DecompressError),
    Panic(tokio::task::JoinError),
}

impl From<DecompressError> for Wrong {
    fn from(error: DecompressError) -> Self {
        Self::Blob(error)
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Wrong> + Send + 'static,
) -> Result<T, Wrong> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(Wrong::Panic(panic)))
}
