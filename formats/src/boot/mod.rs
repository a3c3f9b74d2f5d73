//! The boot pack: what a start touches of an image, in the order in which it is touched first.
//!
//! One blob, read as it arrives: a table of extents (ranges of layers' tars) and frames, then the frames, each
//! of which decodes on its own to the content of some extents. The table's digest stands on the descriptor that
//! names the pack ([`TablePlace`]), so that nothing is used before what vouches for it has been compared, though the
//! blob's own digest is known only at its end. `layout` draws the bytes.
//!
//! Invariants of a [`BootPack`]: its extents are not empty and do not overlap; every frame holds whole extents, in
//! their order, and no more than [`MAX_FRAME_LEN`] bytes of them. [`BootPack::check`] compares it with the launch index.

mod layout;
mod place;
mod reader;
mod sent;
#[cfg(test)]
mod tests;
mod trace;
mod writer;

use std::ops::Range;

pub use place::{PlaceError, TablePlace};
pub use sent::{EMPTY_CONFIG, MAX_SENT_LEN, trace_manifest};
pub use trace::{MAX_TOUCHES, MAX_TRACE_LEN, Touch, Trace, TraceError, TraceHead};
pub use writer::{Pack, PackWriter};

use crate::{Digest, TarOffset};

/// How frames are cut and compressed; with the compressor's version, all that a pack depends on besides its content.
pub const PACK_RECIPE: &str = "boot 1";
/// The level of packs that are made on purpose: written once, and read at every first start.
pub const PACK_LEVEL: i32 = 19;
/// Bytes of content that one frame may have: what a node holds decoded at a time.
pub const MAX_FRAME_LEN: u32 = 4 << 20;
/// Bytes of content that a pack may have: larger than any start that a pack could help.
pub const MAX_CONTENT_LEN: u64 = 1 << 30;
/// Extents of a pack, and frames: a table has some 56 MiB at most, an honest one some ten KiB.
pub const MAX_RECORDS: u32 = 1 << 20;

/// A range of one layer's tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The layer's number in the launch index, from the bottom.
    pub layer: u16,
    /// Where it starts in the layer's tar.
    pub tar_offset: TarOffset,
    /// Its length in bytes.
    pub len: u32,
}

impl Extent {
    /// The range of the tar.
    pub fn tar_range(&self) -> Range<u64> {
        self.tar_offset.0..self.tar_offset.0 + u64::from(self.len)
    }
}

/// One frame of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it lies in the blob.
    pub blob: Range<u64>,
    /// The extents that it holds, one behind the other.
    pub extents: Range<usize>,
    /// Bytes that it decodes to.
    pub content_len: u32,
    /// BLAKE3 of the compressed bytes.
    pub digest: [u8; 32],
}

/// A pack's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootPack {
    /// The launch index whose layers it speaks of.
    pub index: Digest,
    /// What it holds, in order of first touch.
    pub extents: Vec<Extent>,
    /// The frames that hold it, in the order in which they lie in the blob.
    pub frames: Vec<Frame>,
}

impl BootPack {
    /// Length of the blob.
    pub fn blob_len(&self) -> u64 {
        self.frames.last().map_or_else(|| self.table_len(), |last| last.blob.end)
    }

    /// Bytes of content.
    pub fn content_len(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }
}

/// Why bytes are not a boot pack, or not one of this image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The first bytes are something else.
    #[error("not a boot pack: wrong magic number")]
    Magic,
    /// Written by a later version.
    #[error("boot pack has version {0}; this program reads version 1")]
    Version(u32),
    /// The table ends early or carries more than it says.
    #[error("the table of a boot pack is {actual} bytes long, but says {declared}")]
    TableLength {
        /// What the header says.
        declared: u64,
        /// What there is.
        actual: u64,
    },
    /// More than a node takes.
    #[error("boot pack has {actual} {what}, more than {limit}")]
    TooLarge {
        /// What of it.
        what: &'static str,
        /// How many.
        actual: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A record contradicts the format.
    #[error("boot pack is malformed: {what} {at}: {why}")]
    Record {
        /// Kind of record.
        what: &'static str,
        /// Its number.
        at: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is of another launch index.
    #[error("boot pack is of launch index {actual}, not of {expected}")]
    Index {
        /// The index that it is compared with.
        expected: Digest,
        /// The one that it names.
        actual: Digest,
    },
    /// The compressor failed.
    #[error("boot pack: {0}")]
    Zstd(#[from] crate::compression::ZstdError),
}
