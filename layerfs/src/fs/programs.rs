//! Programs and libraries (ELF): what a loader touches once it has read a file's head.
//!
//! It maps the file and asks for its parts one after the other, each of which would be a wait of its own: the dynamic
//! section, at the far end, then names, symbols and relocations, behind the head. All of that is known from the head, so
//! it is fetched together as soon as the head has been read. What is executed after that lies close together, as a
//! directory's files do: a program is read in neighbourhoods, however large it is.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jaunt_formats::elf::{Head, is_elf};

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
    is_elf(head).then(|| {
        let segments = Head::parse(head).map(|head| head.segments).unwrap_or_default();
        let written = segments.into_iter().filter(|segment| segment.is_writable).map(|segment| segment.file);
        let written = written.map(|file| file.start..file.end.min(file.start.saturating_add(PART)));
        written.chain([BEGINNING]).collect()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The head of a 64-bit file with these mapped segments: flags, offset, length.
    pub(crate) fn head(segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        head[32..40].copy_from_slice(&64u64.to_le_bytes());
        head[54..56].copy_from_slice(&56u16.to_le_bytes());
        head[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for &(flags, offset, len) in segments {
            head.extend([1_u32, flags].map(u32::to_le_bytes).concat());
            head.extend([offset, 0, 0, len, len, 1].map(u64::to_le_bytes).concat());
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
        let whole = head(&[(6, u64::MAX - 5, 5)]);
        assert_eq!(loaded_first(&whole).unwrap(), [u64::MAX - 5..u64::MAX, BEGINNING]);
        for len in 4..whole.len() {
            assert_eq!(loaded_first(&whole[..len]).unwrap(), [BEGINNING], "{len}");
        }
        assert_eq!(loaded_first(&whole[..3]), None);
        assert_eq!(loaded_first(b"#!/bin/sh"), None);
        assert_eq!(loaded_first(&head(&[(6, u64::MAX, 5)])).unwrap(), [BEGINNING]);
    }

    #[test]
    fn so_many_programs_are_remembered_and_no_more() {
        let programs = Programs::default();
        (0..REMEMBERED as u64 + 10).for_each(|inode| programs.note(inode));
        assert!(programs.has(0) && programs.has(REMEMBERED as u64 - 1) && !programs.has(REMEMBERED as u64));
    }
}
