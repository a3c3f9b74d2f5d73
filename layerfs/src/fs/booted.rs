//! Bytes of layers, where a boot pack may have them as well.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::stretch::{Stretch, stretches};
use super::{FsError, Ino, LayerFs, usize_of};
use crate::boot::{Boot, FirstTouches};
use crate::layer::Layer;

impl LayerFs {
    /// The same, with what the image's boot pack brings.
    #[must_use]
    pub fn with_boot(self, boot: Option<Arc<Boot>>) -> Self {
        Self { boot, ..self }
    }

    /// Has what is touched first noted from now on; `false` if it is already.
    pub fn note_first_touches(&self, touches: Arc<FirstTouches>) -> bool {
        self.first_touches.set(touches).is_ok()
    }

    /// What has been touched first, if that is noted.
    pub fn first_touches(&self) -> Option<&Arc<FirstTouches>> {
        self.first_touches.get()
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
        let packed = self.pack_for(layer).and_then(|boot| boot.read(number, layer, range));
        if packed.is_some() {
            self.metrics.boot_reads.inc();
        }
        Ok(packed.map(Bytes::from))
    }

    /// Up to `len` bytes of a file from `offset`, if all of them are here. Nobody has asked for them: it is no read, and nothing of
    /// the pack counts as used.
    pub(crate) fn peek(&self, inode: Ino, offset: u64, len: u32) -> Option<Vec<u8>> {
        let (number, stretches, _) = self.plan(inode, offset, len).ok()?;
        let layer = self.layer(number).ok()?;
        let mut bytes = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Zeros(len) => bytes.resize(bytes.len() + usize_of(len), 0),
                Stretch::Tar(range) => match layer.read_local(&range) {
                    Some(part) => bytes.extend_from_slice(&part),
                    None => bytes.append(&mut self.pack_for(layer)?.peek(number, layer, &range)?),
                },
            }
        }
        Some(bytes)
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
        if let Some(boot) = self.pack_for(layer)
            && let Some(bytes) = boot.await_bytes(number, layer, &range).await
            && self.pack_for(layer).is_some()
        {
            self.metrics.boot_reads.inc();
            return Ok(bytes);
        }
        Ok(if alone { layer.read_alone(range).await? } else { layer.read(range).await? })
    }

    /// The kernel was given bytes of the pack.
    pub(crate) fn note_pushed(&self, bytes: usize) {
        self.metrics.boot_pushed_bytes.inc_by(bytes as u64);
    }

    /// Whether the boot pack has a range, or is to bring it.
    pub(super) fn is_packed(&self, number: u16, range: &Range<u64>) -> bool {
        let packed = |layer| self.pack_for(layer).is_some_and(|boot| boot.covers(number, layer, range));
        self.layer(number).is_ok_and(packed)
    }

    /// Whether the boot pack holds a range of a file: then it holds what is read of it after that, too.
    pub(super) fn is_foreseen(&self, inode: Ino, read: Range<u64>) -> bool {
        if self.boot.is_none() {
            return false;
        }
        let Some(content) = self.inode(inode).ok().and_then(|inode| self.index.content(inode).ok()) else {
            return false;
        };
        let Some(pack) = self.layer(content.layer).ok().and_then(|layer| self.pack_for(layer)) else {
            return false;
        };
        let mut parts = stretches(&content.extents, read.start..read.end.min(content.size)).into_iter();
        parts.all(|part| match part {
            Stretch::Tar(range) => pack.holds(content.layer, &range),
            Stretch::Zeros(_) => true,
        })
    }

    /// The pack, unless the layer's converted blob was found to lie: then so may the pack, which the same artifact names.
    fn pack_for(&self, layer: &Layer) -> Option<&Arc<Boot>> {
        self.boot.as_ref().filter(|_| layer.file().quarantined().is_none())
    }

    /// Believes nothing of the boot pack any more; whether it was believed so far.
    pub(crate) fn distrust_boot(&self) -> bool {
        let Some(boot) = self.boot.as_ref().filter(|boot| !boot.is_distrusted()) else { return false };
        boot.distrust();
        self.metrics.boot_failures.inc();
        self.store.note_spoilt();
        true
    }

    /// Whether something that the boot pack brought is still to be compared with the layers.
    pub(crate) fn boot_to_compare(&self) -> Option<&Arc<Boot>> {
        self.boot.as_ref().filter(|boot| !boot.is_compared(self.prefix))
    }
}
