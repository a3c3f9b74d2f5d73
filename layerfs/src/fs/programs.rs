//! Programs and libraries (ELF): what a loader touches once it has read a file's head.
//!
//! It maps the file and asks for its parts one after the other, each of which would be a wait of its own: the dynamic
//! section, at the far end, then names, symbols and relocations, behind the head. All of that is known from the head, so
//! it is fetched together as soon as the head has been read. What is executed after that lies close together, as a
//! directory's files do: a program is read in neighbourhoods, however large it is.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// `e_phoff`, `e_phentsize` and `e_phnum` in a 64-bit ELF header.
const TABLE: usize = 32;
const ENTRY_LEN: usize = 54;
const ENTRIES: usize = 56;
/// A 64-bit program header, and what of it is looked at: `p_type`, `p_flags`, `p_offset`, `p_filesz`.
const ENTRY: usize = 56;
const OFFSET: usize = 8;
const FILE_LEN: usize = 32;
const LOAD: u32 = 1;
const WRITABLE: u32 = 2;
/// More segments than any linker makes.
const MOST_ENTRIES: usize = 64;
/// Bytes fetched of each of the parts.
const PART: u64 = 1 << 20;
/// What lies behind the head: names, symbols, relocations.
const BEGINNING: Range<u64> = 0..PART;
/// Programs that are remembered in a mount.
const REMEMBERED: usize = 4096;

/// The programs of one mount, by inode number.
#[derive(Default)]
pub(super) struct Programs(Mutex<HashSet<u64>>);

impl Programs {
    /// Remembers a program.
    pub(super) fn note(&self, inode: u64) {
        let mut known = self.lock();
        if known.len() < REMEMBERED {
            known.insert(inode);
        }
    }

    /// Whether it is one.
    pub(super) fn has(&self, inode: u64) -> bool {
        self.lock().contains(&inode)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        // A set is whole wherever a panic strikes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a file that begins with `head`, what a loader touches before anything of it is run, which may lie beyond the file;
/// `None` if it is no program.
pub(super) fn loaded_first(head: &[u8]) -> Option<Vec<Range<u64>>> {
    head.starts_with(MAGIC).then(|| {
        let segments = segments(head).unwrap_or_default();
        let written = segments.into_iter().filter(|segment| segment.flags & WRITABLE != 0);
        let written =
            written.map(|segment| segment.offset..segment.offset.saturating_add(segment.len.min(PART)));
        written.chain([BEGINNING]).collect()
    })
}

struct Segment {
    flags: u32,
    offset: u64,
    len: u64,
}

/// The segments that are mapped; `None` if the head is too short for their table, or it is none.
fn segments(head: &[u8]) -> Option<Vec<Segment>> {
    let table = usize::try_from(u64_at(head, TABLE)?).ok()?;
    let (entry_len, entries) = (u16_at(head, ENTRY_LEN)?, usize::from(u16_at(head, ENTRIES)?));
    if usize::from(entry_len) != ENTRY || entries > MOST_ENTRIES {
        return None;
    }
    let table = head.get(table..table.checked_add(entries * ENTRY)?)?;
    let mapped = table.chunks_exact(ENTRY).filter(|entry| u32_at(entry, 0) == Some(LOAD));
    mapped
        .map(|entry| {
            Some(Segment {
                flags: u32_at(entry, 4)?,
                offset: u64_at(entry, OFFSET)?,
                len: u64_at(entry, FILE_LEN)?,
            })
        })
        .collect()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A head with these mapped segments: flags, offset, length.
    pub(crate) fn head(segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(MAGIC);
        head[TABLE..TABLE + 8].copy_from_slice(&64u64.to_le_bytes());
        head[ENTRY_LEN..ENTRY_LEN + 2].copy_from_slice(&56u16.to_le_bytes());
        head[ENTRIES..ENTRIES + 2].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for &(flags, offset, len) in segments {
            let mut entry = [0; ENTRY];
            entry[..4].copy_from_slice(&LOAD.to_le_bytes());
            entry[4..8].copy_from_slice(&flags.to_le_bytes());
            entry[OFFSET..OFFSET + 8].copy_from_slice(&offset.to_le_bytes());
            entry[FILE_LEN..FILE_LEN + 8].copy_from_slice(&len.to_le_bytes());
            head.extend(entry);
        }
        head
    }

    #[test]
    fn of_a_program_what_is_written_to_and_its_beginning_are_touched_first() {
        let program =
            head(&[(4, 0, 4096), (5, 4096, 9 << 20), (6, 9 << 20, 50_000), (6, 10 << 20, 30 << 20)]);
        let written = [9 << 20..(9 << 20) + 50_000, 10 << 20..11 << 20];
        assert_eq!(loaded_first(&program).unwrap(), [&written[..], &[BEGINNING]].concat());
    }

    #[test]
    fn of_a_head_that_lies_or_is_cut_short_nothing_is_believed_but_that_it_is_a_program() {
        let whole = head(&[(6, u64::MAX, u64::MAX)]);
        assert_eq!(loaded_first(&whole).unwrap(), [u64::MAX..u64::MAX, BEGINNING]);
        for len in 6..whole.len() {
            assert_eq!(loaded_first(&whole[..len]).unwrap(), [BEGINNING], "{len}");
        }
        assert_eq!(loaded_first(&whole[..5]), None);
        assert_eq!(loaded_first(b"#!/bin/sh"), None);
        for (place, value) in [(TABLE + 7, 0xff), (ENTRY_LEN, 1), (ENTRIES, 0xff)] {
            let mut odd = whole.clone();
            odd[place] = value;
            assert_eq!(loaded_first(&odd).unwrap(), [BEGINNING], "{place}");
        }
    }

    #[test]
    fn so_many_programs_are_remembered_and_no_more() {
        let programs = Programs::default();
        (0..REMEMBERED as u64 + 10).for_each(|inode| programs.note(inode));
        assert!(programs.has(0) && programs.has(REMEMBERED as u64 - 1) && !programs.has(REMEMBERED as u64));
    }
}
