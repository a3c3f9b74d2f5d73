//! Whether a pack is believed: until what it brought is compared with the complete layers, or one of them goes into quarantine.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use bytes::Bytes;

use super::Boot;
use super::shelf::{NotLocal, Shelf};

/// What has been found out about a pack.
#[derive(Default)]
pub(super) struct Trust {
    /// It is not believed any more.
    is_gone: AtomicBool,
    /// So many of the index's layers were compared with all that it brought.
    compared: AtomicU16,
}

impl Boot {
    /// Gives nothing of it to anybody any more, whatever is still to come of it, and drops what is kept. What the kernel has
    /// read of it is for who holds the mounts.
    pub(crate) fn distrust(&self) {
        let was_gone = self.trust.is_gone.swap(true, Ordering::AcqRel);
        self.progress.landed();
        let removed = self.shelf.get().filter(|_| !was_gone).map(|shelf| shelf.remove());
        if let Some(Err(error)) = removed {
            tracing::warn!(%error, "what a boot pack brought cannot be removed");
        }
    }

    /// Whether it is not believed any more.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.trust.is_gone.load(Ordering::Acquire)
    }

    /// The places of the layers that readers may have been given something of.
    pub(crate) fn layers(&self) -> BTreeSet<usize> {
        self.shelf.get().map(|shelf| shelf.layers()).unwrap_or_default()
    }

    /// The first part of a layer that it says something else of than what is `right`.
    pub(crate) fn differs(
        &self,
        layer: u16,
        right: impl Fn(&Range<u64>) -> Option<Bytes>,
    ) -> Result<Option<Range<u64>>, NotLocal> {
        self.believed().map_or(Ok(None), |shelf| shelf.differs(layer, right))
    }

    /// Notes that all it brought was compared with the first `layers` layers.
    pub(crate) fn note_compared(&self, layers: u16) {
        self.trust.compared.fetch_max(layers, Ordering::AcqRel);
    }

    /// Whether nothing is left to be compared with the first `layers` layers.
    pub(crate) fn is_compared(&self, layers: u16) -> bool {
        self.is_distrusted() || self.trust.compared.load(Ordering::Acquire) >= layers
    }

    /// The shelf, for readers.
    pub(super) fn believed(&self) -> Option<&Shelf> {
        self.shelf.get().map(Arc::as_ref).filter(|_| !self.is_distrusted())
    }
}
