//! One layer's tar on disk, as far as it has been needed.
//!
//! What is read back has been compared with the checksum that was noted when it was written, every time: a disk
//! that lost or changed it is found out, and the bytes are fetched again. A disk that cannot hold it
//! (full, read-only, broken) is no error: nothing is present then, and every span that arrives tries again.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::cut::Cut;
use super::files::Files;
use super::large::LargeFiles;
use super::record::{Record, Sum};
use super::{StoreCounters, StoreError};
use crate::verify::TarBytes;

/// The layer's tar in sparse files, and which units of it are there.
pub struct LayerFile {
    directory: PathBuf,
    cut: Cut,
    large: LargeFiles,
    disk: OnceLock<OnDisk>,
    /// One opens at a time.
    opening: Mutex<()>,
    counters: Arc<StoreCounters>,
}

struct OnDisk {
    files: Files,
    record: Record,
    /// Held by all who read or write units; exclusively by those who take units away.
    gate: RwLock<()>,
}

/// Units that are claimed but are not what the disk gives.
struct Damaged;

impl LayerFile {
    /// The files of a layer that is kept in `directory`.
    pub(super) fn open(
        directory: PathBuf,
        cut: Cut,
        large: LargeFiles,
        counters: Arc<StoreCounters>,
    ) -> Self {
        let (disk, opening) = (OnceLock::new(), Mutex::default());
        let file = Self { directory, cut, large, disk, opening, counters };
        if let Err(error) = file.on_disk() {
            tracing::warn!(%error, cause = %error.source, "a layer cannot be kept for now; it is served from memory");
        }
        file
    }

    /// Whether every byte of a tar range seems to be there. Costs no I/O; [`read`](Self::read) has the last word.
    pub fn has(&self, range: &Range<u64>) -> bool {
        let present = |disk: &OnDisk| self.cut.units_of(range).is_some_and(|units| disk.record.all(units));
        range.is_empty() || self.disk.get().is_some_and(present)
    }

    /// The bytes of a range, if all of them are there and are what was written. What is not is no longer
    /// present after this.
    pub fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let disk = self.disk.get()?;
        let units = self.cut.units_of(range)?;
        match disk.read(&self.cut, units.clone()) {
            Ok(read) => read.map(|(start, bytes)| {
                let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
                bytes.slice(at(range.start)..at(range.end))
            }),
            Err(Damaged) => {
                self.put_out_of_use(disk, units);
                None
            }
        }
    }

    /// Keeps verified bytes: those of units that they cover wholly, as those of a span do.
    ///
    /// # Errors
    /// The disk is full or fails; nothing is marked as present then.
    pub fn keep(&self, bytes: &TarBytes) -> io::Result<()> {
        let range = bytes.range();
        let Some(units) = self.cut.units_of(&range) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "bytes that no span of the layer covers",
            ));
        };
        let covered = |unit: &Range<u64>| range.start <= unit.start && unit.end <= range.end;
        let whole: Vec<_> =
            units.clone().zip(self.cut.ranges_of(units)).filter(|(_, r)| covered(r)).collect();
        let (Some((first, start)), Some((_, end))) = (whole.first(), whole.last()) else { return Ok(()) };
        let disk = self.on_disk().map_err(|error| error.source)?;
        let _gate = disk.gate.read().unwrap_or_else(PoisonError::into_inner);
        disk.files.write(start.start, bytes.slice(&(start.start..end.end)))?;
        let sums: Vec<Sum> = whole.iter().map(|(_, range)| Sum::of(bytes.slice(range))).collect();
        disk.record.claim(*first, &sums)
    }

    /// Bytes present.
    pub fn present_bytes(&self) -> u64 {
        let Some(disk) = self.disk.get() else { return 0 };
        let units = 0..self.cut.units();
        let there = units.clone().zip(self.cut.ranges_of(units)).filter(|(unit, _)| disk.record.has(*unit));
        there.map(|(_, range)| range.end - range.start).sum()
    }

    /// Takes away those of the units that are not what was written, so that they are fetched again.
    fn put_out_of_use(&self, disk: &OnDisk, units: Range<usize>) {
        let _gate = disk.gate.write().unwrap_or_else(PoisonError::into_inner);
        for (unit, range) in units.clone().zip(self.cut.ranges_of(units)) {
            if let Err(Damaged) = disk.read_held(&self.cut, unit..unit + 1) {
                let forgotten = disk.record.disclaim(unit..unit + 1);
                self.counters.damaged_units.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    layer = %self.directory.display(), start = range.start, len = range.end - range.start,
                    ?forgotten, "bytes on disk are damaged, or were lost in a crash: they are fetched again"
                );
            }
        }
    }

    /// The files, opened if they are not yet.
    fn on_disk(&self) -> Result<&OnDisk, StoreError> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        match self.disk.get() {
            Some(disk) => Ok(disk),
            None => {
                let disk = OnDisk::open(&self.directory, &self.cut, self.large.clone())?;
                Ok(self.disk.get_or_init(|| disk))
            }
        }
    }
}

impl OnDisk {
    fn open(directory: &Path, cut: &Cut, large: LargeFiles) -> Result<Self, StoreError> {
        let fail = |what| move |source| StoreError { path: directory.to_owned(), what, source };
        std::fs::create_dir_all(directory).map_err(fail("create the layer's directory"))?;
        let files = Files::open(directory, large).map_err(fail("open the layer's data"))?;
        let record = Record::open(&directory.join("units"), cut.units());
        Ok(Self {
            files,
            record: record.map_err(fail("open the record of what is present"))?,
            gate: RwLock::default(),
        })
    }

    /// Where a run of units starts, and their bytes; `None` if they are not all there.
    fn read(&self, cut: &Cut, units: Range<usize>) -> Result<Option<(u64, Bytes)>, Damaged> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.read_held(cut, units)
    }

    /// As [`read`](Self::read), for who holds the gate.
    fn read_held(&self, cut: &Cut, units: Range<usize>) -> Result<Option<(u64, Bytes)>, Damaged> {
        if !self.record.all(units.clone()) {
            return Ok(None);
        }
        let ranges: Vec<Range<u64>> = cut.ranges_of(units.clone()).collect();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(None) };
        let read = self.files.read(&(first.start..last.end));
        let read = read.and_then(|bytes| Ok((bytes, self.record.sums(units)?)));
        let (bytes, sums) = read.map_err(|error| {
            tracing::warn!(%error, "the disk does not give what was written");
            Damaged
        })?;
        let mut rest = &bytes[..];
        for (range, sum) in ranges.iter().zip(sums) {
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let (unit, behind) = rest.split_at_checked(len).ok_or(Damaged)?;
            if sum != Some(Sum::of(unit)) {
                return Err(Damaged);
            }
            rest = behind;
        }
        Ok(Some((first.start, bytes.into())))
    }
}
