//! A launch index of which everything a promise needs is known.

use jaunt_formats::launch::{self, LaunchError, LaunchIndex};
use jaunt_formats::{ChainId, Digest};
use jaunt_layerfs::index_file::{IndexFileError, MappedIndex, open_index};

use super::ImageLayer;
use crate::index_store::IndexStore;

/// An index on disk whose bytes were checked in this process's lifetime.
#[derive(Debug)]
pub(super) struct KnownIndex {
    pub index: Digest,
    /// From the lowest up.
    layers: Vec<ImageLayer>,
}

impl KnownIndex {
    /// How many of the index's layers make up `chain`, if some do.
    pub fn prefix_of(&self, chain: ChainId) -> Option<u16> {
        let number = self.layers.iter().position(|layer| layer.chain == chain)?;
        u16::try_from(number + 1).ok()
    }

    /// The layers above so many.
    pub fn above(&self, prefix: u16) -> &[ImageLayer] {
        self.layers.get(usize::from(prefix)..).unwrap_or_default()
    }

    fn new<B: AsRef<[u8]>>(index: Digest, open: &LaunchIndex<B>) -> Self {
        let diff_ids = open.diff_ids();
        let layers = ChainId::prefixes(&diff_ids).zip(open.layers());
        let layers = layers.map(|(chain, layer)| ImageLayer { chain, blob: layer.original.digest });
        Self { index, layers: layers.collect() }
    }
}

/// Why an index on disk is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    File(#[from] IndexFileError),
    #[error("the daemon is stopping")]
    Stopping,
}

/// Opens an index that was admitted before; its checksum finds what a disk did to it since.
pub(super) async fn open(
    indexes: &IndexStore,
    index: Digest,
    opened: impl FnOnce(&MappedIndex) + Send + 'static,
) -> Result<KnownIndex, OpenError> {
    let path = indexes.path(&index);
    let known = tokio::task::spawn_blocking(move || {
        let open = open_index(&path)?;
        opened(&open);
        Ok(KnownIndex::new(index, &open))
    });
    known.await.map_err(|_| OpenError::Stopping)?
}

/// Why a fetched index was not admitted.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdmitError {
    #[error(transparent)]
    Unsound(#[from] LaunchError),
    #[error("cannot keep launch index {index}")]
    Write {
        index: Digest,
        #[source]
        source: std::io::Error,
    },
    #[error("the daemon is stopping")]
    Stopping,
}

/// Unpacks an index blob whose digest was verified, checks every record of it, and keeps it. Whoever needs no more than that it is sound
/// is told so by `checked`, before the disk is waited for.
pub(super) async fn admit(
    indexes: &IndexStore,
    index: Digest,
    blob: bytes::Bytes,
    checked: impl FnOnce(&LaunchIndex<Vec<u8>>) + Send + 'static,
) -> Result<KnownIndex, AdmitError> {
    let indexes = indexes.clone();
    let admitted = tokio::task::spawn_blocking(move || {
        check_and_write(&indexes, index, launch::unpack(&blob)?, checked)
    });
    admitted.await.map_err(|_| AdmitError::Stopping)?
}

/// Keeps an index that was made here, under the digest of its own bytes; checked like any other.
pub(super) async fn keep(indexes: &IndexStore, raw: Vec<u8>) -> Result<KnownIndex, AdmitError> {
    let indexes = indexes.clone();
    let kept = tokio::task::spawn_blocking(move || {
        if raw.len() as u64 > launch::MAX_INDEX_LEN {
            return Err(LaunchError::TooLarge(raw.len() as u64).into());
        }
        check_and_write(&indexes, Digest::of(&raw), raw, |_| ())
    });
    kept.await.map_err(|_| AdmitError::Stopping)?
}

fn check_and_write(
    indexes: &IndexStore,
    index: Digest,
    raw: Vec<u8>,
    checked: impl FnOnce(&LaunchIndex<Vec<u8>>),
) -> Result<KnownIndex, AdmitError> {
    let open = LaunchIndex::open(raw)?;
    open.verify_checksum()?;
    launch::check(&open)?;
    checked(&open);
    let known = KnownIndex::new(index, &open);
    indexes.write(&index, &open.into_bytes()).map_err(|source| AdmitError::Write { index, source })?;
    Ok(known)
}
