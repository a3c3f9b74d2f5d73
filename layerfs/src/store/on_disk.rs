//! A layer's files, opened: bytes, the record of what they must be, and what is known of the whole.
//!
//! The order that keeps readers from bytes that are not there: units are written, then claimed; disclaimed, then taken
//! away. Who reads or writes units holds the gate, who takes them away holds it alone: a reader that found a unit
//! claimed has read it before it goes. Whether the layer is complete is changed by one at a time (`changing`, taken
//! before the gate), and is on disk exactly while it is true: see [`complete`](super::complete).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bytes::Bytes;

use super::StoreError;
use super::complete::{self, HANDED_OUT, MOUNTED};
use super::cut::Cut;
use super::direct::ReadFrom;
use super::files::Files;
use super::large::LargeFiles;
use super::record::{Record, Sum};
use super::regions::Regions;
use super::shared::Moment;
use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering, RwLock};
use crate::verify::TarBytes;

pub(super) struct OnDisk {
    pub(super) directory: PathBuf,
    pub(super) files: Files,
    pub(super) record: Record,
    pub(super) regions: Regions,
    pub(super) gate: RwLock<()>,
    pub(super) changing: Mutex<()>,
    /// All of it is there, and was found to be what the layer must be.
    pub(super) complete: AtomicBool,
    /// The disk may say so, also after a power cut.
    pub(super) marked: AtomicBool,
    /// The kernel may read large files by itself: they must never be changed, only removed.
    pub(super) handed_out: AtomicBool,
    /// The kernel may have them mounted: the packed one as well must never be punched, only replaced.
    pub(super) mounted: AtomicBool,
    /// How often a part of it was found damaged: whoever has it mounted may have read that part.
    pub(super) damages: AtomicU64,
    /// The log has been told that reads from these files fail.
    told: AtomicBool,
}

/// Units that are claimed but are not what the disk gives.
pub(super) struct Damaged;

impl OnDisk {
    pub(super) fn open(
        directory: &Path,
        cut: &Cut,
        large: LargeFiles,
        now: Moment,
    ) -> Result<Self, StoreError> {
        let fail = |what| move |source| StoreError { path: directory.to_owned(), what, source };
        std::fs::create_dir_all(directory).map_err(fail("create the layer's directory"))?;
        let files = Files::open(directory, large).map_err(fail("open the layer's data"))?;
        let record = Record::open(&record_path(directory), cut.units());
        let record = record.map_err(fail("open the record of what is present"))?;
        let complete = complete::is_marked(directory);
        let on_disk = Self {
            directory: directory.to_owned(),
            files,
            record,
            regions: Regions::open(&directory.join("used"), cut, now),
            gate: RwLock::default(),
            changing: Mutex::default(),
            complete: AtomicBool::new(complete),
            marked: AtomicBool::new(complete),
            handed_out: AtomicBool::new(directory.join(HANDED_OUT).exists()),
            mounted: AtomicBool::new(directory.join(MOUNTED).exists()),
            damages: AtomicU64::new(0),
            told: AtomicBool::new(false),
        };
        if complete && !on_disk.record.all(0..cut.units()) {
            on_disk.unmark().map_err(fail("note that the layer is not complete"))?;
        }
        Ok(on_disk)
    }

    /// Writes those of the units that the bytes cover wholly, as those of a span do, and claims them. For who holds the
    /// gate.
    pub(super) fn write_held(&self, cut: &Cut, units: Range<usize>, bytes: &TarBytes) -> io::Result<()> {
        let range = bytes.range();
        let covered = |unit: &Range<u64>| range.start <= unit.start && unit.end <= range.end;
        let whole: Vec<_> = units.clone().zip(cut.ranges_of(units)).filter(|(_, r)| covered(r)).collect();
        let (Some((first, start)), Some((_, end))) = (whole.first(), whole.last()) else { return Ok(()) };
        let sums: Vec<Sum> = whole.iter().map(|(_, range)| Sum::of(bytes.slice(range))).collect();
        self.files.write(start.start, bytes.slice(&(start.start..end.end)))?;
        self.record.claim(*first, &sums)
    }

    /// Where a run of units starts, and their bytes; `None` if they are not all there.
    pub(super) fn read(
        &self,
        cut: &Cut,
        units: Range<usize>,
        from: ReadFrom,
    ) -> Result<Option<(u64, Bytes)>, Damaged> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.read_held(cut, units, from)
    }

    /// Takes away those of the units that are not what was written, and says which those are.
    pub(super) fn take_damaged(
        &self,
        cut: &Cut,
        units: Range<usize>,
        from: ReadFrom,
    ) -> io::Result<Vec<Range<u64>>> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut damaged = Vec::new();
        let mut forgotten = Ok(());
        for (unit, range) in units.clone().zip(cut.ranges_of(units)) {
            if let Err(Damaged) = self.read_held(cut, unit..unit + 1, from) {
                forgotten = forgotten.and(self.record.disclaim(unit..unit + 1));
                damaged.push(range);
            }
        }
        if !damaged.is_empty() {
            self.damages.fetch_add(1, Ordering::AcqRel);
            forgotten = forgotten.and(self.unmark());
        }
        forgotten.map(|()| damaged)
    }

    /// No longer complete, and lastingly so. For who holds `changing`.
    pub(super) fn unmark(&self) -> io::Result<()> {
        self.complete.store(false, Ordering::Release);
        if self.marked.load(Ordering::Acquire) {
            complete::unmark(&self.directory)?;
            self.marked.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Makes all that is there last.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.record.sync(&record_path(&self.directory))?;
        self.files.sync()
    }

    /// Writes down when which part was used.
    pub(super) fn save_use(&self) -> io::Result<()> {
        self.regions.save(&self.directory.join("used"))
    }

    /// For who holds the gate.
    fn read_held(
        &self,
        cut: &Cut,
        units: Range<usize>,
        from: ReadFrom,
    ) -> Result<Option<(u64, Bytes)>, Damaged> {
        if !self.record.all(units.clone()) {
            return Ok(None);
        }
        let ranges: Vec<Range<u64>> = cut.ranges_of(units.clone()).collect();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(None) };
        if from == ReadFrom::Cache {
            self.record.begin(&units);
        }
        let read = self.files.read(&(first.start..last.end), from);
        let read = read.and_then(|bytes| Ok((bytes, self.record.sums(units)?)));
        let (bytes, sums) = read.map_err(|error| {
            // A failing disk fails every read: once is enough.
            let layer = self.directory.display();
            match self.told.swap(true, Ordering::Relaxed) {
                false => tracing::warn!(%error, %layer, "the disk does not give what was written"),
                true => tracing::debug!(%error, %layer, "the disk still does not give what was written"),
            }
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

pub(super) fn record_path(directory: &Path) -> PathBuf {
    directory.join("units")
}
