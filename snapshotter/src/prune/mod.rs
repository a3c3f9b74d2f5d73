//! `prune`: room made in the store at once, by the daemon, or in its absence by the command itself.

mod client;
mod server;
mod show;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use jaunt_layerfs::index_file::{IndexFileError, open_index};
use jaunt_layerfs::store::check::{directory_of, kept};
use jaunt_layerfs::store::{LargeFiles, Store, StoreError};

pub use client::{PruneCommandError, prune_on};
pub use server::AdminService;
pub use show::{json, text};

use crate::lazy::LazyChain;

/// The store, and what uses it.
#[derive(Clone)]
pub struct Pruner {
    /// The store.
    pub store: Arc<Store>,
    /// Where launch indexes are.
    pub index_dir: PathBuf,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Directories of layers, and what they occupied.
    pub layers: Vec<(PathBuf, u64)>,
    /// Bytes of what is in use, and stays.
    pub in_use: u64,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// It cannot be told what is in use.
    #[error("it cannot be told which layers are in use")]
    Index(#[from] IndexFileError),
    /// The disk refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be listed.
    #[error("cannot look through the store {root}", root = .root.display())]
    List {
        /// Its directory.
        root: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Pruned {
    /// Bytes of what was removed.
    pub fn freed(&self) -> u64 {
        self.layers.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Pruner {
    /// Removes the layers that none of `chains` has; with `all`, every layer that nobody has open. Blocking.
    ///
    /// # Errors
    /// An index or the store cannot be read, or a layer not be removed.
    pub fn prune(&self, chains: &[LazyChain], all: bool, dry_run: bool) -> Result<Pruned, PruneError> {
        let wanted = if all { HashSet::new() } else { self.wanted(chains)? };
        let root = self.store.root();
        let listed = kept(root).map_err(|source| PruneError::List { root: root.to_owned(), source })?;
        let mut pruned = Pruned::default();
        for layer in listed.into_iter().filter(|layer| !wanted.contains(&layer.path)) {
            let gone = match dry_run {
                true => !self.store.is_held(&layer),
                false => self.store.remove_kept(&layer)?,
            };
            match gone {
                true => pruned.layers.push((layer.path, layer.bytes)),
                false => pruned.in_use += layer.bytes,
            }
        }
        Ok(pruned)
    }

    fn wanted(&self, chains: &[LazyChain]) -> Result<HashSet<PathBuf>, PruneError> {
        let mut wanted = HashSet::new();
        for chain in chains {
            let index = open_index(&self.index_dir.join(chain.index.hex()))?;
            let large = LargeFiles::of_layers(&index);
            let layers = index.layers().iter().zip(&large).take(chain.prefix.into());
            wanted.extend(layers.map(|(layer, large)| directory_of(self.store.root(), layer, large)));
        }
        Ok(wanted)
    }
}
