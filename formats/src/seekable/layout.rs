//! The bytes of a seek table, all integers little-endian:
//!
//! ```text
//! 5E 2A 4D 18 | u32 length of what follows
//! per frame:  u32 compressed | u32 decompressed | [u32 low half of XXH64, if the flag is set]
//! footer:     u32 frames | u8 flags | B1 EA 92 8F
//! ```
//!
//! Skippable frames in between are listed too, with nothing decompressed: readers add the
//! compressed lengths up to find where frames lie.

/// Magic number of the skippable frame.
pub(super) const SKIPPABLE_MAGIC: [u8; 4] = [0x5e, 0x2a, 0x4d, 0x18];
/// Magic number at the very end.
pub(super) const SEEKABLE_MAGIC: [u8; 4] = [0xb1, 0xea, 0x92, 0x8f];
/// Flag of the footer: each frame has a checksum.
pub(super) const CHECKSUM_FLAG: u8 = 0x80;
/// Flags that must be zero.
pub(super) const RESERVED_FLAGS: u8 = 0x7c;
/// The format's own limit.
pub(super) const MAX_FRAMES: u32 = 0x800_0000;
/// Length of a frame's two lengths.
pub(super) const ENTRY_LEN: usize = 8;
/// Length of the footer: count, flags, magic number.
pub const FOOTER_LEN: usize = 9;

/// One frame's lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// In the blob.
    pub compressed: u32,
    /// Of what it decodes to; 0 for a skippable frame.
    pub decompressed: u32,
}
