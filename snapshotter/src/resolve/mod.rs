//! Finds the launch index that a layer belongs to, and makes sure of it before anything is promised.
//!
//! Order: the index on record for this image (no network), else its launch artifact in the image's
//! repository, else one made here of the image's own layers, where all of them are in a lazily readable
//! format. All layers of an image share one search. A search that fails is remembered for seconds
//! only, so that an image converted meanwhile is lazy at its next start.

mod artifact;
mod foreign;
mod known;
mod search;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jaunt_distribution::{Client, Repository};
use jaunt_formats::{ChainId, Digest};
use jaunt_layerfs::store::Store;
use jaunt_layerfs::trace::Trace;
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, RwLock};

use crate::boot::BootPacks;
use crate::fallback::{Fallback, FallbackCode, error_chain};
use crate::index_store::IndexStore;
use crate::labels::RemoteLayer;
use crate::metastore::{Learnt, MetaStore, Pin};
use crate::trust::Trust;
use search::Found;

/// A layer whose launch index is on disk and checked.
pub struct ResolvedLayer {
    /// The index.
    pub index: Digest,
    /// How many of its layers the layer's chain has.
    pub prefix: u16,
    /// The layers above it, from the lowest.
    pub above: Vec<ImageLayer>,
    /// What was learnt of the image: to go on record with the first snapshot of it.
    pub learnt: (Pin, Learnt),
    /// Keeps the index from being collected until a snapshot uses it.
    pub in_use: Option<OwnedRwLockReadGuard<()>>,
}

/// A layer of an image, as its launch index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// The chain that it is the topmost layer of.
    pub chain: ChainId,
    /// The blob in the image's manifest.
    pub blob: Digest,
}

/// Says whether a layer can be lazy. The snapshotter's view of the registry.
#[tonic::async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The index for a layer's chain, or why there is none.
    async fn layer(&self, layer: &RemoteLayer) -> Result<ResolvedLayer, Fallback>;

    /// Looks for an image of which a layer will be asked for.
    async fn expect(&self, _image: &Pin) {}

    /// Forgets indexes that no snapshot uses.
    async fn collect(&self);
}

/// How long a search may take and be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveLimits {
    /// A search is given up after this: what a dead registry costs a pull at most.
    pub timeout: Duration,
    /// A failed search answers for the image's other layers for this long.
    pub remember_failure: Duration,
}

impl Default for ResolveLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), remember_failure: Duration::from_secs(5) }
    }
}

/// The [`Resolve`] of the daemon.
pub struct Resolver {
    client: Client,
    store: MetaStore,
    indexes: IndexStore,
    limits: ResolveLimits,
    trust: Trust,
    /// Which indexes were found to lie.
    verdicts: Option<Arc<Store>>,
    packs: Option<Arc<BootPacks>>,
    trace: Trace,
    searches: Mutex<HashMap<Pin, Arc<Search>>>,
    /// Read-held from before an index is looked up until a snapshot with it is on record, across
    /// awaits by design; collecting needs it for writing, and passes when it cannot have it at once.
    in_use: Arc<RwLock<()>>,
}

/// One search, shared by those who wait for it. Cancel-safe: when the one that runs it goes away,
/// the next one that waits starts it anew.
#[derive(Default)]
struct Search {
    outcome: OnceCell<Outcome>,
    /// It was begun for an image that may never be asked for: its failure is nobody's answer.
    is_ahead: bool,
}

struct Outcome {
    result: Result<Arc<Found>, Fallback>,
    at: Instant,
}

impl Resolver {
    /// A resolver that keeps what it finds in `store` and `indexes`.
    pub fn new(client: Client, store: MetaStore, indexes: IndexStore, limits: ResolveLimits) -> Self {
        let (searches, in_use) = (Mutex::default(), Arc::default());
        let (trust, verdicts, trace) = (Trust::default(), None, Trace::default());
        Self { client, store, indexes, limits, trust, verdicts, packs: None, trace, searches, in_use }
    }

    /// The same, believing artifacts only on the word of whom `trust` says.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// The same, believing no index that was found to lie about the layers in `layers`.
    #[must_use]
    pub fn with_verdicts(self, layers: Arc<Store>) -> Self {
        Self { verdicts: Some(layers), ..self }
    }

    /// The same, having boot packs fetched by `packs`.
    #[must_use]
    pub fn with_packs(self, packs: Arc<BootPacks>) -> Self {
        Self { packs: Some(packs), ..self }
    }

    /// The same, telling what happens.
    #[must_use]
    pub fn with_trace(self, trace: Trace) -> Self {
        Self { trace, ..self }
    }

    /// The image's index, on disk at this moment.
    async fn found(&self, pin: &Pin) -> Result<Arc<Found>, Fallback> {
        let found = self.search_once(pin).await?;
        if self.indexes.contains(&found.known.index) {
            return Ok(found);
        }
        tracing::warn!(index = %found.known.index, "launch index was removed: fetching it again");
        self.searches.lock().unwrap_or_else(PoisonError::into_inner).remove(pin);
        self.search_once(pin).await
    }

    async fn search_once(&self, pin: &Pin) -> Result<Arc<Found>, Fallback> {
        let search = self.search(pin);
        match self.run(&search, pin).await {
            Err(failed) if search.is_ahead && !search::is_of_the_artifact(failed.code) => {
                self.drop_search(pin, &search);
                let search = self.search(pin);
                self.run(&search, pin).await
            }
            outcome => outcome,
        }
    }

    /// Boxed, for the requests in it are large, and it is awaited in several places.
    async fn run(&self, search: &Search, pin: &Pin) -> Result<Arc<Found>, Fallback> {
        let outcome = search
            .outcome
            .get_or_init(async || Outcome {
                result: Box::pin(self.find(pin)).await.map(Arc::new),
                at: Instant::now(),
            })
            .await;
        outcome.result.clone()
    }

    /// Forgets a search, unless another one has taken its place.
    fn drop_search(&self, pin: &Pin, ended: &Arc<Search>) {
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        if searches.get(pin).is_some_and(|search| Arc::ptr_eq(search, ended)) {
            searches.remove(pin);
        }
    }

    fn search(&self, pin: &Pin) -> Arc<Search> {
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        searches.retain(|_, search| {
            let was_given_up = search.outcome.get().is_none() && Arc::strong_count(search) == 1;
            !was_given_up && !search.has_failed_before(self.limits.remember_failure)
        });
        Arc::clone(searches.entry(pin.clone()).or_default())
    }

    async fn find(&self, pin: &Pin) -> Result<Found, Fallback> {
        if let Some(Learnt { index, by }) = self.on_record(pin) {
            match known::open(&self.indexes, index, |_| ()).await {
                Ok(known) => return Ok(Found { known, by }),
                Err(error) => {
                    tracing::warn!(%index, ?by, error = error_chain(&error), "launch index is damaged: fetching it again");
                }
            }
        }
        let trusted = self.trust.of(&pin.repository);
        let packs = self.packs.as_ref();
        let (client, indexes, trace) = (&self.client, &self.indexes, &self.trace);
        let search = search::Search { client, indexes, pin, trusted, packs, trace };
        let timeout = self.limits.timeout;
        tokio::time::timeout(timeout, search.run()).await.unwrap_or_else(|_| {
            let detail =
                format!("registry {} gave no launch index within {timeout:?}", pin.repository.host());
            Err(Fallback::new(FallbackCode::Timeout, detail))
        })
    }

    /// What was learnt of an image, if it is there still, and would be believed today.
    fn on_record(&self, pin: &Pin) -> Option<Learnt> {
        let learnt = self.store.pinned(pin).filter(|learnt| self.indexes.contains(&learnt.index))?;
        if self.trust.still_believes(&pin.repository, learnt.by) {
            return Some(learnt);
        }
        tracing::info!(image = %pin, index = %learnt.index, by = ?learnt.by, "what was learnt is not trusted any more");
        None
    }

    async fn forget(&self, index: Digest) {
        match self.store.forget_index(index).await {
            Ok(false) => return,
            Ok(true) => tracing::info!(%index, "launch index is no longer used"),
            Err(error) => {
                tracing::warn!(%index, error = error_chain(&error), "cannot forget a launch index");
                return;
            }
        }
        self.searches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, search| search.found() != Some(index));
        if let Err(error) = self.indexes.remove(&index) {
            tracing::warn!(%index, %error, "cannot remove a launch index");
        }
    }
}

#[tonic::async_trait]
impl Resolve for Resolver {
    async fn layer(&self, layer: &RemoteLayer) -> Result<ResolvedLayer, Fallback> {
        let in_use = Arc::clone(&self.in_use).read_owned().await;
        let pin = Pin { repository: Repository::from(&layer.image), manifest: layer.manifest };
        let found = {
            let _step = self.trace.step("resolve", || pin.to_string());
            self.found(&pin).await?
        };
        let Found { known, by } = &*found;
        if let Some(why) = self.verdicts.as_ref().and_then(|found| found.quarantined_index(&known.index)) {
            let detail = format!("launch index {} is in quarantine: {why}", known.index);
            return Err(Fallback::new(FallbackCode::Quarantined, detail));
        }
        match known.prefix_of(layer.target) {
            Some(prefix) => Ok(ResolvedLayer {
                index: known.index,
                prefix,
                above: known.above(prefix).to_vec(),
                learnt: (pin, Learnt { index: known.index, by: *by }),
                in_use: Some(in_use),
            }),
            None => {
                let detail =
                    format!("no prefix of launch index {} hashes to chain {}", known.index, layer.target);
                Err(Fallback::new(FallbackCode::ChainMismatch, detail))
            }
        }
    }

    async fn expect(&self, image: &Pin) {
        let _in_use = self.in_use.read().await;
        let _step = self.trace.step("resolve", || image.to_string());
        let search = {
            let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
            let ahead = || Arc::new(Search { is_ahead: true, ..Search::default() });
            Arc::clone(searches.entry(image.clone()).or_insert_with(ahead))
        };
        if self.run(&search, image).await.is_err() {
            self.drop_search(image, &search);
        }
    }

    async fn collect(&self) {
        let Ok(_alone) = self.in_use.try_write() else { return };
        let indexes = match self.indexes.list() {
            Ok(indexes) => indexes,
            Err(error) => {
                tracing::warn!(%error, "cannot list launch indexes");
                return;
            }
        };
        for index in indexes {
            self.forget(index).await;
        }
        if let Some(packs) = self.packs.clone() {
            let used: HashSet<Digest> =
                self.store.read().lazy_chains().iter().map(|chain| chain.index).collect();
            // A panic there has been reported by its own thread.
            let _ = tokio::task::spawn_blocking(move || packs.retain(|index| used.contains(index))).await;
        }
    }
}

impl Search {
    fn has_failed_before(&self, ago: Duration) -> bool {
        self.outcome.get().is_some_and(|outcome| outcome.result.is_err() && outcome.at.elapsed() >= ago)
    }

    fn found(&self) -> Option<Digest> {
        self.outcome.get().and_then(|outcome| outcome.result.as_ref().ok()).map(|found| found.known.index)
    }
}
