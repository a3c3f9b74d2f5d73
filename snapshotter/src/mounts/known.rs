//! What is known of launch indexes without opening them again: to open one is to check the whole of it, and containerd asks with
//! every Prepare, and of every snapshot every few seconds.
//!
//! An index is named by its content, so what was read of it stays true. It is forgotten when no snapshot has the index any more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jaunt_formats::launch::{LaunchError, LaunchLayer};
use jaunt_formats::{DiffId, Digest};
use jaunt_layerfs::index_file::{MappedIndex, open_index};
use jaunt_layerfs::store::{LargeFiles, Store};

use super::lock;
use crate::lazy::{LazyError, RootAttributes, Usage};

/// The indexes of this node.
#[derive(Debug)]
pub(super) struct Indexes {
    directory: PathBuf,
    known: Mutex<HashMap<Digest, Slot>>,
}

/// Held by the first who asks, while the others wait. One that cannot be opened is tried again by the next.
type Slot = Arc<Mutex<Option<Arc<Known>>>>;

/// What is known of an index: its layers, the lowest first.
#[derive(Debug)]
pub(super) struct Known(Vec<KnownLayer>);

#[derive(Debug)]
struct KnownLayer {
    layer: LaunchLayer,
    large: LargeFiles,
    inodes: u64,
    /// The root directory of the chain that ends with it.
    root: RootAttributes,
}

impl Indexes {
    /// Those in files of `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, known: Mutex::default() }
    }

    /// An index, checked. Blocking.
    pub fn open(&self, index: Digest) -> Result<MappedIndex, LazyError> {
        open_index(&self.directory.join(index.hex()))
            .map_err(|source| LazyError::Index { index, source: source.into() })
    }

    /// What is known of an index; opened the first time. Blocking.
    pub fn of(&self, index: Digest) -> Result<Arc<Known>, LazyError> {
        let slot = lock(&self.known).entry(index).or_default().clone();
        let mut known = lock(&slot);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let read = Known::read(&self.open(index)?);
        let read = read.map_err(|source| LazyError::Index { index, source: source.into() })?;
        Ok(known.insert(Arc::new(read)).clone())
    }

    /// The same, if nobody has to wait for it.
    pub fn at_hand(&self, index: &Digest) -> Option<Arc<Known>> {
        let slot = lock(&self.known).get(index)?.clone();
        slot.try_lock().ok()?.clone()
    }

    /// Forgets all others.
    pub fn retain(&self, in_use: impl Fn(&Digest) -> bool) {
        lock(&self.known).retain(|index, _| in_use(index));
    }
}

impl Known {
    fn read(index: &MappedIndex) -> Result<Self, LaunchError> {
        let larges = LargeFiles::of_layers(index);
        let layers = index.layers().iter().zip(larges).zip(1..).map(|((layer, large), prefix)| {
            let view = index.view(prefix).ok_or(LaunchError::Malformed("fewer layers than it names"))?;
            let root = index.attributes(view.root()?)?;
            let stats = index.layer_stats(usize::from(prefix) - 1).unwrap_or_default();
            let root = RootAttributes { mode: root.mode, uid: root.uid, gid: root.gid };
            Ok(KnownLayer { layer: layer.clone(), large, inodes: stats.inodes.into(), root })
        });
        layers.collect::<Result<_, _>>().map(Self)
    }

    /// The root directory of the first `prefix` layers; `None` of more than there are.
    pub fn root(&self, prefix: u16) -> Option<RootAttributes> {
        self.top(prefix).map(|top| top.root)
    }

    /// What is present now of the topmost of the first `prefix` layers.
    pub fn usage(&self, prefix: u16, store: &Store) -> Usage {
        let present = |top: &KnownLayer| Usage {
            bytes: store.present_bytes(&top.layer, &top.large),
            inodes: top.inodes,
        };
        self.top(prefix).map(present).unwrap_or_default()
    }

    /// The first `prefix` layers.
    pub fn diff_ids(&self, prefix: u16) -> impl Iterator<Item = DiffId> + '_ {
        self.0.iter().take(prefix.into()).map(|known| known.layer.diff_id)
    }

    fn top(&self, prefix: u16) -> Option<&KnownLayer> {
        self.0.get(usize::from(prefix).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use jaunt_formats::launch::{self, Blob, Compression};
    use jaunt_formats::tree::TreeBuilder;
    use jaunt_formats::{BlobOffset, DigestScope, Span, SpanDigest, TarOffset};

    use super::*;

    /// One of an empty layer.
    fn raw() -> Vec<u8> {
        let digest = Digest::of(b"a layer");
        let blob = Blob { digest, len: 20, compression: Compression::Zstd };
        let (blob_offset, tar_offset) = (BlobOffset(0), TarOffset(0));
        let digest = SpanDigest([0; 32]);
        let span = Span { blob_offset, compressed_len: 20, tar_offset, tar_len: 1024, digest };
        let layer = LaunchLayer {
            diff_id: DiffId(blob.digest),
            original: blob,
            converted: blob,
            tar_len: 1024,
            scope: DigestScope::Compressed,
            spans: vec![span],
        };
        let mut tree = TreeBuilder::new();
        tree.push_layer(Vec::new()).unwrap();
        launch::write(&[layer], tree.finish()).unwrap()
    }

    #[test]
    fn an_index_is_read_once_until_it_is_forgotten_and_again_where_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let (index, indexes) = (Digest::of(b"an index"), Indexes::new(directory.path().to_owned()));
        assert!(indexes.of(index).is_err() && indexes.at_hand(&index).is_none(), "there is none");
        let path = directory.path().join(index.hex());
        std::fs::write(&path, raw()).unwrap();
        let first = indexes.of(index).unwrap();
        assert!(first.root(1).is_some() && first.root(0).is_none() && first.root(2).is_none());
        assert_eq!((first.diff_ids(0).count(), first.diff_ids(9).count()), (0, 1));
        std::fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &indexes.of(index).unwrap()));
        assert!(Arc::ptr_eq(&first, &indexes.at_hand(&index).unwrap()));
        indexes.retain(|_| false);
        assert!(indexes.at_hand(&index).is_none() && indexes.of(index).is_err(), "it is gone");
    }
}
