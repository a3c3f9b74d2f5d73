//! Parts of files, and where their frames are in the blob: set aside until the TOC is written.

use std::io::{self, BufRead, BufReader};

use super::plan::Part;
use crate::Digest;
use crate::codec::{byte, number, put_number, small};
use crate::spool::{NewSpool, SpoolReader, SpoolWriter, Spooled};

/// A part of a file, and its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlacedPart {
    pub part: Part,
    pub digest: Digest,
    /// Where its frame starts and ends in the blob.
    pub offset: u64,
    pub end: u64,
}

/// Takes parts in the order of the blob.
pub(super) struct PartLog {
    records: SpoolWriter,
    record: Vec<u8>,
    count: usize,
}

impl PartLog {
    pub fn new(spool: NewSpool) -> Self {
        Self { records: SpoolWriter::new(spool), record: Vec::new(), count: 0 }
    }

    pub fn push(&mut self, placed: &PlacedPart) -> io::Result<()> {
        let PlacedPart { part, digest, offset, end } = placed;
        self.record.clear();
        self.record.push(part.whole.into());
        for number in [part.entry as u64, part.offset, part.len.into(), *offset, *end] {
            put_number(&mut self.record, number);
        }
        self.record.extend_from_slice(digest.as_bytes());
        self.count += 1;
        self.records.push(&self.record)
    }

    pub fn finish(self) -> io::Result<FullPartLog> {
        Ok(FullPartLog { records: self.records.finish()?, count: self.count })
    }
}

/// All parts of a layer.
pub(super) struct FullPartLog {
    records: Spooled,
    count: usize,
}

impl FullPartLog {
    pub fn read(&self) -> io::Result<Parts<'_>> {
        let mut parts = Parts { records: self.records.reader(), left: self.count, next: None };
        parts.advance()?;
        Ok(parts)
    }
}

/// Gives parts back in their order.
pub(super) struct Parts<'l> {
    records: BufReader<SpoolReader<'l>>,
    left: usize,
    next: Option<PlacedPart>,
}

impl Parts<'_> {
    /// The next part, if it is of this entry.
    pub fn next_of(&mut self, entry: usize) -> io::Result<Option<PlacedPart>> {
        let next = self.next.filter(|next| next.part.entry == entry);
        if next.is_some() {
            self.advance()?;
        }
        Ok(next)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.next = match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(read(&mut self.records)?)
            }
            None => None,
        };
        Ok(())
    }
}

fn read(from: &mut impl BufRead) -> io::Result<PlacedPart> {
    let whole = byte(from)? != 0;
    let part = Part { entry: small(from)?, offset: number(from)?, len: small(from)?, whole };
    let (offset, end) = (number(from)?, number(from)?);
    let mut digest = [0; 32];
    from.read_exact(&mut digest)?;
    Ok(PlacedPart { part, digest: Digest::from_bytes(digest), offset, end })
}
