//! Byte layout of the boot pack, version 1. All integers are little-endian and unaligned.
//!
//! ```text
//! header, 64 bytes
//!    0  8  magic "JAUNTBPK"
//!    8  4  version = 1
//!   12  4  number of extents
//!   16  4  number of frames
//!   20  4  zero
//!   24  8  bytes of content: of all extents together
//!   32 32  digest of the launch index's blob
//! extents, 16 bytes each, in order of first touch
//!    0  8  offset in the layer's tar     8  4  length
//!   12  2  number of the layer          14  2  zero
//! frames, 40 bytes each, in the order in which they lie in the blob
//!    0  4  compressed length             4  4  number of extents that it holds
//!    8 32  BLAKE3 of the compressed bytes
//! the frames, one behind the other
//! ```
//!
//! Header and records are the *table*.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 8] = *b"JAUNTBPK";
pub(super) const VERSION: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 8],
    pub version: U32,
    pub extents: U32,
    pub frames: U32,
    pub zero: [u8; 4],
    pub content_len: U64,
    pub index: [u8; 32],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentRecord {
    pub tar_offset: U64,
    pub len: U32,
    pub layer: U16,
    pub zero: [u8; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FrameRecord {
    pub compressed_len: U32,
    pub extents: U32,
    pub digest: [u8; 32],
}

pub(super) const HEADER_LEN: usize = size_of::<Header>();
pub(super) const EXTENT_LEN: usize = size_of::<ExtentRecord>();
pub(super) const FRAME_LEN: usize = size_of::<FrameRecord>();

/// Bytes of a table with so many records.
pub(super) fn table_len(extents: usize, frames: usize) -> u64 {
    (HEADER_LEN as u64) + (extents as u64) * EXTENT_LEN as u64 + (frames as u64) * FRAME_LEN as u64
}
