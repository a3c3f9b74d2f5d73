//! A directory's content: blocks of sorted names, in which the kernel searches by halves.
//!
//! ```text
//! block:  12 bytes for each name: inode number u64, where the name is u16, type u8, zero  |  the names
//! ```
//! The names of one block end where the next begins, the last at the block's end or at a zero.

use std::cmp::Ordering;

use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U16, U64};

use super::ImageError;
use super::layout::{BLOCK, DIRENT_LEN, Dirent};
use jaunt_formats::entry::NAME_MAX;

/// One name, and the inode behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'n> {
    pub name: &'n [u8],
    pub nid: u64,
    pub file_type: u8,
}

/// Measures a directory, name by name, in order.
#[derive(Default)]
pub(super) struct Measure {
    full_blocks: u64,
    used: usize,
}

impl Measure {
    pub(super) fn add(&mut self, name: &[u8]) {
        let need = DIRENT_LEN + name.len();
        if !fits(self.used, need) {
            self.full_blocks += 1;
            self.used = 0;
        }
        self.used += need;
    }

    /// The directory's size.
    pub(super) fn len(&self) -> u64 {
        self.full_blocks * BLOCK + self.used as u64
    }
}

/// Whether something is a name that the kernel may be shown, and follows the one before: checked for each, since a wrong
/// one would mislead the kernel's search, or a program.
pub(super) fn check_name(before: Option<&[u8]>, name: &[u8]) -> Result<(), ImageError> {
    let bad = matches!(name, b"" | b"." | b"..")
        || name.len() > NAME_MAX
        || name.iter().any(|b| matches!(b, 0 | b'/'));
    if bad || before.is_some_and(|before| before.cmp(name) != Ordering::Less) {
        return Err(ImageError::Malformed("a directory holds what is no name, or out of order"));
    }
    Ok(())
}

/// Writes sorted names; as many bytes as were measured, in blocks.
pub(super) fn write(names: &[Name<'_>], mut out: &mut [u8]) {
    let mut rest = names;
    while !rest.is_empty() {
        let (mut used, mut count) = (0, 0);
        while let Some(name) = rest.get(count).filter(|name| fits(used, DIRENT_LEN + name.name.len())) {
            used += DIRENT_LEN + name.name.len();
            count += 1;
        }
        let (block, after) = rest.split_at(count);
        let len = if after.is_empty() { used } else { block_len() };
        let (target, behind) = out.split_at_mut(len.min(out.len()));
        write_block(block, target);
        (rest, out) = (after, behind);
    }
}

fn write_block(names: &[Name<'_>], out: &mut [u8]) {
    let (heads, texts) = out.split_at_mut(names.len() * DIRENT_LEN);
    let mut at = 0;
    for (head, name) in heads.chunks_exact_mut(DIRENT_LEN).zip(names) {
        let offset = u16::try_from(names.len() * DIRENT_LEN + at).unwrap_or(u16::MAX);
        let dirent = Dirent {
            nid: U64::new(name.nid),
            name_offset: U16::new(offset),
            file_type: name.file_type,
            zero: 0,
        };
        head.copy_from_slice(dirent.as_bytes());
        texts[at..at + name.name.len()].copy_from_slice(name.name);
        at += name.name.len();
    }
}

fn fits(used: usize, need: usize) -> bool {
    used + need <= block_len()
}

fn block_len() -> usize {
    usize::try_from(BLOCK).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_written_and_every_name_is_found() {
        for count in [1, 3, 18, 40, 2_000] {
            let mut texts: Vec<Vec<u8>> =
                (0..count).map(|n| vec![b'a' + (n % 7) as u8; 1 + n % 255]).collect();
            texts.iter_mut().enumerate().for_each(|(n, text)| text.extend_from_slice(&n.to_be_bytes()[6..]));
            texts.iter_mut().for_each(|text| text.truncate(255));
            texts.sort();
            texts.dedup();
            let names: Vec<Name<'_>> =
                texts.iter().zip(7..).map(|(name, nid)| Name { name, nid, file_type: 1 }).collect();
            let mut measure = Measure::default();
            names.iter().for_each(|name| measure.add(name.name));
            let mut bytes = vec![0; usize::try_from(measure.len()).unwrap()];
            write(&names, &mut bytes);
            let mut found = Vec::new();
            for block in bytes.chunks(block_len()) {
                let first = usize::from(u16::from_le_bytes([block[8], block[9]]));
                let heads: Vec<(u64, usize)> = block[..first]
                    .chunks(DIRENT_LEN)
                    .map(|head| (head[0].into(), u16::from_le_bytes([head[8], head[9]]).into()))
                    .collect();
                for (at, (_, start)) in heads.iter().enumerate() {
                    let end = heads.get(at + 1).map_or(block.len(), |(_, next)| *next);
                    let text = &block[*start..end];
                    found.push(
                        text[..text.iter().position(|b| *b == 0).filter(|p| *p >= 255).unwrap_or(text.len())]
                            .to_vec(),
                    );
                }
            }
            let trimmed = |texts: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
                texts
                    .into_iter()
                    .map(|t| {
                        let end = t.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1);
                        t[..end].to_vec()
                    })
                    .collect()
            };
            assert_eq!(trimmed(found), trimmed(texts));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(check_name(None, bad).is_err(), "{bad:?}");
        }
        assert!(check_name(Some(b"b"), b"a").is_err() && check_name(Some(b"a"), b"a").is_err());
        assert!(check_name(Some(b"a"), b"aa").is_ok() && check_name(None, &[b'x'; 255]).is_ok());
    }
}
