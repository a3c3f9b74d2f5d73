//! The node's registry of open layers.
//!
//! However many mounts have a layer, there is one of it: one fetch for all who want a span, one memory of what
//! failed, one set of sources. Layers are held weakly: the last mount to go takes its layers with it.
//!
//! Two layers are one only if everything that decides what is read is the same: diffID, blob, and every span with
//! its place and digest. An index only claims its diffIDs, so that alone would let one repository decide what
//! another's images read. Where a layer may come from besides is no part of it: every image adds what it knows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jaunt_formats::DigestScope;
use jaunt_formats::launch::LaunchLayer;

use crate::fetch::{Fetcher, Node};
use crate::layer::{Handle, Layer};
use crate::metrics::Metrics;
use crate::prefetch::Prefetcher;
use crate::source::Source;
use crate::store::{LargeFiles, Store};
use crate::trace::Trace;

pub use crate::fetch::{Bucket, Settings};

/// All layers of a node. Cheap to clone.
#[derive(Clone)]
pub struct Layers(Arc<Shared>);

struct Shared {
    store: Arc<Store>,
    open: Mutex<HashMap<LayerId, Weak<Handle>>>,
    node: Arc<Node>,
    prefetcher: Prefetcher,
}

/// What makes two layers one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LayerId([u8; 32]);

impl LayerId {
    fn of(layer: &LaunchLayer, large: &LargeFiles) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(layer.diff_id.0.as_bytes());
        hasher.update(layer.converted.digest.as_bytes());
        for number in [layer.converted.len, layer.tar_len] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&[u8::from(layer.scope == DigestScope::Compressed)]);
        for range in large.ranges() {
            hasher.update(&range.start.to_le_bytes());
            hasher.update(&range.end.to_le_bytes());
        }
        hasher.update(&(large.ranges().len() as u64).to_le_bytes());
        for span in &layer.spans {
            hasher.update(&span.blob_offset.0.to_le_bytes());
            hasher.update(&span.compressed_len.to_le_bytes());
            hasher.update(&span.tar_offset.0.to_le_bytes());
            hasher.update(&span.tar_len.to_le_bytes());
            hasher.update(&span.digest.0);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl Layers {
    /// Layers kept in `store`.
    pub fn new(store: Arc<Store>, settings: Settings) -> Self {
        let ahead = settings.ahead;
        let node = Node::new(settings);
        let prefetcher = Prefetcher::new(ahead, node.pool.urgency.clone());
        Self(Arc::new(Shared { store, open: Mutex::default(), node, prefetcher }))
    }

    /// The layer, of whose files some are `large`, which may come from `sources` as well. Cheap: no file is opened
    /// before the first read.
    pub fn open(&self, layer: &LaunchLayer, large: &LargeFiles, sources: &[Arc<dyn Source>]) -> Layer {
        let id = LayerId::of(layer, large);
        let opened = {
            let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
            let found = open.get(&id).and_then(Weak::upgrade);
            found.map(Layer).unwrap_or_else(|| {
                let shared = &self.0;
                let (store, node) = (shared.store.clone(), shared.node.clone());
                let fetcher = Fetcher::new(node, layer.clone(), large.clone(), store);
                let new = Layer::new(fetcher, shared.prefetcher.clone());
                open.retain(|_, layer| layer.strong_count() > 0);
                open.insert(id, Arc::downgrade(&new.0));
                new
            })
        };
        opened.learn(sources);
        opened
    }

    /// Where they are kept.
    pub fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// What all fetches share.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    /// Who is told what happens.
    pub fn trace(&self) -> &Trace {
        &self.0.node.settings.trace
    }

    /// What reading has cost so far.
    pub fn metrics(&self) -> &Metrics {
        &self.0.node.metrics
    }
}
