//! Reads a seek table that anybody may have written.

use super::layout::{
    CHECKSUM_FLAG, ENTRY_LEN, FOOTER_LEN, Frame, MAX_FRAMES, RESERVED_FLAGS, SEEKABLE_MAGIC, SKIPPABLE_MAGIC,
};

/// Why bytes are no seek table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeekTableError {
    /// The blob does not end in the format's magic number: it has no seek table.
    #[error("no seek table: the blob does not end in its magic number")]
    Absent,
    /// Reserved flags are set: a version that is not ours to guess at.
    #[error("seek table has unknown flags {0:#04x}")]
    Flags(u8),
    /// More frames than the format allows.
    #[error("seek table of {0} frames is larger than the format allows")]
    TooLarge(u32),
    /// The table's length is not what its footer says.
    #[error("seek table is malformed: {0}")]
    Malformed(&'static str),
}

/// What the last bytes of a blob say about the table in front of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Frames in the table.
    pub frames: u32,
    /// Whether each has a checksum.
    pub checksums: bool,
}

impl Footer {
    fn entry_len(self) -> usize {
        ENTRY_LEN + if self.checksums { 4 } else { 0 }
    }

    /// Length of the whole skippable frame, to be fetched from the end of the blob.
    pub fn table_len(self) -> u64 {
        8 + u64::from(self.frames) * self.entry_len() as u64 + FOOTER_LEN as u64
    }
}

/// Reads the footer at the end of `tail`.
pub fn footer(tail: &[u8]) -> Result<Footer, SeekTableError> {
    let Some(([f0, f1, f2, f3, flags, magic @ ..], _)) =
        tail.split_last_chunk::<FOOTER_LEN>().map(|(rest, footer)| (footer, rest))
    else {
        return Err(SeekTableError::Absent);
    };
    if *magic != SEEKABLE_MAGIC {
        return Err(SeekTableError::Absent);
    }
    if flags & RESERVED_FLAGS != 0 {
        return Err(SeekTableError::Flags(*flags));
    }
    let frames = u32::from_le_bytes([*f0, *f1, *f2, *f3]);
    if frames > MAX_FRAMES {
        return Err(SeekTableError::TooLarge(frames));
    }
    Ok(Footer { frames, checksums: flags & CHECKSUM_FLAG != 0 })
}

/// Reads the table at the end of `tail`, which must hold all of it.
pub fn parse(tail: &[u8]) -> Result<Vec<Frame>, SeekTableError> {
    let footer = footer(tail)?;
    let len = usize::try_from(footer.table_len()).map_err(|_| SeekTableError::TooLarge(footer.frames))?;
    let start = tail.len().checked_sub(len).ok_or(SeekTableError::Malformed("it is cut short"))?;
    let (header, entries) = tail[start..].split_at(8);
    let declared = u32::try_from(len - 8).ok().map(u32::to_le_bytes);
    if header[..4] != SKIPPABLE_MAGIC || declared.is_none_or(|declared| header[4..] != declared) {
        return Err(SeekTableError::Malformed("its header does not match its footer"));
    }
    let entries = &entries[..entries.len() - FOOTER_LEN];
    Ok(entries.chunks_exact(footer.entry_len()).map(frame).collect())
}

fn frame(entry: &[u8]) -> Frame {
    let field = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    Frame { compressed: field(0), decompressed: field(4) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SeekTable;
    use super::*;

    fn table(frames: &[Frame]) -> Vec<u8> {
        let mut table = SeekTable::default();
        frames.iter().for_each(|frame| table.push(*frame));
        let mut bytes = b"blob".to_vec();
        table.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn reads_what_it_writes() {
        let frames = [Frame { compressed: 1, decompressed: 2 }, Frame { compressed: 3, decompressed: 0 }];
        assert_eq!(parse(&table(&frames)), Ok(frames.to_vec()));
        assert_eq!(parse(&table(&[])), Ok(vec![]));
    }

    #[test]
    fn reads_tables_with_checksums() {
        let mut bytes = SKIPPABLE_MAGIC.to_vec();
        bytes.extend_from_slice(&21_u32.to_le_bytes());
        bytes.extend_from_slice(&[7, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 0, 0x80]);
        bytes.extend_from_slice(&SEEKABLE_MAGIC);
        assert_eq!(parse(&bytes), Ok(vec![Frame { compressed: 7, decompressed: 9 }]));
    }

    #[test]
    fn refuses_what_is_none() {
        let good = table(&[Frame { compressed: 1, decompressed: 2 }]);
        assert_eq!(parse(b""), Err(SeekTableError::Absent));
        assert_eq!(parse(&good[..good.len() - 1]), Err(SeekTableError::Absent));
        let flag = good.len() - 5;
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            parse(&bytes)
        };
        assert_eq!(changed(flag, 4), Err(SeekTableError::Flags(4)));
        assert_eq!(changed(flag - 1, 0xff), Err(SeekTableError::TooLarge(0xff00_0001)));
        assert!(matches!(changed(flag - 4, 2), Err(SeekTableError::Malformed(_))));
        assert!(matches!(changed(4, 0), Err(SeekTableError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            bytes.extend_from_slice(&SEEKABLE_MAGIC);
            let _ = parse(&bytes);
        }
    }
}
