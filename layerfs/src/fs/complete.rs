//! Chains of which everything is local: the kernel can be handed their files, to read them by itself.
//!
//! As EROFS, all of them (`crate::erofs`). With FUSE only the large ones: that needs OPEN to be answered, which costs two
//! requests for each file opened, small ones too, for as long as the mount lives. So it is offered only where large
//! files outweigh the others ([`LayerFs::favours_passthrough`]).

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::Ordering;

use jaunt_formats::Digest;
use jaunt_formats::launch::InodeType;

use super::{FsError, Ino, LayerFs};
use crate::store::{CompleteLayer, LARGE, Store};

/// Bytes in large files, for each file of the chain, from which on handing them over pays. Measured: an OPEN with its
/// RELEASE takes 45 us; what is read again from the page cache is 0.1 to 0.2 ms a MiB faster where the kernel does so
/// by itself, what is read from the disk some 2.5 ms.
const LARGE_BYTES_PER_FILE: u64 = 256 << 10;

/// A chain that is complete. None of its layers is taken away to make room while this lives.
pub struct CompleteChain {
    layers: Vec<CompleteLayer>,
}

impl CompleteChain {
    /// Whether it has been complete all the time: a part may have been found damaged.
    pub fn is_sound(&self) -> bool {
        self.layers.iter().all(CompleteLayer::is_sound)
    }

    /// A file of a layer in whole blocks, to be mounted: see [`CompleteLayer::blocks`].
    pub(crate) fn blocks(
        &self,
        layer: u16,
        large: Option<&Range<u64>>,
        len: u64,
    ) -> std::io::Result<Option<File>> {
        match self.layers.get(usize::from(layer)) {
            Some(layer) => layer.blocks(large, len),
            None => Ok(None),
        }
    }
}

impl LayerFs {
    /// Holds the chain as it is; `None` if a part of it is not local, or not known to be what it must be.
    pub fn hold_complete(&self) -> Option<CompleteChain> {
        let layers = self.layers.iter().map(|layer| layer.file().hold_complete()).collect::<Option<_>>()?;
        Some(CompleteChain { layers })
    }

    /// As [`hold_complete`](Self::hold_complete), where the tree was compared with the layers as well: the index with
    /// this digest may be another's, whose layers are complete for a chain that shares them.
    pub fn hold_checked(&self, store: &Store, index: &Digest) -> Option<CompleteChain> {
        store.is_checked(index, self.prefix()).then(|| self.hold_complete()).flatten()
    }

    /// Notes that somebody reads a file past the page cache. The kernel lets nobody do so where it reads a chain by itself.
    pub(crate) fn note_direct_read(&self) {
        self.is_read_directly.store(true, Ordering::Relaxed);
    }

    /// Whether a file has been read past the page cache (`O_DIRECT`) since this was made.
    pub fn is_read_directly(&self) -> bool {
        self.is_read_directly.load(Ordering::Relaxed)
    }

    /// Whether the kernel reading large files by itself is worth an OPEN for each file.
    pub fn favours_passthrough(&self) -> bool {
        let large =
            self.index.inodes_of_at_least(LARGE).filter_map(|inode| self.index.attributes(inode).ok());
        let large = large.filter(|attributes| attributes.kind == InodeType::Regular);
        let bytes = large.fold(0_u64, |sum, attributes| sum.saturating_add(attributes.size));
        bytes / LARGE_BYTES_PER_FILE >= self.index.inode_count() as u64
    }

    /// A file that holds the inode's content from its first byte on, and nothing else; `None` if there is none.
    ///
    /// # Errors
    /// It is no regular file, or the disk fails.
    pub fn backing(&self, chain: &CompleteChain, inode: Ino) -> Result<Option<File>, FsError> {
        let inode = self.inode(inode)?;
        if self.index.attributes(inode)?.kind != InodeType::Regular {
            return Err(FsError::WrongType);
        }
        let content = self.index.content(inode)?;
        let whole = match &content.extents[..] {
            [whole] if (whole.file_offset, whole.len) == (0, content.size) => whole,
            _ => return Ok(None),
        };
        let Some(layer) = chain.layers.get(usize::from(content.layer)) else { return Ok(None) };
        let range = whole.tar_offset.0..whole.tar_offset.0 + whole.len;
        layer.backing(&range).map_err(FsError::Backing)
    }
}
