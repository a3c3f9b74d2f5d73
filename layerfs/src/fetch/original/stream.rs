//! Streaming an original: from one source after the other, each time from the beginning.
//!
//! Bytes of two sources are never mixed: when the tar is not the layer's, it is known whose it was. A source that broke
//! off is asked for the rest, as long as each answer brings something.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jaunt_formats::Digest;

use super::super::lane::Resting;
use super::super::pool::WholeLayer;
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

/// Compressed bytes that the background takes from its limit at a time.
const SHARE: u64 = 256 << 10;

/// Why there is no tar from one source.
enum Ended {
    Unneeded,
    /// Its readers have gone: those of others come first.
    Lowered,
    Failed(SourceError),
    Disk(StoreError),
}

/// Why an answer was not taken to its end, and what was decompressed before, if that is good.
type CutShort = (Ended, Option<Decompressor>);

impl Fetcher {
    /// The layer's tar, decompressed from its original, from whichever source has it.
    pub(super) async fn stream(self: &Arc<Self>) -> Result<WholeTar, OriginalError> {
        let blob = self.layer.original.digest;
        let mut turn = self.turn_to_stream().await;
        self.original.note(Progress::None);
        let mut in_trouble = HashSet::new();
        let mut last: Option<SourceError> = None;
        for source in self.sources.order(&blob) {
            if in_trouble.contains(source.host()) {
                continue;
            }
            let error = match self.from_one(&source, &mut turn).await {
                Ok(tar) => {
                    self.sources.succeeded(&*source, &blob);
                    return Ok(tar);
                }
                Err(Ended::Unneeded | Ended::Lowered) => return Err(OriginalError::Unneeded),
                Err(Ended::Disk(error)) => return Err(error.into()),
                Err(Ended::Failed(error)) => error,
            };
            tracing::debug!(%error, cause = %error.cause, "a source did not give an original");
            self.note_failure(&source, &error, error.range.start);
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

    /// Waits for a turn as something that decompresses whole layers; `None` once the layer is gone.
    async fn turn_to_stream(&self) -> Option<WholeLayer> {
        self.as_class_is(|| self.stream_class(), |class| self.node.pool.whole_layer(class)).await
    }

    /// Waits until nobody waits for the stream any more.
    async fn lowered(&self) {
        let stands_back = || self.stream_class().is_some_and(Class::stands_back);
        loop {
            let changed = self.flights.changed();
            if stands_back() {
                return;
            }
            changed.await;
        }
    }

    /// Waits in the background for what it may fetch a second; who has readers waits for nothing.
    async fn within_limit(&self, bytes: u64) {
        let take = |class: Class| async move {
            if class.stands_back() {
                self.node.background.take(bytes).await;
            }
            Some(())
        };
        // Whether the layer is still there is looked at next.
        let _ = self.as_class_is(|| self.stream_class(), take).await;
    }

    /// The tar from one source.
    async fn from_one(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        turn: &mut Option<WholeLayer>,
    ) -> Result<WholeTar, Ended> {
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
            let held = turn.as_mut().ok_or(Ended::Unneeded)?;
            match self.pump(source, &mut at, decompressor, held).await {
                Ok(fed) => decompressor = fed,
                Err((Ended::Failed(error), Some(fed))) if error.trouble.may_pass() && at - begun >= WORTH => {
                    tracing::debug!(%error, at, "an original broke off: asking for the rest");
                    (decompressor, begun) = (fed, at);
                }
                Err((Ended::Failed(error), _)) if error.trouble == Trouble::Whole => {
                    // The rest is not to be had by itself: all of it may be, a little later.
                    return Err(Ended::Failed(SourceError { trouble: Trouble::Broken, ..error }));
                }
                Err((Ended::Lowered, Some(fed))) => {
                    self.wait_aside(turn).await.ok_or(Ended::Lowered)?;
                    (decompressor, begun) = (fed, at);
                }
                Err((ended, _)) => return Err(ended),
            }
        }
        let diff_id = layer.diff_id;
        let finished = off_thread(move || Ok(decompressor.finish(diff_id)?)).await;
        finished.map_err(|wrong| self.ended(source, wrong))
    }

    /// Gives its turn to the readers of others, and waits for another one; `None` where too many do already: what was
    /// decompressed takes memory.
    async fn wait_aside(&self, turn: &mut Option<WholeLayer>) -> Option<()> {
        let _place = self.node.pool.set_aside()?;
        *turn = None;
        self.original.note(Progress::Queued);
        *turn = self.turn_to_stream().await;
        self.original.note(Progress::None);
        Some(())
    }

    /// Asks for what is left, and decompresses it as it comes. What was decompressed before an answer broke off is good.
    async fn pump(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        at: &mut u64,
        mut decompressor: Decompressor,
        turn: &mut WholeLayer,
    ) -> Result<Decompressor, CutShort> {
        let asked = (self.layer.original.digest, *at..self.layer.original.len);
        let mut incoming = match self.ask(source, &asked).await {
            Ok(incoming) => incoming,
            Err(ended) => return Err((ended, Some(decompressor))),
        };
        let mut owed = 0;
        while *at < asked.1.end {
            let piece = tokio::select! {
                biased;
                () = self.lowered(), if turn.for_readers() => match self.node.pool.whole_layer_behind() {
                    Some(behind) => {
                        *turn = behind;
                        continue;
                    }
                    None => return Err((Ended::Lowered, Some(decompressor))),
                },
                piece = self.next_bytes(&mut incoming, source, &asked, || self.stream_class()) => piece,
            };
            let mut piece = match piece {
                Ok(piece) => piece,
                // A server that is not read from for long may hang up; then the rest is asked for.
                Err(Stop::StoodBack) => continue,
                Err(Stop::Unneeded) => return Err((Ended::Unneeded, None)),
                Err(Stop::Failed(error)) => return Err((Ended::Failed(error), Some(decompressor))),
            };
            piece.truncate(usize::try_from(asked.1.end - *at).unwrap_or(usize::MAX));
            *at += piece.len() as u64;
            owed += piece.len() as u64;
            let fed = off_thread(move || Ok(decompressor.push(&piece).map(|()| decompressor)?)).await;
            decompressor = fed.map_err(|wrong| (self.ended(source, wrong), None))?;
            self.original.came(*at);
            if owed >= SHARE {
                self.within_limit(std::mem::take(&mut owed)).await;
            }
        }
        Ok(decompressor)
    }

    /// Asks for a range of the original, in its turn.
    async fn ask(&self, source: &Arc<dyn Source>, asked: &(Digest, Range<u64>)) -> Result<Incoming, Ended> {
        let lane = self.node.pool.lane(source.host());
        // How much is under way at a time is little, and up to TCP: it must not keep others from the line.
        let enter = |class| lane.enter(class, 0).map(Some);
        let passage = self.as_class_is(|| self.stream_class(), enter).await.ok_or(Ended::Unneeded)?;
        let passage = passage.map_err(|Resting| {
            let (place, (blob, range)) = (source.name().to_owned(), asked.clone());
            let (trouble, cause) =
                (Trouble::Busy { rest: Duration::ZERO }, "it is left alone, as it asked".into());
            Ended::Failed(SourceError { place, blob, range, trouble, cause })
        })?;
        self.node.metrics.fetches.inc();
        let stream = source.fetch(asked.0, asked.1.clone());
        Ok(Incoming::new(stream, passage, Patience::new(self.node.settings.silence)))
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
