//! The end of a zstd:chunked blob, and the annotations on its descriptor that say the same.
//!
//! ```text
//! frames | skippable(TOC, zstd) | skippable(tar-split, zstd) | skippable(footer) | seek table
//! skippable: 50 2A 4D 18 | u32 length | data
//! footer:    u64 TOC offset, compressed, raw, type=1 | u64 tar-split offset, compressed, raw | "GNUlInUx"
//! ```
//!
//! All integers are little-endian; offsets point past the skippable header. The footer's raw lengths
//! follow the compressed ones. podman reads the annotations, and never the footer.

use std::collections::HashMap;

use crate::media_type::{CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION};
use crate::{BlobOffset, Digest, DigestError};

/// Magic number of the skippable frames.
pub(super) const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// Length of the footer without its skippable header.
pub const FOOTER_LEN: usize = 64;
const FOOTER_MAGIC: [u8; 8] = *b"GNUlInUx";
/// The only type of TOC there is.
const TOC_TYPE: u64 = 1;

/// Where a compressed document is in the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its first byte.
    pub offset: BlobOffset,
    /// Its length in the blob.
    pub len: u64,
    /// Its length when decompressed.
    pub raw_len: u64,
}

/// The footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The table of contents.
    pub toc: Position,
    /// What is needed besides the files to rebuild the tar.
    pub tar_split: Position,
}

impl Footer {
    /// The footer's bytes.
    pub fn to_bytes(self) -> [u8; FOOTER_LEN] {
        let Self { toc, tar_split } = self;
        let fields = [
            toc.offset.0,
            toc.len,
            toc.raw_len,
            TOC_TYPE,
            tar_split.offset.0,
            tar_split.len,
            tar_split.raw_len,
            u64::from_le_bytes(FOOTER_MAGIC),
        ];
        let mut bytes = [0; FOOTER_LEN];
        for (slot, field) in bytes.chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads a footer; `None` when these bytes are none, or of another type.
    pub fn parse(bytes: &[u8; FOOTER_LEN]) -> Option<Self> {
        let mut fields = [0; FOOTER_LEN / 8];
        for (field, slot) in fields.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *field = u64::from_le_bytes(*slot);
        }
        let [toc, toc_len, toc_raw, toc_type, split, split_len, split_raw, magic] = fields;
        if magic.to_le_bytes() != FOOTER_MAGIC || toc_type != TOC_TYPE {
            return None;
        }
        Some(Self {
            toc: Position { offset: BlobOffset(toc), len: toc_len, raw_len: toc_raw },
            tar_split: Position { offset: BlobOffset(split), len: split_len, raw_len: split_raw },
        })
    }
}

/// What a descriptor says of its zstd:chunked blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    /// Digest of the compressed TOC.
    pub toc_digest: Digest,
    /// The TOC.
    pub toc: Position,
    /// The tar-split; old blobs have none.
    pub tar_split: Option<Position>,
}

/// Why annotations do not describe a zstd:chunked blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationsError {
    /// One of the two that belong together is missing.
    #[error("annotation {0} is missing")]
    Missing(&'static str),
    /// Not of the form `offset:length:rawlength`, with `:1` behind it for the TOC.
    #[error("annotation {name} is malformed: {value:?}")]
    Position {
        /// Its key.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The checksum is no digest.
    #[error("annotation {CHUNKED_MANIFEST_CHECKSUM}: {0}")]
    Digest(#[from] DigestError),
}

impl Annotations {
    /// The annotations as they go onto a descriptor.
    pub fn to_map(&self) -> HashMap<String, String> {
        let position = |at: &Position| format!("{}:{}:{}", at.offset, at.len, at.raw_len);
        let mut map = HashMap::from([
            (CHUNKED_MANIFEST_CHECKSUM.to_owned(), self.toc_digest.to_string()),
            (CHUNKED_MANIFEST_POSITION.to_owned(), format!("{}:{TOC_TYPE}", position(&self.toc))),
        ]);
        if let Some(tar_split) = &self.tar_split {
            map.insert(CHUNKED_TARSPLIT_POSITION.to_owned(), position(tar_split));
        }
        map
    }

    /// Reads a descriptor's annotations; `None` when the blob is not zstd:chunked.
    pub fn parse(map: &HashMap<String, String>) -> Result<Option<Self>, AnnotationsError> {
        let Some(checksum) = map.get(CHUNKED_MANIFEST_CHECKSUM) else { return Ok(None) };
        let missing = AnnotationsError::Missing(CHUNKED_MANIFEST_POSITION);
        let toc = map.get(CHUNKED_MANIFEST_POSITION).ok_or(missing)?;
        let toc_fields = toc.strip_suffix(":1").and_then(parse_position);
        let tar_split = map
            .get(CHUNKED_TARSPLIT_POSITION)
            .map(|value| parse_position(value).ok_or_else(|| malformed(CHUNKED_TARSPLIT_POSITION, value)));
        Ok(Some(Self {
            toc_digest: checksum.parse()?,
            toc: toc_fields.ok_or_else(|| malformed(CHUNKED_MANIFEST_POSITION, toc))?,
            tar_split: tar_split.transpose()?,
        }))
    }
}

fn malformed(name: &'static str, value: &str) -> AnnotationsError {
    AnnotationsError::Position { name, value: value.to_owned() }
}

fn parse_position(text: &str) -> Option<Position> {
    let mut fields = text.split(':').map(|field| {
        let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| field.parse::<u64>().ok()).flatten()
    });
    let mut next = || fields.next().flatten();
    let position = Position { offset: BlobOffset(next()?), len: next()?, raw_len: next()? };
    let end = position.offset.checked_add(position.len);
    (fields.next().is_none() && end.is_some()).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: u64) -> Position {
        Position { offset: BlobOffset(offset), len: 20, raw_len: 300 }
    }

    #[test]
    fn footers_come_back() {
        let footer = Footer { toc: position(10), tar_split: position(38) };
        let bytes = footer.to_bytes();
        assert_eq!(bytes[56..], *b"GNUlInUx");
        assert_eq!(Footer::parse(&bytes), Some(footer));
        assert_eq!(Footer::parse(&[0; 64]), None);
    }

    #[test]
    fn annotations_come_back() {
        let annotations =
            Annotations { toc_digest: Digest::of(b"toc"), toc: position(10), tar_split: Some(position(38)) };
        let map = annotations.to_map();
        assert_eq!(map[CHUNKED_MANIFEST_POSITION], "10:20:300:1");
        assert_eq!(map[CHUNKED_TARSPLIT_POSITION], "38:20:300");
        assert_eq!(Annotations::parse(&map), Ok(Some(annotations)));
        assert_eq!(Annotations::parse(&HashMap::new()), Ok(None));
    }

    #[test]
    fn malformed_annotations_are_named() {
        for bad in
            ["", "1:2:3", "1:2:3:2", "1:2:1", "1:2:3:4:1", "-1:2:3:1", "1::3:1", "18446744073709551615:1:1:1"]
        {
            let map = HashMap::from([
                (CHUNKED_MANIFEST_CHECKSUM.to_owned(), Digest::of(b"").to_string()),
                (CHUNKED_MANIFEST_POSITION.to_owned(), bad.to_owned()),
            ]);
            assert_eq!(Annotations::parse(&map), Err(malformed(CHUNKED_MANIFEST_POSITION, bad)));
        }
    }
}
