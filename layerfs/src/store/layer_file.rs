//! One layer's tar on disk, as far as it has been needed.
//!
//! What is read back has been compared with the checksum that was noted when it was written, every time: a disk
//! that lost or changed it is found out, and the bytes are fetched again. A disk that cannot hold it
//! (full, read-only, broken) is no error: nothing is present then, and every span that arrives tries again.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use super::complete::Holders;
use super::cut::Cut;
use super::direct::ReadFrom;
use super::large::LargeFiles;
use super::on_disk::{Damaged, OnDisk};
use super::quarantine::InQuarantine;
use super::shared::{Matter, SPARED, Shared};
use super::{LayerKey, StoreError};
use crate::trouble_log::Say;
use crate::verify::TarBytes;

/// The layer's tar in sparse files, and which units of it are there.
pub struct LayerFile {
    pub(super) directory: PathBuf,
    pub(super) cut: Cut,
    pub(super) large: LargeFiles,
    disk: OnceLock<OnDisk>,
    /// One opens at a time.
    opening: Mutex<()>,
    pub(super) holders: Holders,
    /// Why its converted blob is not believed.
    pub(super) condemned: OnceLock<Arc<str>>,
    /// What that is noted under.
    pub(super) verdict: String,
    /// When all of it was last compared with what was written, in seconds since 1970.
    pub(super) scrubbed: AtomicU32,
    pub(super) shared: Arc<Shared>,
}

impl LayerFile {
    /// The files of a layer that is kept in `directory`.
    pub(super) fn open(
        directory: PathBuf,
        key: &LayerKey,
        cut: Cut,
        large: LargeFiles,
        shared: Arc<Shared>,
    ) -> Self {
        let (disk, opening, holders) = (OnceLock::new(), Mutex::default(), Holders::default());
        let verdict = key.verdict();
        let condemned = shared.verdicts.find(&verdict).map(OnceLock::from).unwrap_or_default();
        let scrubbed = AtomicU32::default();
        let file =
            Self { directory, cut, large, disk, opening, holders, condemned, verdict, scrubbed, shared };
        if let Err(error) = file.on_disk() {
            tracing::warn!(%error, cause = %error.source, "a layer cannot be kept for now; it is served from memory");
        }
        file
    }

    /// Whether every byte of a tar range seems to be there. Costs no I/O; [`read`](Self::read) has the last word.
    pub fn has(&self, range: &Range<u64>) -> bool {
        let present = |disk: &OnDisk| self.cut.units_of(range).is_some_and(|units| disk.record.all(units));
        range.is_empty() || self.disk().is_some_and(present)
    }

    /// The bytes of a range, if all of them are there and are what was written. What is not is no longer
    /// present after this.
    pub fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let disk = self.disk()?;
        let units = self.cut.units_of(range)?;
        match disk.read(&self.cut, units.clone(), ReadFrom::Cache) {
            Ok(Some((start, bytes))) => {
                disk.regions.touch(&units, self.shared.now());
                let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
                Some(bytes.slice(at(range.start)..at(range.end)))
            }
            Ok(None) => None,
            Err(Damaged) => {
                self.put_out_of_use(disk, units, ReadFrom::Cache);
                None
            }
        }
    }

    /// Keeps verified bytes of the converted blob: those of units that they cover wholly, as those of a span do.
    ///
    /// # Errors
    /// The disk is full or fails, or the blob is in quarantine; nothing is marked as present then.
    pub fn keep(&self, bytes: &TarBytes) -> io::Result<()> {
        self.keep_from(bytes, true)
    }

    pub(super) fn keep_from(&self, bytes: &TarBytes, converted: bool) -> io::Result<()> {
        let range = bytes.range();
        let Some(units) = self.cut.units_of(&range) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "bytes that no span of the layer covers",
            ));
        };
        let kept = self.on_disk().map_err(|error| error.source).and_then(|disk| {
            disk.regions.touch(&units, self.shared.now());
            let _gate = disk.gate.read().unwrap_or_else(PoisonError::into_inner);
            if converted && self.condemned.get().is_some() {
                return Err(io::Error::other(InQuarantine));
            }
            disk.write_held(&self.cut, units, bytes)
        });
        self.shared.note_kept(range.end - range.start, &kept);
        kept
    }

    /// Notes that all of it is used, by reads that do not come here.
    pub fn note_use(&self) {
        if let Some(disk) = self.disk() {
            disk.regions.touch(&(0..self.cut.units()), self.shared.now());
        }
    }

    /// For how many seconds nothing of it has been used; `None` if something is in use, as far as making room goes.
    pub fn idle_seconds(&self) -> Option<u32> {
        let used = self.disk().and_then(|disk| disk.regions.iter().map(|(_, used)| used.0).max());
        // A clock that was set back makes it seem used in the future.
        let idle = self.shared.now().0.saturating_sub(used.unwrap_or(0));
        (idle >= SPARED).then_some(idle)
    }

    /// Bytes present.
    pub fn present_bytes(&self) -> u64 {
        self.disk().map_or(0, |disk| self.present_of(disk, 0..self.cut.units()))
    }

    /// Bytes that there are to be had: all but what no span covers.
    pub fn total_bytes(&self) -> u64 {
        self.cut.ranges_of(0..self.cut.units()).map(|range| range.end - range.start).sum()
    }

    /// Bytes present, of some units.
    pub(super) fn present_of(&self, disk: &OnDisk, units: Range<usize>) -> u64 {
        let there = units.clone().zip(self.cut.ranges_of(units)).filter(|(unit, _)| disk.record.has(*unit));
        there.map(|(_, range)| range.end - range.start).sum()
    }

    /// The files, if they could be opened.
    pub(super) fn disk(&self) -> Option<&OnDisk> {
        self.disk.get()
    }

    /// The files, opened if they are not yet.
    pub(super) fn on_disk(&self) -> Result<&OnDisk, StoreError> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        match self.disk.get() {
            Some(disk) => Ok(disk),
            None => {
                let disk = OnDisk::open(&self.directory, &self.cut, self.large.clone(), self.shared.now())?;
                let fail = |source| StoreError {
                    path: self.directory.clone(),
                    what: "clear what is in quarantine",
                    source,
                };
                let disk = self.cleared(disk).map_err(fail)?;
                Ok(self.disk.get_or_init(|| disk))
            }
        }
    }

    /// Takes away those of the units that are not what was written, so that they are fetched again.
    pub(super) fn put_out_of_use(&self, disk: &OnDisk, units: Range<usize>, from: ReadFrom) {
        let layer = self.directory.display();
        match disk.take_damaged(&self.cut, units, from) {
            Ok(damaged) => {
                if !damaged.is_empty() {
                    self.shared.spoilt.send_modify(|count| *count += 1);
                }
                for range in damaged {
                    let (start, len) = (range.start, range.end - range.start);
                    self.shared.counters.damaged_units.fetch_add(1, Ordering::Relaxed);
                    // After a crash it may be thousands: one is told, and from time to time how many.
                    match self.shared.failed(Matter::Damage, &self.directory) {
                        Some(Say::GoesOn { failures, .. }) => {
                            tracing::error!(%layer, units = failures, "more bytes on disk were found damaged");
                        }
                        Some(_) => {
                            tracing::error!(%layer, start, len, "bytes on disk are damaged, or were lost in a crash: they are fetched again");
                        }
                        None => tracing::debug!(%layer, start, len, "more bytes on disk are damaged"),
                    }
                }
            }
            Err(error) => {
                if self.shared.failed(Matter::Unnoted, &self.directory).is_some() {
                    tracing::error!(%layer, %error, "bytes on disk are damaged, and the disk does not let that be noted");
                }
            }
        }
    }
}
