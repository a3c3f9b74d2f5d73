//! The merged tree: every layer of an image in one structure, readable at any prefix of the stack.
//!
//! containerd may mount any committed chain, not only the whole image. So a name does not have one
//! entry but *versions*, each visible from `first_layer` up to, not including, `hidden_from_layer`. The
//! tree of the first k layers is the filter `first_layer < k <= hidden_from_layer`; nothing is merged
//! when it is read.
//!
//! Invariants: versions of one name never overlap; a directory keeps its children while its own
//! attributes change from layer to layer; no whiteout, opaque marker or overlayfs xattr is in the tree.
//! What unpacking with containerd and overlayfs would show is the reference throughout.

mod attributes;
mod builder;
mod layer;
mod names;
mod pool;

pub use builder::TreeBuilder;
pub use layer::{LogError, TreeError};

pub(crate) use pool::{AttributeSet, Pool, Pooled, SetId, Text};

use crate::{Entry, TarOffset};

/// A version that no layer hides carries this as its `hidden_from_layer`.
pub const NEVER_HIDDEN: u16 = u16::MAX;
/// Layers an image may have: every layer index is below [`NEVER_HIDDEN`].
pub const MAX_LAYERS: usize = NEVER_HIDDEN as usize;

/// A merged tree, ready to be written: some ninety bytes a name. Directory 0 holds one unnamed child: the root.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(crate) inodes: Vec<Inode>,
    /// Of all directories, one behind the other; in each sorted by name, then by first layer.
    pub(crate) dentries: Vec<Dentry>,
    /// Where each directory's end.
    pub(crate) dir_ends: Vec<usize>,
    pub(crate) layers: Vec<LayerStats>,
    pub(crate) pool: Pool,
}

/// What one layer adds, as an unpacked copy would count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Files, directories, links and devices, hard links counted once.
    pub inodes: u32,
    /// Bytes of regular files, as their readers see them.
    pub content_bytes: u64,
}

/// One version of one file: shared by its hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    pub kind: InodeKind,
    pub attributes: Pooled,
    pub nlink: u32,
    pub layer: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InodeKind {
    Directory { dir: u32 },
    Regular { size: u64, offset: TarOffset },
    Sparse { size: u64, extents: u32 },
    Symlink { target: Text },
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// One version of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dentry {
    pub name: Text,
    pub inode: u32,
    pub first_layer: u16,
    pub hidden_from_layer: u16,
}

/// Room for reserved inode numbers above the index's own.
const MAX_INODES: usize = u32::MAX as usize - 16;

/// A number of something of which there are fewer than [`MAX_INODES`].
fn number(count: usize) -> u32 {
    u32::try_from(count).expect("every layer is checked before it is laid")
}

impl Tree {
    /// The tree of layers given bottom to top, each as the entries of its tar in their order.
    ///
    /// # Errors
    /// The entries do not form a tree.
    pub fn of_layers(layers: impl IntoIterator<Item = Vec<Entry>>) -> Result<Self, TreeError> {
        let mut builder = TreeBuilder::new();
        layers.into_iter().try_for_each(|entries| builder.push_layer(entries))?;
        Ok(builder.finish())
    }

    /// Versions of names over all layers.
    pub fn entry_count(&self) -> usize {
        self.dentries.len()
    }

    /// What each layer adds, bottom to top.
    pub fn layer_stats(&self) -> &[LayerStats] {
        &self.layers
    }
}
