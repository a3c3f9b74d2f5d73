//! Bytes of layers, where a boot pack may have them as well.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{FsError, LayerFs};
use crate::boot::Boot;

impl LayerFs {
    /// The same, with what the image's boot pack brings.
    #[must_use]
    pub fn with_boot(self, boot: Option<Arc<Boot>>) -> Self {
        Self { boot, ..self }
    }

    /// The image's boot pack, if it has one.
    pub fn boot(&self) -> Option<&Arc<Boot>> {
        self.boot.as_ref()
    }

    /// A range of a layer's tar, if all of it is here.
    pub(super) fn local_bytes(&self, number: u16, range: &Range<u64>) -> Result<Option<Bytes>, FsError> {
        let layer = self.layer(number)?;
        if let Some(bytes) = layer.read_local(range) {
            return Ok(Some(bytes));
        }
        let packed = self.boot.as_ref().and_then(|boot| boot.read(number, layer, range));
        if packed.is_some() {
            self.metrics.boot_reads.inc();
        }
        Ok(packed.map(Bytes::from))
    }

    /// A range of a layer's tar that is not here: from the boot pack if it is about to bring it, else by its spans. What lies
    /// around it is fetched as well unless it is to be read `alone`.
    pub(super) async fn bytes(
        &self,
        number: u16,
        range: Range<u64>,
        alone: bool,
    ) -> Result<Vec<u8>, FsError> {
        let layer = self.layer(number)?;
        if let Some(boot) = &self.boot
            && let Some(bytes) = boot.await_bytes(number, layer, &range).await
        {
            self.metrics.boot_reads.inc();
            return Ok(bytes);
        }
        Ok(if alone { layer.read_alone(range).await? } else { layer.read(range).await? })
    }

    /// Whether the boot pack has a range, or is to bring it.
    pub(super) fn is_packed(&self, number: u16, range: &Range<u64>) -> bool {
        let layer = self.layer(number).ok();
        self.boot.as_ref().zip(layer).is_some_and(|(boot, layer)| boot.covers(number, layer, range))
    }
}
