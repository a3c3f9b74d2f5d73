//! What the kernel may have read of layers whose converted blob went into quarantine since.

use std::collections::BTreeSet;

use super::{Ino, LayerFs};

impl LayerFs {
    /// The places of layers in quarantine. None of the blob is read any more of those that this names.
    pub fn condemned(&self) -> BTreeSet<usize> {
        let is_condemned = |at: &usize| self.layers[*at].file().quarantined().is_some();
        (0..self.layers.len()).filter(is_condemned).collect()
    }

    /// Files with content in some of the layers.
    pub fn files_in<'a>(&'a self, layers: &'a BTreeSet<usize>) -> impl Iterator<Item = Ino> + 'a {
        let inodes = self.index.inodes_of_at_least(1).filter(|&inode| {
            let content = self.index.content(inode);
            content.is_ok_and(|content| layers.contains(&usize::from(content.layer)))
        });
        inodes.map(|inode| self.ino(inode))
    }
}
