//! Reads a TOC that anybody may have written.

use std::io::BufReader;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::layout::Position;
use super::toc::{Toc, TocEntry};
use crate::Digest;
use crate::compression::FrameReader;

/// podman's limit; a TOC of a million files has about as much.
pub const MAX_TOC_LEN: u64 = 150 << 20;

/// Why a TOC is not one.
#[derive(Debug, thiserror::Error)]
pub enum TocError {
    /// It would be larger than [`MAX_TOC_LEN`].
    #[error("TOC of {0} bytes is larger than the limit of {MAX_TOC_LEN}")]
    TooLarge(u64),
    /// The bytes are not those the descriptor names.
    #[error("TOC has digest {actual} instead of {expected}")]
    Digest {
        /// What the annotation says.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// It does not decompress to what the annotation says.
    #[error("TOC does not decompress: {0}")]
    Compression(std::io::Error),
    /// It is not the JSON it should be.
    #[error("TOC is malformed: {0}")]
    Json(serde_json::Error),
    /// A version that is not ours to guess at.
    #[error("TOC has version {0}; this program reads version 1")]
    Version(u32),
}

impl From<serde_json::Error> for TocError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() { Self::Compression(error.into()) } else { Self::Json(error) }
    }
}

/// Decodes the compressed TOC that lay at `position`, after checking it against its digest.
///
/// # Errors
/// The bytes are no TOC, or not this one.
pub fn decode_toc(compressed: &[u8], position: &Position, digest: Digest) -> Result<Toc, TocError> {
    let mut entries = Vec::new();
    let tar_split_digest = read_toc(compressed, position, digest, &mut |entry| {
        entries.push(entry);
        true
    })?;
    Ok(Toc { version: 1, entries, tar_split_digest })
}

/// Hands the name, the length and the digest of each whole file of a TOC to `sink`. Names are as the tar has them.
///
/// # Errors
/// As [`decode_toc`].
pub fn content_digests(
    compressed: &[u8],
    position: &Position,
    digest: Digest,
    sink: &mut dyn FnMut(&str, u64, Digest),
) -> Result<(), TocError> {
    let read = read_toc(compressed, position, digest, &mut |entry| {
        let len = u64::try_from(entry.size).ok().filter(|_| entry.kind == "reg");
        if let (Some(len), Some(digest)) = (len, entry.digest) {
            sink(&entry.name, len, digest);
        }
        true
    });
    read.map(drop)
}

/// Hands each entry of a TOC to `sink`, which may end the reading by returning false; the digest of the
/// tar-split, if the TOC names one. Nothing but one entry is in memory at a time.
pub(super) fn read_toc(
    compressed: &[u8],
    position: &Position,
    digest: Digest,
    sink: &mut dyn FnMut(TocEntry) -> bool,
) -> Result<Option<Digest>, TocError> {
    if position.raw_len > MAX_TOC_LEN {
        return Err(TocError::TooLarge(position.raw_len));
    }
    let actual = Digest::of(compressed);
    if actual != digest {
        return Err(TocError::Digest { expected: digest, actual });
    }
    let reader = frames(compressed, position).map_err(TocError::Compression)?;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let head = Document(sink).deserialize(&mut json)?;
    json.end()?;
    if head.version == 1 { Ok(head.tar_split_digest) } else { Err(TocError::Version(head.version)) }
}

/// A compressed document, to be read in pieces.
pub(super) fn frames<'a>(
    compressed: &'a [u8],
    position: &Position,
) -> std::io::Result<BufReader<FrameReader<'a>>> {
    let reader = FrameReader::new(compressed, position.raw_len).map_err(std::io::Error::other)?;
    Ok(BufReader::with_capacity(64 << 10, reader))
}

/// What the TOC says besides its entries.
#[derive(Default)]
struct Head {
    version: u32,
    tar_split_digest: Option<Digest>,
}

struct Document<'a>(&'a mut dyn FnMut(TocEntry) -> bool);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Head;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Head, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Head;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => head.version = map.next_value()?,
                "tarSplitDigest" => head.tar_split_digest = map.next_value()?,
                "entries" => map.next_value_seed(Entries(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(head)
    }
}

struct Entries<'a>(&'a mut dyn FnMut(TocEntry) -> bool);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of entries")
    }

    /// What Go writes for a layer without any.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element()? {
            if !(self.0)(entry) {
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
