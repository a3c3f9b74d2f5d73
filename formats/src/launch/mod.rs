//! The launch index: all that a node must know of an image before its first byte of content.
//!
//! It holds every layer's diffID, blobs and spans, and the merged tree, in one binary that is used
//! where it lies, memory-mapped or not: [`LaunchIndex::open`] checks the frame and the layers, and
//! nothing is parsed entry by entry. `layout` draws the bytes. As a blob it travels as one zstd frame
//! ([`pack`], [`unpack`]).

mod check;
mod compare;
mod large;
mod layer;
mod layout;
mod pack;
mod reader;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use check::check;
pub use compare::{Difference, What, compare};
pub use layer::LaunchLayer;
pub use pack::{MAX_INDEX_LEN, pack, unpack};
pub use reader::{Attributes, FileContent, InodeId, InodeType, LaunchIndex};
pub use view::{Child, View};
pub use writer::write;

use crate::Digest;

/// How a blob of a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// A plain tar.
    None = 0,
    /// gzip, of one member or many.
    Gzip = 1,
    /// zstd.
    Zstd = 2,
}

impl Compression {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A blob in a registry that decodes to a layer's tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub len: u64,
    /// Its compression.
    pub compression: Compression,
}

/// Why bytes are not a launch index, or not a sound one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The blob is not a zstd frame that declares its length, or does not decode to it.
    #[error("launch index: {0}")]
    Packing(String),
    /// It would decode to more than [`MAX_INDEX_LEN`] bytes.
    #[error("launch index of {0} bytes is larger than the limit of {MAX_INDEX_LEN}")]
    TooLarge(u64),
    /// It would be so much larger than its blob that it can be no index.
    #[error("launch index of {declared} bytes in a blob of {packed}: no index is that regular")]
    Ratio {
        /// What the blob says.
        declared: u64,
        /// The blob's length.
        packed: u64,
    },
    /// The first bytes are something else.
    #[error("not a launch index: wrong magic number")]
    Magic,
    /// Written by a later version.
    #[error("launch index has version {0}; this program reads version 1")]
    Version(u32),
    /// The file ends early or carries more than it says.
    #[error("launch index is {actual} bytes long, but says {declared}")]
    Length {
        /// What the header says.
        declared: u64,
        /// What there is.
        actual: u64,
    },
    /// The checksum does not match: damaged on disk.
    #[error("launch index is damaged: its checksum does not match")]
    Checksum,
    /// A part contradicts the format; the message says which and how.
    #[error("launch index is malformed: {0}")]
    Malformed(&'static str),
    /// As `Malformed`, at one record.
    #[error("launch index is malformed: {what} {at}: {why}")]
    Record {
        /// Kind of record.
        what: &'static str,
        /// Its number.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}
