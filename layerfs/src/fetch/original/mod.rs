//! The original layer, for when the converted blob is gone everywhere, or is not what it should be.
//!
//! ```text
//! idle -> streaming -> ready: spans come from the tar -> idle: the store has all of them
//!           |   ^        \-> stays, where the store has no room
//!           v   |
//!          failed: for as long as it took, a second at least
//! ```
//!
//! So is a blob of which a registry gives no ranges: each would cost all that lies in front of it.
//!
//! It is streamed once for all who wait, decompressed into a file without a name, and nothing of it is believed before
//! the whole tar hashes to the diffID. That takes longer than a read may wait for sources in trouble, and so a
//! read waits on as long as the stream comes, up to [`LONGEST_WAIT`] of its deadlines. A stream goes on when nobody waits
//! any more, as something that stands back: who asks again finds it further on. It ends with the layer.

mod decompress;
mod stream;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Fetcher;
use super::run::Run;
use crate::class::Class;
use crate::read_error::{OriginalError, ReadError, ReadErrors};
use crate::source::Trouble;
use crate::store::LayerFile;
use crate::verify::whole::WholeTar;

/// How many of its deadlines a read waits at most while the original comes: ten minutes of half a minute each.
const LONGEST_WAIT: u32 = 20;
/// How long a failed stream is not begun anew, at least and at most; in between, as long as it took to fail.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// The original of one layer.
pub(crate) struct Original {
    state: watch::Sender<State>,
    progress: Mutex<Progress>,
    /// How much of the blob has come at the best.
    furthest: AtomicU64,
    /// Whether a failure has been told of, since a stream went well.
    told: AtomicBool,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Idle,
    Streaming,
    Ready(Arc<WholeTar>),
    Failed {
        until: Instant,
        error: Arc<OriginalError>,
    },
}

/// How a stream that is under way gets on.
#[derive(Clone, Copy)]
enum Progress {
    None,
    /// Others are streamed first.
    Queued,
    /// More came at this moment than had ever come before: a server that begins well again and again is in trouble.
    At(Instant),
}

/// There is nothing to be had from the original.
pub(super) struct NoOriginal {
    pub(super) error: ReadErrors,
    /// A little later there may be.
    pub(super) may_pass: bool,
}

impl Default for Original {
    fn default() -> Self {
        let (progress, told) = (Mutex::new(Progress::None), AtomicBool::new(false));
        Self { state: watch::Sender::default(), progress, furthest: AtomicU64::new(0), told }
    }
}

/// Whether nothing is wrong with the converted blob but that it comes whole or not at all: then it will do itself.
fn may_come_whole(why: &ReadErrors) -> bool {
    match why.kind() {
        ReadError::Source(error) => error.trouble == Trouble::Whole,
        ReadError::OriginalUnderWay { .. } => true,
        _ => false,
    }
}

impl Original {
    /// Until when a read that began at `begun` waits because the original is coming, if it is.
    pub(crate) fn worth_waiting(&self, begun: Instant, deadline: Duration) -> Option<Instant> {
        let until = match *self.progress.lock().unwrap_or_else(PoisonError::into_inner) {
            Progress::None => return None,
            Progress::Queued => Instant::now() + deadline,
            Progress::At(moment) => moment + deadline,
        };
        let until = until.min(begun + deadline * LONGEST_WAIT);
        (until > Instant::now()).then_some(until)
    }

    /// So much of the blob has come.
    fn came(&self, len: u64) {
        if self.furthest.fetch_max(len, Ordering::Relaxed) < len {
            self.note(Progress::At(Instant::now()));
        }
    }

    fn note(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// A stream that is under way; whatever ends it, those who wait are told.
struct UnderWay(Arc<Fetcher>);

impl UnderWay {
    fn ends(&self, state: State) {
        self.0.original.note(Progress::None);
        self.0.original.state.send_replace(state);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.original.note(Progress::None);
        self.0.original.state.send_if_modified(|state| {
            let left = matches!(state, State::Streaming);
            if left {
                *state = State::Idle;
            }
            left
        });
    }
}

impl Fetcher {
    /// Why spans come from the original without any source of the converted blob being asked, if they do.
    pub(super) fn skips_converted(&self) -> Option<ReadErrors> {
        let diff_id = self.layer.diff_id.0;
        if let Some(why) = self.file().quarantined() {
            return Some(ReadError::Quarantined { diff_id, why }.into());
        }
        let under_way = matches!(*self.original.state.borrow(), State::Streaming | State::Ready(_));
        under_way.then(|| ReadError::OriginalUnderWay { diff_id }.into())
    }

    /// Lands a run from the original; `why` says what is wrong with the converted blob.
    pub(super) async fn land_original(
        self: &Arc<Self>,
        run: &mut Run,
        why: &ReadErrors,
    ) -> Result<(), NoOriginal> {
        if self.layer.original.digest == self.layer.converted.digest && !may_come_whole(why) {
            return Err(NoOriginal { error: why.clone(), may_pass: false });
        }
        let mut states = self.original.state.subscribe();
        let mut joined = false;
        self.flights.announce();
        loop {
            run.end_local(|span| self.is_local(span));
            let changed = self.flights.changed();
            if self.class_of(run).is_none() {
                return Ok(());
            }
            let state = states.borrow_and_update().clone();
            match state {
                State::Ready(tar) => {
                    self.land_from(tar, run).await;
                    return Ok(());
                }
                State::Failed { until, error } if joined || Instant::now() < until => {
                    return Err(self.no_original(why, error));
                }
                State::Streaming => joined = true,
                State::Idle | State::Failed { .. } => {
                    joined = true;
                    self.start_original(why);
                    continue;
                }
            }
            tokio::select! {
                _ = states.changed() => {}
                () = changed => {}
            }
        }
    }

    /// The whole tar, as the original gives it: for what no span covers. Of a layer whose spans come from somewhere else.
    pub(crate) async fn whole_tar(self: &Arc<Self>) -> Result<WholeTar, OriginalError> {
        let tar = self.stream().await;
        self.original.note(Progress::None);
        tar
    }

    fn no_original(&self, why: &ReadErrors, source: Arc<OriginalError>) -> NoOriginal {
        let may_pass = source.may_pass();
        let (diff_id, original) = (self.layer.diff_id.0, self.layer.original.digest);
        let error = ReadError::Original { diff_id, original, converted: why.clone(), source };
        NoOriginal { error: ReadErrors::from(error), may_pass }
    }

    fn start_original(self: &Arc<Self>, why: &ReadErrors) {
        let mut again = false;
        let started = self.original.state.send_if_modified(|state| {
            again = matches!(state, State::Failed { .. });
            let idle = again || matches!(state, State::Idle);
            if idle {
                *state = State::Streaming;
            }
            idle
        });
        if !started {
            return;
        }
        let (diff_id, original) = (&self.layer.diff_id, &self.layer.original.digest);
        match again {
            false => {
                tracing::warn!(%diff_id, %original, %why, "a converted layer is of no use: its original is streamed instead");
            }
            true => tracing::debug!(%diff_id, %original, %why, "a layer's original is tried once more"),
        }
        self.original.note(Progress::Queued);
        let under_way = UnderWay(self.clone());
        tokio::spawn(async move { under_way.0.clone().stream_original(under_way).await });
    }

    async fn stream_original(self: Arc<Self>, under_way: UnderWay) {
        let begun = Instant::now();
        match self.stream().await {
            Ok(tar) => {
                let (diff_id, seconds) = (&self.layer.diff_id, begun.elapsed().as_secs_f64());
                tracing::info!(%diff_id, seconds, "the original is here, and is the layer");
                self.original.told.store(false, Ordering::Relaxed);
                self.original.furthest.store(0, Ordering::Relaxed);
                let tar = Arc::new(tar);
                under_way.ends(State::Ready(tar.clone()));
                self.keep_all(tar).await;
            }
            Err(error) => {
                self.tell(&error);
                let rest = if error.may_pass() { Duration::ZERO } else { begun.elapsed().max(FIRST_REST) };
                let until = Instant::now() + rest.min(LONGEST_REST);
                under_way.ends(State::Failed { until, error: Arc::new(error) });
            }
        }
    }

    /// Once, and aloud: from now on reads fail.
    fn tell(&self, error: &OriginalError) {
        let again = error.may_pass() || matches!(error, OriginalError::Unneeded);
        if again || self.original.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let (diff_id, original) = (&self.layer.diff_id, &self.layer.original.digest);
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(%diff_id, %original, %error, cause, "a layer can be had neither converted nor as it was: what is not local of it cannot be read");
    }

    /// Lands what is wanted of a tar.
    async fn land_from(self: &Arc<Self>, tar: Arc<WholeTar>, run: &mut Run) {
        let Some(held) = self.hold(run, run.largest()).await else { return };
        let class = self.class_of(run).unwrap_or(Class::Background);
        let Some(decoder) = self.node.pool.decoder(class).await else { return };
        let (this, tickets) = (self.clone(), run.take_all());
        tokio::task::spawn_blocking(move || {
            for ticket in tickets {
                let outcome = match tar.span(&this.layer.spans[ticket.key()]) {
                    Ok(bytes) => Ok(this.keep(&ticket, bytes, LayerFile::keep_original)),
                    Err(error) => {
                        let diff_id = this.layer.diff_id.0;
                        tracing::error!(%diff_id, %error, "the original's tar is lost on disk: it is streamed anew");
                        this.original.state.send_replace(State::Idle);
                        Err(ReadErrors::from(ReadError::Store { diff_id }))
                    }
                };
                ticket.complete(outcome);
            }
            drop((decoder, held));
        });
    }

    /// Takes all of a tar into the store, so that it need not come again; where that fails, the tar stays.
    async fn keep_all(self: Arc<Self>, tar: Arc<WholeTar>) {
        let kept = tokio::task::spawn_blocking(move || {
            for (at, span) in self.layer.spans.iter().enumerate() {
                if self.flights.is_closed() {
                    return;
                }
                let bytes = match self.is_local(at) {
                    true => continue,
                    false => tar.span(span),
                };
                if let Err(error) = bytes.and_then(|bytes| self.file().keep_original(&bytes)) {
                    let diff_id = &self.layer.diff_id;
                    tracing::warn!(%diff_id, %error, "the store has no room for a layer: its tar is kept aside while it is in use");
                    return;
                }
            }
            self.original.state.send_replace(State::Idle);
        });
        let _ = kept.await;
    }
}
