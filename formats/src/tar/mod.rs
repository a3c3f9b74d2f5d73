//! Layers' tar streams, read as container runtimes read them.
//!
//! [`Scanner`] is pushed slices of any length and tells, in order, what they hold. The reference is
//! Go's `archive/tar` with containerd's unpacker on top of it, because that is what the same layer
//! becomes when it is unpacked: PAX global headers are skipped, a PAX header replaces the one before
//! it, hard links never have content, `\0` with a trailing slash is a directory. Old GNU sparse files
//! and contiguous files, which containerd refuses, are read.

mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod header;
mod member;
#[cfg(test)]
pub(crate) mod odd;
mod pax;
mod scanner;
mod sparse;

pub use error::{Problem, ScanError};
pub use member::{Member, Written};
pub use scanner::{Event, Scanner};

/// A tar is made of blocks of this many bytes; every header and every content starts at a multiple.
pub const BLOCK: u64 = 512;
const BLOCK_USIZE: usize = 512;

/// Bytes from `len` to the next multiple of [`BLOCK`].
pub(crate) fn padding_of(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK
}
