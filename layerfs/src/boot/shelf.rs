//! What a pack has brought, decoded, in one file: for mounts of its launch index, also after a restart.
//!
//! ```text
//!  0  8  magic "JAUNTSH1"      8  8  length of the table      16 32  SHA-256 of the table     48  8  1 if the pack was learnt     56  8  zero
//! 64     the pack's table
//!        a u64 for each unit: CRC-64/NVME of its bytes, 1 where that is 0; 0: it is not there
//!        the content of all extents, in their order
//! ```
//! Integers are little-endian. A unit is 16 KiB of a frame's content, the last of a frame shorter. Content is written before its
//! checksums, and no order is forced on the disk: as in the store, what is read is compared with them every time. A frame of
//! which something is damaged is not there any more.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use jaunt_formats::Digest;
use jaunt_formats::boot::{BootPack, Extent};
use jaunt_formats::launch::LaunchLayer;

use super::BootFigures;
use crate::verify::FrameBytes;

const MAGIC: &[u8; 8] = b"JAUNTSH1";
const HEADER_LEN: usize = 64;
const LEARNT_AT: usize = 48;
const SUM_LEN: usize = size_of::<u64>();
const UNIT: usize = 16 << 10;
/// Bytes that are compared at a time.
const COMPARED: usize = 1 << 20;

pub(super) struct Shelf {
    file: File,
    path: PathBuf,
    pack: BootPack,
    learnt: bool,
    places: Vec<Place>,
    frames: Vec<FramePlace>,
    sums: Box<[AtomicU64]>,
    used: Box<[AtomicBool]>,
    /// Where the sums, and the content, start in the file.
    sums_at: u64,
    content_at: u64,
}

/// Where an extent is; sorted by layer and offset.
struct Place {
    layer: u16,
    tar: Range<u64>,
    /// Where it starts in its frame's content.
    within: usize,
    frame: usize,
}

/// Where a frame is.
struct FramePlace {
    /// In the content of all.
    content: u64,
    len: usize,
    first_unit: usize,
    there: AtomicBool,
}

/// A part of a layer is not here to be compared with.
#[derive(Debug)]
pub(crate) struct NotLocal;

/// A part of a range that somebody reads.
enum Piece<'s> {
    Held(&'s Place, Range<u64>),
    /// The pack does not have it.
    Else(Range<u64>),
}

impl Shelf {
    /// An empty shelf for a pack, in a new file. `table` is the pack's, as it came.
    pub(super) fn create(path: &Path, table: &[u8], pack: BootPack, learnt: bool) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&(table.len() as u64).to_le_bytes());
        header[16..48].copy_from_slice(Digest::of(table).as_bytes());
        header[LEARNT_AT] = learnt.into();
        file.write_all_at(table, HEADER_LEN as u64)?;
        file.write_all_at(&header, 0)?;
        let shelf = Self::new(path, file, table.len() as u64, pack, learnt);
        shelf.file.set_len(shelf.content_at + shelf.pack.content_len())?;
        Ok(shelf)
    }

    /// The shelf in a file, if it is one of this index.
    pub(super) fn open(path: &Path, index: Digest, layers: &[LaunchLayer]) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut len = [0; 8];
        len.copy_from_slice(&header[8..16]);
        let len = u64::from_le_bytes(len);
        if header[..8] != *MAGIC || len > file.metadata()?.len() {
            return Err(bad("not a shelf of a boot pack"));
        }
        let mut table = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut table, HEADER_LEN as u64)?;
        if header[16..48] != *Digest::of(&table).as_bytes() {
            return Err(bad("the table of a boot pack is damaged"));
        }
        let pack = BootPack::read(&table).map_err(io::Error::other)?;
        pack.check(index, layers).map_err(io::Error::other)?;
        let shelf = Self::new(path, file, len, pack, header[LEARNT_AT] == 1);
        shelf.read_sums()?;
        Ok(shelf)
    }

    fn new(path: &Path, file: File, table_len: u64, pack: BootPack, learnt: bool) -> Self {
        let (mut places, mut frames) = (Vec::with_capacity(pack.extents.len()), Vec::new());
        let (mut content, mut units) = (0, 0);
        for (number, frame) in pack.frames.iter().enumerate() {
            let (len, mut within) = (frame.content_len as usize, 0);
            for extent in &pack.extents[frame.extents.clone()] {
                places.push(Place { layer: extent.layer, tar: extent.tar_range(), within, frame: number });
                within += extent.len as usize;
            }
            frames.push(FramePlace { content, len, first_unit: units, there: AtomicBool::new(false) });
            (content, units) = (content + len as u64, units + len.div_ceil(UNIT));
        }
        places.sort_unstable_by_key(|place| (place.layer, place.tar.start));
        let sums_at = HEADER_LEN as u64 + table_len;
        let sums = (0..units).map(|_| AtomicU64::new(0)).collect();
        let used = (0..units).map(|_| AtomicBool::new(false)).collect();
        let content_at = sums_at + (units * SUM_LEN) as u64;
        Self { file, path: path.to_owned(), pack, learnt, places, frames, sums, used, sums_at, content_at }
    }

    fn read_sums(&self) -> io::Result<()> {
        let mut bytes = vec![0; self.sums.len() * SUM_LEN];
        self.file.read_exact_at(&mut bytes, self.sums_at)?;
        for (sum, read) in self.sums.iter().zip(bytes.as_chunks::<SUM_LEN>().0) {
            sum.store(u64::from_le_bytes(*read), Ordering::Relaxed);
        }
        for frame in &self.frames {
            let there = self.sums[frame.units()].iter().all(|sum| sum.load(Ordering::Relaxed) != 0);
            frame.there.store(there, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the pack was made of starts.
    pub(super) fn is_of_learnt(&self) -> bool {
        self.learnt
    }

    /// The pack that it is for.
    pub(super) fn pack(&self) -> &BootPack {
        &self.pack
    }

    /// Puts a frame's content in its place.
    pub(super) fn put(&self, number: usize, content: &FrameBytes) -> io::Result<()> {
        let frame = &self.frames[number];
        if content.bytes().len() != frame.len {
            return Err(io::Error::other("a frame of another length"));
        }
        self.file.write_all_at(content.bytes(), self.content_at + frame.content)?;
        let sums: Vec<u64> = content.bytes().chunks(UNIT).map(sum).collect();
        let raw: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.file.write_all_at(&raw, self.sums_at + (frame.first_unit * SUM_LEN) as u64)?;
        for (kept, sum) in self.sums[frame.units()].iter().zip(sums) {
            kept.store(sum, Ordering::Relaxed);
        }
        frame.there.store(true, Ordering::Release);
        Ok(())
    }

    /// The bytes of a range of a layer's tar: what the shelf has, and the rest from `others`; `None` if any is nowhere.
    pub(super) fn read(
        &self,
        layer: u16,
        range: &Range<u64>,
        others: impl Fn(&Range<u64>) -> Option<Bytes>,
    ) -> Option<Vec<u8>> {
        let mark = |units: Range<usize>| {
            self.used[units].iter().for_each(|used| used.store(true, Ordering::Relaxed))
        };
        self.gather(layer, range, others, mark)
    }

    /// The same, for nobody yet: it does not count as used.
    pub(super) fn peek(
        &self,
        layer: u16,
        range: &Range<u64>,
        others: impl Fn(&Range<u64>) -> Option<Bytes>,
    ) -> Option<Vec<u8>> {
        self.gather(layer, range, others, |_| ())
    }

    fn gather(
        &self,
        layer: u16,
        range: &Range<u64>,
        others: impl Fn(&Range<u64>) -> Option<Bytes>,
        note: impl Fn(Range<usize>),
    ) -> Option<Vec<u8>> {
        let pieces = self.pieces(layer, range);
        if !pieces.iter().any(|piece| matches!(piece, Piece::Held(place, _) if self.has(place))) {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).ok()?);
        for piece in pieces {
            match piece {
                Piece::Held(place, part) => match self.read_sound(place, &part) {
                    Some((held, units)) => {
                        note(units);
                        bytes.extend_from_slice(&held);
                    }
                    None => bytes.extend_from_slice(&others(&part)?),
                },
                Piece::Else(part) => bytes.extend_from_slice(&others(&part)?),
            }
        }
        Some(bytes)
    }

    /// Where in the blob the last frame ends that a range is still missing: `Some(None)` if none is, `None` if something is
    /// missing that the pack does not have. `others` says what is there besides.
    pub(super) fn missing(
        &self,
        layer: u16,
        range: &Range<u64>,
        others: impl Fn(&Range<u64>) -> bool,
    ) -> Option<Option<u64>> {
        let mut last: Option<u64> = None;
        for piece in self.pieces(layer, range) {
            match piece {
                Piece::Held(place, part) => {
                    if !self.has(place) && !others(&part) {
                        last = last.max(Some(self.pack.frames[place.frame].blob.end));
                    }
                }
                Piece::Else(part) => {
                    if !others(&part) {
                        return None;
                    }
                }
            }
        }
        Some(last)
    }

    pub(super) fn figures(&self) -> BootFigures {
        let there = self.frames.iter().filter(|frame| frame.there.load(Ordering::Acquire));
        let used = self.frames.iter().flat_map(|frame| {
            let used = self.used[frame.units()].iter().enumerate();
            used.filter(|(_, used)| used.load(Ordering::Relaxed))
                .map(|(at, _)| UNIT.min(frame.len - at * UNIT))
        });
        BootFigures {
            content_bytes: self.pack.content_len(),
            present_bytes: there.map(|frame| frame.len as u64).sum(),
            used_bytes: used.map(|len| len as u64).sum(),
        }
    }

    fn has(&self, place: &Place) -> bool {
        self.frames[place.frame].there.load(Ordering::Acquire)
    }

    /// A range, cut where extents start and end.
    fn pieces(&self, layer: u16, range: &Range<u64>) -> Vec<Piece<'_>> {
        let first = self.places.partition_point(|place| (place.layer, place.tar.end) <= (layer, range.start));
        let (mut pieces, mut at) = (Vec::new(), range.start);
        let held = self.places[first..]
            .iter()
            .take_while(|place| place.layer == layer && place.tar.start < range.end);
        for place in held {
            if place.tar.start > at {
                pieces.push(Piece::Else(at..place.tar.start));
            }
            let part = place.tar.start.max(at)..place.tar.end.min(range.end);
            at = part.end;
            pieces.push(Piece::Held(place, part));
        }
        if at < range.end {
            pieces.push(Piece::Else(at..range.end));
        }
        pieces
    }

    /// The first part of a layer that is here and differs from what is `right`.
    ///
    /// # Errors
    /// What is right cannot be had of a part.
    pub(super) fn differs(
        &self,
        layer: u16,
        right: impl Fn(&Range<u64>) -> Option<Bytes>,
    ) -> Result<Option<Range<u64>>, NotLocal> {
        for place in self.places.iter().filter(|place| place.layer == layer) {
            let parts = place.tar.clone().step_by(COMPARED);
            for part in parts.map(|start| start..place.tar.end.min(start + COMPARED as u64)) {
                let Some((held, _)) = self.read_sound(place, &part) else { break };
                if right(&part).ok_or(NotLocal)? != held {
                    return Ok(Some(part));
                }
            }
        }
        Ok(None)
    }

    /// What the pack has, in the order of its frames, and which of them has it.
    pub(super) fn extents(&self) -> impl Iterator<Item = (usize, &Extent)> {
        let frames = self.pack.frames.iter().enumerate();
        frames.flat_map(|(number, frame)| {
            self.pack.extents[frame.extents.clone()].iter().map(move |e| (number, e))
        })
    }

    /// Whether a frame's content is here.
    pub(super) fn has_frame(&self, number: usize) -> bool {
        self.frames.get(number).is_some_and(|frame| frame.there.load(Ordering::Acquire))
    }

    /// The layers that it has something of.
    pub(super) fn layers(&self) -> BTreeSet<usize> {
        self.places.iter().map(|place| usize::from(place.layer)).collect()
    }

    /// Gives the disk back what it takes. To be called when nobody is given anything of it any more.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Bytes with the right checksums, and the units that they were read from.
    fn read_sound(&self, place: &Place, part: &Range<u64>) -> Option<(Vec<u8>, Range<usize>)> {
        let frame = &self.frames[place.frame];
        if !frame.there.load(Ordering::Acquire) {
            return None;
        }
        let at = |offset: u64| usize::try_from(offset - place.tar.start).ok().map(|at| place.within + at);
        let (start, end) = (at(part.start)?, at(part.end)?);
        let units = start / UNIT..end.div_ceil(UNIT);
        let covered = units.start * UNIT..(units.end * UNIT).min(frame.len);
        let mut bytes = vec![0; covered.len()];
        let read =
            self.file.read_exact_at(&mut bytes, self.content_at + frame.content + covered.start as u64);
        let numbers = frame.first_unit + units.start..frame.first_unit + units.end;
        let sound = bytes
            .chunks(UNIT)
            .map(sum)
            .eq(self.sums[numbers.clone()].iter().map(|sum| sum.load(Ordering::Relaxed)));
        if read.is_err() || !sound {
            if frame.there.swap(false, Ordering::AcqRel) {
                tracing::warn!("what a boot pack brought is damaged on disk: it is fetched by its spans");
            }
            return None;
        }
        bytes.truncate(end - covered.start);
        bytes.drain(..start - covered.start);
        Some((bytes, numbers))
    }
}

impl FramePlace {
    fn units(&self) -> Range<usize> {
        self.first_unit..self.first_unit + self.len.div_ceil(UNIT)
    }
}

fn sum(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, bytes).max(1)
}
