//! Which parts of a blob have which compression level.
//!
//! A frame for each file costs size where files are small, and there a better search costs little: of an image
//! of 30,000 files, level 3 alone makes 1.042 times the gzip original. So what is small has level 6 at
//! least; large frames, where that would take three times as long for 3 %, have the level asked for.

/// libzstd's own border between tables of parameters.
const SMALL_FRAME: u32 = 256 << 10;
const SMALL_LEVEL: i32 = 6;

/// Whether a frame of `len` bytes of tar counts as small.
pub(super) fn is_small(len: u32) -> bool {
    len <= SMALL_FRAME
}

/// The level of small frames, TOC and tar-split in a blob of level `level`.
pub(super) fn small_level(level: i32) -> i32 {
    level.max(SMALL_LEVEL)
}
