//! What a lazy layer occupies, without its index: containerd asks for every snapshot there is, every few seconds.
//!
//! What is kept of an index never changes, since the index is named by its content. It is forgotten with its snapshot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jaunt_formats::launch::LaunchLayer;
use jaunt_layerfs::index_file::MappedIndex;
use jaunt_layerfs::store::{LargeFiles, Store};

use super::lock;
use crate::lazy::Usage;

/// By snapshot.
#[derive(Default)]
pub(super) struct Measured(Mutex<HashMap<u64, Arc<Measure>>>);

/// How the topmost layer of a chain is measured.
pub(super) struct Measure {
    /// None of an index that has fewer layers.
    layer: Option<LaunchLayer>,
    large: LargeFiles,
    inodes: u64,
}

impl Measured {
    /// What is known of a snapshot.
    pub fn find(&self, snapshot_id: u64) -> Option<Arc<Measure>> {
        lock(&self.0).get(&snapshot_id).cloned()
    }

    /// Keeps it.
    pub fn keep(&self, snapshot_id: u64, measure: Measure) -> Arc<Measure> {
        lock(&self.0).entry(snapshot_id).or_insert(Arc::new(measure)).clone()
    }

    /// The snapshot is gone.
    pub fn forget(&self, snapshot_id: u64) {
        lock(&self.0).remove(&snapshot_id);
    }
}

impl Measure {
    /// Of the layer on top of the first `prefix` ones.
    pub fn of(index: &MappedIndex, prefix: u16) -> Self {
        let top = usize::from(prefix).saturating_sub(1);
        Self {
            layer: index.layers().get(top).cloned(),
            large: LargeFiles::of_layers(index).into_iter().nth(top).unwrap_or_default(),
            inodes: index.layer_stats(top).unwrap_or_default().inodes.into(),
        }
    }

    /// What is present now.
    pub fn usage(&self, store: &Store) -> Usage {
        let present = |layer| Usage { bytes: store.present_bytes(layer, &self.large), inodes: self.inodes };
        self.layer.as_ref().map(present).unwrap_or_default()
    }
}
