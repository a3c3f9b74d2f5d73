//! Speaking FUSE with the kernel, apart from what the file system says.
//!
//! One process makes a mount and answers the kernel's FUSE_INIT ([`mount`]); another one serves it
//! ([`session`]). What the two agreed with the kernel travels between them as [`Negotiated`]
//! ([`init`]). So every serving process, the first as well as one after a crash, receives a descriptor
//! that is already initialised, and there is one path for both.
//!
//! The kernel knows inodes by other numbers than [`crate::fs`] does: `numbers` alone turns one into the other, on every way
//! there is (requests, listings, what the kernel is told to forget or given to keep).
//!
//! Invariants: whoever holds a descriptor of a mount open keeps it alive, served or not; dropping the
//! last one breaks the mount for good. Nothing here touches the tree below a mount point, because that
//! would block until somebody serves it; but for [`store_pages`], in a process of its own.

mod abi;
mod adapter;
mod backing;
mod buffers;
mod errno;
pub mod in_flight;
pub mod init;
pub mod mount;
mod noting;
mod numbers;
mod orphan;
mod push;
mod read_ahead;
mod reading;
pub mod session;
mod store;
mod told;

pub use adapter::Adapter;
pub use backing::BackingIds;
pub use buffers::spare_buffers;
/// The library that decodes requests, for whoever serves a file system of another kind.
pub use fuser;
pub use in_flight::InFlight;
pub use init::{KernelFeatures, Negotiated};
pub use mount::{MountError, MountOptions, Mounted};
pub use numbers::Numbering;
pub use orphan::Orphan;
pub use push::{Breaker, PageSink};
pub use read_ahead::{Narrowed, READ_AHEAD_KIB, ReadAhead};
pub use session::{SessionError, SessionHandle, resend, serve, serve_noting};
pub use store::store_pages;
