//! A layer's entries, set aside: dozens of bytes each in a spool, where the values take hundreds.
//!
//! They come back one at a time, in the tar's order. A record is the path's length in common with the one before and
//! the rest of it, then what the entry is, its attributes, and its extended attributes.

use std::io::{self, BufRead, BufReader};

use crate::codec::{self, damaged, put_bytes, put_number, put_signed};
use crate::spool::{NewSpool, SpoolReader, SpoolWriter, Spooled};
use crate::{Content, Entry, EntryKind, EntryPath, SparseExtent, TarOffset, Timestamp, Xattr};

const DIRECTORY: u8 = 0;
const REGULAR: u8 = 1;
const SPARSE: u8 = 2;
const SYMLINK: u8 = 3;
const HARD_LINK: u8 = 4;
const CHAR_DEVICE: u8 = 5;
const BLOCK_DEVICE: u8 = 6;
const FIFO: u8 = 7;

/// Takes the entries of a layer.
pub struct EntryLogWriter {
    records: SpoolWriter,
    record: Vec<u8>,
    /// The path of the last entry.
    path: Vec<u8>,
    count: usize,
}

impl EntryLogWriter {
    /// An empty log in a spool of its own.
    pub fn new(spool: NewSpool) -> Self {
        Self { records: SpoolWriter::new(spool), record: Vec::new(), path: Vec::new(), count: 0 }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the next entry of the tar.
    ///
    /// # Errors
    /// The spool fails.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        self.record.clear();
        let path = entry.path.as_bytes();
        let common = self.path.iter().zip(path).take_while(|(a, b)| a == b).count();
        put_number(&mut self.record, common as u64);
        put_bytes(&mut self.record, &path[common..]);
        self.path.truncate(common);
        self.path.extend_from_slice(&path[common..]);
        put_entry(&mut self.record, entry);
        self.count += 1;
        self.records.push(&self.record)
    }

    /// Ends the log.
    ///
    /// # Errors
    /// The spool fails.
    pub fn finish(self) -> io::Result<EntryLog> {
        Ok(EntryLog { records: self.records.finish()?, count: self.count })
    }
}

/// The entries of a layer, in the tar's order.
pub struct EntryLog {
    records: Spooled,
    count: usize,
}

impl EntryLog {
    /// A log of entries that are at hand.
    ///
    /// # Errors
    /// The spool fails.
    pub fn of<'e>(entries: impl IntoIterator<Item = &'e Entry>, spool: NewSpool) -> io::Result<Self> {
        let mut log = EntryLogWriter::new(spool);
        entries.into_iter().try_for_each(|entry| log.push(entry))?;
        log.finish()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each in its turn. An error, which is the spool's, is the last.
    pub fn iter(&self) -> Entries<'_> {
        Entries { records: self.records.reader(), path: Vec::new(), left: self.count }
    }

    /// All at once.
    ///
    /// # Errors
    /// The spool fails.
    pub fn to_vec(&self) -> io::Result<Vec<Entry>> {
        self.iter().collect()
    }
}

impl<'l> IntoIterator for &'l EntryLog {
    type Item = io::Result<Entry>;
    type IntoIter = Entries<'l>;

    fn into_iter(self) -> Entries<'l> {
        self.iter()
    }
}

/// Reads a log.
pub struct Entries<'l> {
    records: BufReader<SpoolReader<'l>>,
    path: Vec<u8>,
    left: usize,
}

impl Iterator for Entries<'_> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<io::Result<Entry>> {
        self.left = self.left.checked_sub(1)?;
        let entry = read_entry(&mut self.records, &mut self.path);
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

fn put_entry(record: &mut Vec<u8>, entry: &Entry) {
    put_kind(record, &entry.kind);
    put_number(record, entry.mode.into());
    put_number(record, entry.uid.into());
    put_number(record, entry.gid.into());
    put_signed(record, entry.mtime.seconds);
    put_number(record, entry.mtime.nanoseconds.into());
    put_number(record, entry.xattrs.len() as u64);
    for Xattr { name, value } in &entry.xattrs {
        put_bytes(record, name);
        put_bytes(record, value);
    }
}

fn put_kind(record: &mut Vec<u8>, kind: &EntryKind) {
    match kind {
        EntryKind::Directory => record.push(DIRECTORY),
        EntryKind::Regular { size, content: Content::Contiguous(offset) } => {
            record.push(REGULAR);
            put_number(record, *size);
            put_number(record, offset.0);
        }
        EntryKind::Regular { size, content: Content::Sparse(extents) } => {
            record.push(SPARSE);
            put_number(record, *size);
            put_number(record, extents.len() as u64);
            for extent in extents {
                put_number(record, extent.file_offset);
                put_number(record, extent.tar_offset.0);
                put_number(record, extent.len);
            }
        }
        EntryKind::Symlink { target } => {
            record.push(SYMLINK);
            put_bytes(record, target);
        }
        EntryKind::HardLink { target } => {
            record.push(HARD_LINK);
            put_bytes(record, target.as_bytes());
        }
        EntryKind::CharDevice { major, minor } => put_device(record, CHAR_DEVICE, *major, *minor),
        EntryKind::BlockDevice { major, minor } => put_device(record, BLOCK_DEVICE, *major, *minor),
        EntryKind::Fifo => record.push(FIFO),
    }
}

fn put_device(record: &mut Vec<u8>, kind: u8, major: u32, minor: u32) {
    record.push(kind);
    put_number(record, major.into());
    put_number(record, minor.into());
}

fn read_entry(from: &mut impl BufRead, path: &mut Vec<u8>) -> io::Result<Entry> {
    path.truncate(codec::small(from)?);
    codec::bytes(from, path)?;
    let path = EntryPath::parse(path).map_err(|_| damaged())?;
    let kind = read_kind(from)?;
    let (mode, uid, gid) = (codec::small(from)?, codec::small(from)?, codec::small(from)?);
    let mtime = Timestamp { seconds: codec::signed(from)?, nanoseconds: codec::small(from)? };
    let xattrs = (0..codec::number(from)?)
        .map(|_| Ok(Xattr { name: codec::boxed(from)?, value: codec::boxed(from)? }))
        .collect::<io::Result<_>>()?;
    Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs })
}

fn read_kind(from: &mut impl BufRead) -> io::Result<EntryKind> {
    Ok(match codec::byte(from)? {
        DIRECTORY => EntryKind::Directory,
        REGULAR => {
            let size = codec::number(from)?;
            EntryKind::Regular { size, content: Content::Contiguous(TarOffset(codec::number(from)?)) }
        }
        SPARSE => {
            let size = codec::number(from)?;
            let extents = (0..codec::number(from)?).map(|_| read_extent(from)).collect::<io::Result<_>>()?;
            EntryKind::Regular { size, content: Content::Sparse(extents) }
        }
        SYMLINK => EntryKind::Symlink { target: codec::boxed(from)? },
        HARD_LINK => {
            EntryKind::HardLink { target: EntryPath::parse(&codec::boxed(from)?).map_err(|_| damaged())? }
        }
        CHAR_DEVICE => EntryKind::CharDevice { major: codec::small(from)?, minor: codec::small(from)? },
        BLOCK_DEVICE => EntryKind::BlockDevice { major: codec::small(from)?, minor: codec::small(from)? },
        FIFO => EntryKind::Fifo,
        _ => return Err(damaged()),
    })
}

fn read_extent(from: &mut impl BufRead) -> io::Result<SparseExtent> {
    Ok(SparseExtent {
        file_offset: codec::number(from)?,
        tar_offset: TarOffset(codec::number(from)?),
        len: codec::number(from)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::in_memory;
    use crate::tar::{Event, Scanner, odd};

    #[test]
    fn every_odd_entry_comes_back() {
        for (name, tar) in odd::odd_tars() {
            let (mut scanner, mut entries) = (Scanner::new(), Vec::new());
            scanner
                .push(&tar, &mut |event| {
                    if let Event::Member(member) = event {
                        entries.push(member.entry);
                    }
                })
                .unwrap();
            let log = EntryLog::of(&entries, in_memory).unwrap();
            assert_eq!((log.len(), log.is_empty()), (entries.len(), entries.is_empty()));
            assert!(log.to_vec().unwrap() == entries, "{name}");
            assert!(log.to_vec().unwrap() == entries, "{name}, read again");
        }
    }

    #[test]
    fn a_spool_that_gives_other_bytes_is_found_out() {
        struct Junk;
        impl crate::spool::Spool for Junk {
            fn append(&mut self, _: &[u8]) -> io::Result<()> {
                Ok(())
            }
            fn read_at(&self, buffer: &mut [u8], _: u64) -> io::Result<()> {
                buffer.fill(0xff);
                Ok(())
            }
        }
        let path = EntryPath::parse(b"a").unwrap();
        let mtime = Timestamp::default();
        let fifo = Entry { path, kind: EntryKind::Fifo, mode: 0, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        let log = EntryLog::of([&fifo, &fifo], || Box::new(Junk)).unwrap();
        let read: Vec<_> = log.iter().collect();
        assert!(matches!(&read[..], [Err(_)]), "{read:?}");
    }
}
