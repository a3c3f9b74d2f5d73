//! Sparse files: GNU's old header map and the PAX formats 0.0, 0.1 and 1.0.
//!
//! A map lists the stretches that are stored, one after the other, in the tar; the rest is zeros.

use tar_core::{GnuExtSparseHeader, GnuSparseHeader, Header};
use zerocopy::FromBytes as _;

use super::BLOCK_USIZE;
use super::error::{Problem, shown};
use super::header::number;
use super::pax::SparseRecords;
use crate::{Content, SparseExtent, TarOffset};

/// A map of more stretches than this is an attack: a gigabyte of 4 KiB holes has half as many.
const MAX_EXTENTS: usize = 1 << 18;

/// A stretch of stored bytes: offset in the file and length.
pub(super) type Stretch = (u64, u64);

/// Where a PAX sparse file's map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PaxSparse {
    /// Not sparse, or of a version nobody defined: a plain file, as Go takes it.
    No,
    /// In the records.
    Records,
    /// In front of the content.
    InContent,
}

impl SparseRecords {
    pub fn kind(&self) -> PaxSparse {
        match (self.major.as_deref(), self.minor.as_deref()) {
            (Some(b"0"), Some(b"0" | b"1")) => PaxSparse::Records,
            (Some(b"1"), Some(b"0")) => PaxSparse::InContent,
            (None, None) if self.map.is_some() => PaxSparse::Records,
            _ => PaxSparse::No,
        }
    }

    /// The map of formats 0.0 and 0.1.
    pub fn stretches(&self) -> Result<Vec<Stretch>, &'static str> {
        pairs(self.map.as_deref().unwrap_or(&[]))
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Stretch>, &'static str> {
    if !numbers.len().is_multiple_of(2) {
        return Err("map has an offset without a length");
    }
    if numbers.len() / 2 > MAX_EXTENTS {
        return Err("map has too many stretches");
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The map of an old GNU header, to which extension blocks may add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OldMap {
    pub stretches: Vec<Stretch>,
    pub real_size: i64,
    /// Whether another extension block follows.
    pub more: bool,
}

impl OldMap {
    pub fn from_header(block: &[u8; BLOCK_USIZE]) -> Result<Self, Problem> {
        let gnu = Header::from_bytes(block).as_gnu();
        let real_size = number(&gnu.realsize, "realsize")?;
        let mut map = Self { stretches: Vec::new(), real_size, more: gnu.isextended[0] != 0 };
        map.add(&gnu.sparse)?;
        Ok(map)
    }

    pub fn extend(&mut self, block: &[u8; BLOCK_USIZE]) -> Result<(), Problem> {
        let Ok(extension) = GnuExtSparseHeader::ref_from_bytes(block) else { return Ok(()) };
        self.more = extension.is_extended();
        self.add(&extension.sparse)
    }

    fn add(&mut self, slots: &[GnuSparseHeader]) -> Result<(), Problem> {
        for slot in slots.iter().take_while(|slot| slot.offset[0] != 0) {
            let field = |field: &[u8]| {
                u64::try_from(number(field, "sparse map")?).map_err(|_| Problem::Number("sparse map"))
            };
            self.stretches.push((field(&slot.offset)?, field(&slot.numbytes)?));
        }
        if self.stretches.len() > MAX_EXTENTS {
            return Err(Problem::Number("sparse map"));
        }
        Ok(())
    }
}

/// Format 1.0's map, which arrives in whole blocks: a count, then that many pairs, a number a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ContentMap {
    text: Vec<u8>,
    lines: usize,
}

impl ContentMap {
    /// Adds a block; the map once it is complete.
    pub fn push(&mut self, block: &[u8]) -> Result<Option<Vec<Stretch>>, &'static str> {
        self.text.extend_from_slice(block);
        self.lines += block.iter().filter(|&&byte| byte == b'\n').count();
        // A number has at most 20 digits.
        if self.text.len() > 2 * 21 * MAX_EXTENTS || (self.lines == 0 && self.text.len() > BLOCK_USIZE) {
            return Err("map is too long");
        }
        let mut numbers = self.text.split(|&byte| byte == b'\n').map(decimal);
        let count = match numbers.next() {
            Some(count) if self.lines > 0 => count?,
            _ => return Ok(None),
        };
        let count = usize::try_from(count).ok().filter(|&count| count <= MAX_EXTENTS);
        let wanted = 2 * count.ok_or("map has too many stretches")?;
        if self.lines <= wanted {
            return Ok(None);
        }
        pairs(&numbers.take(wanted).collect::<Result<Vec<_>, _>>()?).map(Some)
    }
}

fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    number.and_then(|number| u64::try_from(number).ok()).ok_or("map holds something else than numbers")
}

/// Checks a map against the file's size and the bytes stored, and places it in the tar.
pub(super) fn place(
    name: &[u8],
    map: &[Stretch],
    size: u64,
    stored: &std::ops::Range<u64>,
) -> Result<Content, Problem> {
    let refuse = |what| Problem::Sparse { name: shown(name), what };
    let (mut end, mut tar_offset) = (0, stored.start);
    let mut extents = Vec::with_capacity(map.len());
    for &(file_offset, len) in map {
        let next = file_offset.checked_add(len).filter(|&next| next <= size);
        let next = next.ok_or_else(|| refuse("map reaches beyond the file's end"))?;
        if file_offset < end {
            return Err(refuse("map's stretches overlap or are out of order"));
        }
        if len > 0 {
            extents.push(SparseExtent { file_offset, tar_offset: TarOffset(tar_offset), len });
        }
        end = next;
        tar_offset = tar_offset.checked_add(len).ok_or_else(|| refuse("map is longer than any tar"))?;
    }
    if tar_offset != stored.end {
        return Err(refuse("map and stored bytes differ in length"));
    }
    Ok(Content::Sparse(extents))
}
