//! How much of a chain is here.

use crate::fs::LayerFs;

/// How much of a mounted chain is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of its layers' tars that are local.
    pub present_bytes: u64,
    /// Bytes of its layers' tars.
    pub total_bytes: u64,
    /// Layers that are complete.
    pub complete_layers: usize,
    /// Layers.
    pub layers: usize,
}

impl Progress {
    /// That of a chain at this moment. Goes through the record of what is present: microseconds a gigabyte.
    pub fn of(fs: &LayerFs) -> Self {
        fs.layers().iter().fold(Self::default(), |sum, layer| {
            let file = layer.file();
            Self {
                present_bytes: sum.present_bytes + file.present_bytes(),
                total_bytes: sum.total_bytes + file.total_bytes(),
                complete_layers: sum.complete_layers + usize::from(file.is_complete()),
                layers: sum.layers + 1,
            }
        })
    }

    /// Whether nothing is left to be done for it.
    pub(super) fn is_whole(&self) -> bool {
        self.complete_layers == self.layers
    }

    /// Percent that is local; 100 only if all of it is.
    pub fn percent(&self) -> u64 {
        match self.total_bytes {
            0 => 100,
            total => u64::try_from(u128::from(self.present_bytes) * 100 / u128::from(total)).unwrap_or(100),
        }
    }
}
