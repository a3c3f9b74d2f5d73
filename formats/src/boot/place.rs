//! Where a pack's table ends, and its digest: what the descriptor that names the pack says of it.

use std::fmt;
use std::str::FromStr;

use super::layout::{HEADER_LEN, table_len};
use super::{BootError, BootPack, MAX_RECORDS};
use crate::Digest;

/// The value of the annotation `dev.jaunt.boot.table`: `<length>@sha256:<hex>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePlace {
    len: u64,
    digest: Digest,
}

/// A value of that annotation that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the length and digest of a boot pack's table")]
pub struct PlaceError(String);

impl TablePlace {
    /// That of a table.
    pub fn of(table: &[u8]) -> Self {
        Self { len: table.len() as u64, digest: Digest::of(table) }
    }

    /// Bytes of the table: the blob's first ones.
    pub fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    /// Never: a table has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads the table, if it is the one meant.
    ///
    /// # Errors
    /// It is another one, or malformed.
    pub fn open(&self, table: &[u8]) -> Result<BootPack, BootError> {
        if table.len() as u64 != self.len {
            return Err(BootError::TableLength { declared: self.len, actual: table.len() as u64 });
        }
        if Digest::of(table) != self.digest {
            return Err(BootError::Record {
                what: "table",
                at: 0,
                why: "its digest is not that of its descriptor",
            });
        }
        BootPack::read(table)
    }
}

impl fmt::Display for TablePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.len, self.digest)
    }
}

impl FromStr for TablePlace {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let parsed = text.split_once('@').and_then(|(len, digest)| {
            let len = Some(len).filter(|len| !len.starts_with('+')).and_then(|len| len.parse().ok())?;
            Some(Self { len, digest: digest.parse().ok()? })
        });
        let most = table_len(MAX_RECORDS as usize, MAX_RECORDS as usize);
        let sound = parsed.filter(|place| (HEADER_LEN as u64..=most).contains(&place.len));
        sound.ok_or_else(|| PlaceError(text.chars().take(200).collect()))
    }
}
