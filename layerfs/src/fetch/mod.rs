//! Fetching: from spans that are wanted to spans that are verified and kept.
//!
//! ```text
//! wanted (single_flight) -> dispatch: a turn in its host's lane, then all wanted neighbours that fit one request
//!   -> run: source after source, round after round -> receive: pieces as they arrive, cut into spans
//!   -> land: verify, decode, keep -> outcome to all who follow
//! no use -> original: the layer as it was before conversion, streamed whole
//! ```
//!
//! A run goes on until its spans have landed, the sources have said that there is no use, or nobody needs it any more.
//! How long a reader waits is the reader's business; as long as one does, sources are asked.

mod bucket;
mod dispatch;
mod land;
mod lane;
mod memory;
mod original;
mod patience;
mod pool;
mod queues;
mod receive;
mod round;
mod run;
mod urgency;
mod want;
mod window;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jaunt_formats::Digest;
use jaunt_formats::launch::LaunchLayer;

use crate::metrics::Metrics;
use crate::read_error::ReadErrors;
use crate::single_flight::SingleFlight;
use crate::source::{SourceError, SourceSet};
use crate::store::{LargeFiles, LayerFile, Store};
use crate::trace::Trace;
use crate::trouble_log::TroubleLog;
use crate::verify::TarBytes;
pub use bucket::Bucket;
pub(crate) use dispatch::Beside;
use original::Original;
use pool::{Lent, Pool};
pub(crate) use urgency::Urgency;

/// How long things may take, and what is done without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a read waits for sources that are in trouble, before it is an error.
    pub read_deadline: Duration,
    /// How long one source may keep silent before the next is asked.
    pub silence: Duration,
    /// Whether anything is fetched that no reader has asked for yet.
    pub ahead: bool,
    /// Bytes a second at most of what is fetched in the background; none: as many as come.
    pub background_limit: Option<NonZeroU64>,
    /// Who is told what happens.
    pub trace: Trace,
}

impl Default for Settings {
    fn default() -> Self {
        let (read_deadline, silence) = (Duration::from_secs(30), Duration::from_secs(8));
        Self { read_deadline, silence, ahead: true, background_limit: None, trace: Trace::default() }
    }
}

/// What the fetches of all layers share.
pub(crate) struct Node {
    pub(crate) pool: Pool,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    /// What the background takes its bytes from.
    pub(crate) background: Bucket,
    /// Layers of which nothing more can be kept.
    unkept: TroubleLog<Digest>,
    /// Spans, by layer and number, that arrive wrong.
    wrong: TroubleLog<(Digest, usize)>,
}

impl Node {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(),
            background: Bucket::new(settings.background_limit),
            settings,
            metrics: Metrics::default(),
            unkept: TroubleLog::default(),
            wrong: TroubleLog::default(),
        })
    }

    /// As if the disk had no room for a layer.
    #[cfg(test)]
    pub(crate) fn cannot_keep(&self, diff_id: &Digest) {
        let _ = self.unkept.failed(*diff_id, std::time::Instant::now());
    }
}

/// What became of a span.
pub(crate) type Outcome = Result<Landed, ReadErrors>;

/// A span that was fetched and verified.
#[derive(Clone)]
pub(crate) enum Landed {
    /// The store has it.
    Kept,
    /// Its bytes: the store has no room for them, or memory has until those who wait are served.
    Bytes(TarBytes, #[allow(dead_code)] Option<Arc<Lent>>),
}

/// Fetches the spans of one layer.
pub(crate) struct Fetcher {
    pub(crate) node: Arc<Node>,
    pub(crate) layer: LaunchLayer,
    large: LargeFiles,
    store: Arc<Store>,
    file: OnceLock<Arc<LayerFile>>,
    pub(crate) sources: SourceSet,
    pub(crate) flights: SingleFlight<Outcome>,
    pub(crate) original: Original,
    trouble: Mutex<Option<Arc<SourceError>>>,
}

impl Fetcher {
    pub(crate) fn new(
        node: Arc<Node>,
        layer: LaunchLayer,
        large: LargeFiles,
        store: Arc<Store>,
    ) -> Arc<Self> {
        let (file, sources) = (OnceLock::new(), SourceSet::default());
        let (flights, trouble) = (SingleFlight::new(), Mutex::default());
        let original = Original::default();
        Arc::new(Self { node, layer, large, store, file, sources, flights, original, trouble })
    }

    /// The local file, opened by the first read: a mount has more layers than its container reads.
    pub(crate) fn file(&self) -> &Arc<LayerFile> {
        self.file.get_or_init(|| self.store.layer(&self.layer, &self.large))
    }

    /// Bytes of the layer that the store has.
    pub(crate) fn present_bytes(&self) -> u64 {
        match self.file.get() {
            Some(file) => file.present_bytes(),
            None => self.store.present_bytes(&self.layer, &self.large),
        }
    }

    /// Whether the store has a span.
    pub(crate) fn is_local(&self, span: usize) -> bool {
        self.file().has(&self.layer.spans[span].tar_range())
    }

    /// What the last source in trouble said, for those whose time is up.
    pub(crate) fn last_trouble(&self) -> Option<Arc<SourceError>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_trouble(&self, error: Option<Arc<SourceError>>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}
