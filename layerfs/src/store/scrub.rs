//! Looking at complete layers, which the kernel reads by itself: whatever a disk does to their bytes, no read of ours would find it.
//!
//! Every unit is read from the disk, past the page cache, and compared with its checksum. What is not what was written is
//! no longer present, and the layer no longer complete, as where a read finds it out.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Store;
use super::direct::ReadFrom;
use super::layer_file::LayerFile;
use super::on_disk::Damaged;

/// Units that are looked at as one: a mebibyte.
const PIECE: usize = 64;

/// A layer that is due.
pub(crate) struct Due {
    layer: Weak<LayerFile>,
    units: usize,
    next: usize,
}

impl Store {
    /// The complete layers that somebody has open and that nobody has looked at for so long.
    pub(crate) fn due(&self, interval: Duration) -> Vec<Due> {
        let (now, interval) = (self.shared.now().0, interval.as_secs());
        let is_due = |layer: &Arc<LayerFile>| {
            let last = layer.scrubbed.load(Ordering::Relaxed);
            // A clock that was set back makes it due.
            layer.is_complete() && (now < last || u64::from(now - last) >= interval)
        };
        let due = self.opened().into_iter().map(|(_, layer)| layer).filter(is_due);
        due.map(|layer| Due { units: layer.cut.units(), layer: Arc::downgrade(&layer), next: 0 }).collect()
    }
}

impl Due {
    /// Looks at the next piece, and says how many bytes it has; `None` when there is none, or the layer is not complete
    /// or not in use any more.
    pub(crate) fn go_on(&mut self) -> Option<u64> {
        let layer = self.layer.upgrade().filter(|layer| layer.is_complete())?;
        let piece = self.next..self.units.min(self.next + PIECE);
        if piece.is_empty() {
            layer.scrubbed.store(layer.shared.now().0, Ordering::Relaxed);
            return None;
        }
        self.next = piece.end;
        Some(layer.scrub(piece))
    }
}

impl LayerFile {
    fn scrub(&self, units: Range<usize>) -> u64 {
        let Some(disk) = self.disk() else { return 0 };
        let bytes = self.cut.ranges_of(units.clone()).map(|range| range.end - range.start).sum();
        if let Err(Damaged) = disk.read(&self.cut, units.clone(), ReadFrom::Disk) {
            self.put_out_of_use(disk, units, ReadFrom::Disk);
        }
        self.shared.counters.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }
}
