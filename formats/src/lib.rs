//! Bytes to types and back, for every format Jaunt reads or writes.
//!
//! Nothing here does I/O, knows an async runtime, or trusts its input: parsers take `&[u8]` and
//! return typed errors; writers return bytes. Every other crate of the workspace builds on this one,
//! and this one builds on none of them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod boot;
pub mod chain_id;
mod codec;
pub mod compression;
pub mod cosign;
pub mod digest;
pub mod elf;
pub mod entry;
pub mod entry_log;
mod error_chain;
#[cfg(test)]
mod exactness;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod launch;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod seekable;
pub mod span;
pub mod spool;
pub mod tar;
pub mod tree;
pub mod units;
pub mod zstd_chunked;

pub use chain_id::{ChainId, DiffId};
pub use digest::{Digest, DigestError};
pub use entry::{Content, Entry, EntryKind, EntryPath, SparseExtent, Timestamp, Xattr};
pub use entry_log::{EntryLog, EntryLogWriter};
pub use error_chain::error_chain;
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use span::{DigestScope, Span, SpanDigest};
pub use units::{BlobOffset, TarOffset};
