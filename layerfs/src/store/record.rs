//! Which units are there, and what they must hash to.
//!
//! ```text
//! units:   0  8  magic "JAUNTUN1"     8  8  number of units     16 48  zero
//!         64     a u64 for each unit: CRC-64/NVME of its bytes, 1 where that is 0; 0: the unit is not there
//! ```
//! Integers are little-endian. A number is written after its unit's bytes and removed before them, and no order is
//! forced on the disk: a number is a claim that whoever reads the unit compares with what the disk gives. After a
//! crash or a power cut some claims are false, or some units unclaimed; neither can be mistaken for content.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crc_fast::{CrcAlgorithm, checksum};

use super::bitmap::Bitmap;
use super::{disk, soon};

const MAGIC: &[u8; 8] = b"JAUNTUN1";
const HEADER_LEN: usize = 64;
const SUM_LEN: usize = size_of::<u64>();
/// Bytes of the record that are read at a time when it is opened.
const PIECE: usize = 64 << 10;
/// Bytes of the record that a read has in memory afterwards: what 128 MiB around it must hash to, for one trip to the disk.
const AROUND: u64 = 64 << 10;

/// A unit's checksum: never 0. It finds what disks and crashes do; against forgers there are the spans' digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum(u64);

/// The record of one layer.
pub(super) struct Record {
    there: Bitmap,
    file: File,
}

impl Sum {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(checksum(CrcAlgorithm::Crc64Nvme, bytes).max(1))
    }
}

impl Record {
    /// Reads what is claimed. A file that is no record of this layout is put aside, and nothing is claimed then.
    pub(super) fn open(path: &Path, units: usize) -> io::Result<Self> {
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(path)?;
        match read_header(&file)? {
            found if found == header(units) && file.metadata()?.len() == file_len(units) => {
                let there = read_claims(&file, units)?;
                return Ok(Self { there, file });
            }
            // New, or cut short by a crash before it had its header, which is written last.
            [0, ..] => return Self::create(file, units),
            _ => {}
        }
        let aside = path.with_extension("damaged");
        tracing::error!(record = %path.display(), aside = %aside.display(), "a layer's record is damaged: it is fetched anew");
        std::fs::rename(path, aside)?;
        Self::create(options.open(path)?, units)
    }

    /// Reads what is claimed, to look only; `None` if there is no record, or none of this layout.
    pub(super) fn look(path: &Path, units: usize) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if read_header(&file)? != header(units) || file.metadata()?.len() != file_len(units) {
            return Ok(None);
        }
        let there = read_claims(&file, units)?;
        Ok(Some(Self { there, file }))
    }

    fn create(file: File, units: usize) -> io::Result<Self> {
        file.set_len(file_len(units))?;
        file.write_all_at(&header(units), 0)?;
        Ok(Self { there: Bitmap::new(units), file })
    }

    /// Whether all of a run of units are there.
    pub(super) fn all(&self, units: Range<usize>) -> bool {
        self.there.all(units)
    }

    /// Whether a unit is there.
    pub(super) fn has(&self, unit: usize) -> bool {
        self.there.all(unit..unit + 1)
    }

    /// Has the disk begin to read what a run of units must hash to, and what their neighbours must.
    pub(super) fn begin(&self, units: &Range<usize>) {
        let start = place_of(units.start) / AROUND * AROUND;
        soon::begin(&self.file, start, place_of(units.end).next_multiple_of(AROUND) - start);
    }

    /// What a run of units must hash to; `None` for one that is not there.
    pub(super) fn sums(&self, units: Range<usize>) -> io::Result<Vec<Option<Sum>>> {
        let mut bytes = vec![0; units.len() * SUM_LEN];
        self.file.read_exact_at(&mut bytes, place_of(units.start))?;
        let (sums, _) = bytes.as_chunks::<SUM_LEN>();
        Ok(sums.iter().map(|sum| Some(Sum(u64::from_le_bytes(*sum))).filter(|sum| sum.0 != 0)).collect())
    }

    /// Claims a run of units whose bytes have been written.
    pub(super) fn claim(&self, first: usize, sums: &[Sum]) -> io::Result<()> {
        let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.0.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, place_of(first))?;
        self.there.set(first..first + sums.len());
        Ok(())
    }

    /// Makes what is claimed last.
    pub(super) fn sync(&self, path: &Path) -> io::Result<()> {
        disk::sync_file(&self.file, path)
    }

    /// Claims a run of units no longer. Readers no longer find them even where the disk refuses to forget.
    pub(super) fn disclaim(&self, units: Range<usize>) -> io::Result<()> {
        self.there.clear(units.clone());
        self.file.write_all_at(&vec![0; units.len() * SUM_LEN], place_of(units.start))
    }
}

fn place_of(unit: usize) -> u64 {
    (HEADER_LEN + unit * SUM_LEN) as u64
}

fn file_len(units: usize) -> u64 {
    place_of(units)
}

fn header(units: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&(units as u64).to_le_bytes());
    header
}

/// Zeros where the file is shorter.
fn read_header(file: &File) -> io::Result<[u8; HEADER_LEN]> {
    let mut header = [0; HEADER_LEN];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; HEADER_LEN]),
        read => read.map(|()| header),
    }
}

fn read_claims(file: &File, units: usize) -> io::Result<Bitmap> {
    let there = Bitmap::new(units);
    let mut buffer = vec![0; PIECE.min(units * SUM_LEN)];
    let mut unit = 0;
    while unit < units {
        let piece = buffer.len().min((units - unit) * SUM_LEN);
        file.read_exact_at(&mut buffer[..piece], place_of(unit))?;
        let (sums, _) = buffer[..piece].as_chunks::<SUM_LEN>();
        for (at, _) in sums.iter().enumerate().filter(|(_, sum)| **sum != [0; SUM_LEN]) {
            there.set(unit + at..unit + at + 1);
        }
        unit += sums.len();
    }
    Ok(there)
}
