//! Taking parts of a layer away to make room.

use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::complete::MOUNTED;
use super::disk;
use super::layer_file::LayerFile;
use super::on_disk::OnDisk;
use super::shared::Moment;

/// A region of which something is there.
pub(super) struct Present {
    pub units: Range<usize>,
    pub used: Moment,
    pub bytes: u64,
}

impl LayerFile {
    /// What could be taken away: nothing of a layer that is held complete.
    pub(super) fn evictable(&self) -> Vec<Present> {
        let Some(disk) = self.disk().filter(|_| !self.holders.any()) else { return Vec::new() };
        let present = |(units, used): (Range<usize>, Moment)| {
            let bytes = self.present_of(disk, units.clone());
            (bytes > 0).then_some(Present { units, used, bytes })
        };
        disk.regions.iter().filter_map(present).collect()
    }

    /// Takes a region away; of a layer that the kernel had mounted, all of it. Readers find it missing from then on, and fetch it again; those under way have their
    /// bytes before they go. Does nothing to a layer that is held complete.
    ///
    /// # Errors
    /// The disk refuses; then its room is not free, and what is there still, or is not, is right.
    pub(super) fn evict(&self, units: Range<usize>) -> io::Result<()> {
        let Some(disk) = self.disk() else { return Ok(()) };
        let _changing = disk.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.end_completeness(disk)? {
            return Ok(());
        }
        let _gate = disk.gate.write().unwrap_or_else(PoisonError::into_inner);
        if disk.mounted.load(Ordering::Acquire) {
            return self.take_all(disk);
        }
        let Some(range) = self.cut.extent_of(&units) else { return Ok(()) };
        disk.record.disclaim(units)?;
        if disk.handed_out.load(Ordering::Acquire) {
            self.remove_large(disk, &range)?;
        }
        disk.files.punch(&range)
    }

    /// Sees to it that the layer is lastingly not complete; `false` if somebody holds it complete.
    fn end_completeness(&self, disk: &OnDisk) -> io::Result<bool> {
        {
            let _gate = disk.gate.write().unwrap_or_else(PoisonError::into_inner);
            if self.holders.any() {
                return Ok(false);
            }
            disk.complete.store(false, Ordering::Release);
        }
        disk.unmark().map(|()| true)
    }

    /// Takes the whole layer away. Mounts that read its files go on to.
    fn take_all(&self, disk: &OnDisk) -> io::Result<()> {
        disk.record.disclaim(0..self.cut.units())?;
        for large in self.large.ranges() {
            disk.files.remove(large)?;
        }
        disk.files.renew_packed()?;
        disk::remove(&disk.directory.join(MOUNTED))?;
        disk.mounted.store(false, Ordering::Release);
        Ok(())
    }

    /// Removes the large files that a range touches, with all their units.
    fn remove_large(&self, disk: &OnDisk, range: &Range<u64>) -> io::Result<()> {
        for large in self.large.ranges().iter().filter(|l| l.start < range.end && range.start < l.end) {
            disk.record.disclaim(self.cut.units_touching(large))?;
            disk.files.remove(large)?;
        }
        Ok(())
    }
}
