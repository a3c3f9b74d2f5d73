//! What the kernel may have read of a chain that is not believed any more: layers whose converted blob went into quarantine
//! since, and what a boot pack brought that was found to differ.

use std::collections::BTreeSet;

use super::{Ino, LayerFs};

/// Something that is not believed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condemned {
    /// The converted blob of the layer in this place.
    Layer(usize),
    /// The boot pack.
    Pack,
}

impl LayerFs {
    /// What is not believed any more. Nothing is read any more of what this names.
    pub fn condemned(&self) -> BTreeSet<Condemned> {
        let is_condemned = |at: &usize| self.layers[*at].file().quarantined().is_some();
        let layers = (0..self.layers.len()).filter(is_condemned).map(Condemned::Layer);
        let pack = self.boot.as_ref().filter(|boot| boot.is_distrusted()).map(|_| Condemned::Pack);
        layers.chain(pack).collect()
    }

    /// Files with content of which some may have come from there.
    pub fn files_of(&self, condemned: &BTreeSet<Condemned>) -> impl Iterator<Item = Ino> + '_ {
        let layers: BTreeSet<usize> = condemned
            .iter()
            .flat_map(|condemned| match condemned {
                Condemned::Layer(at) => BTreeSet::from([*at]),
                Condemned::Pack => self.boot.as_ref().map(|boot| boot.layers()).unwrap_or_default(),
            })
            .collect();
        let inodes = self.index.inodes_of_at_least(1).filter(move |&inode| {
            let content = self.index.content(inode);
            content.is_ok_and(|content| layers.contains(&usize::from(content.layer)))
        });
        inodes.map(|inode| self.ino(inode))
    }
}
