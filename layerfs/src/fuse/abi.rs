//! The few messages of the FUSE protocol that we read and write ourselves (linux/fuse.h, 7.x).
//!
//! Integers are in host order: both ends are this machine. Every struct here is free of padding.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's major version; the kernel has never spoken another since 2005.
pub(super) const MAJOR: u32 = 7;
/// Opcode of the first request of a connection.
pub(super) const OPCODE_INIT: u32 = 26;
/// Notification that asks for every unanswered request once more (Linux 6.9).
pub(super) const NOTIFY_RESEND: i32 = 7;

/// Notification that puts bytes into an inode's page cache.
pub(super) const NOTIFY_STORE: i32 = 4;

/// What that says, before the bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct NotifyStore {
    pub nodeid: u64,
    pub offset: u64,
    pub size: u32,
    pub padding: u32,
}

/// What one of our processes tells another to store: no message of the kernel's.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct PageRecord {
    /// Of the path that follows; 0: it is the same file as before.
    pub path_len: u32,
    /// Of the bytes that follow that.
    pub len: u32,
    pub number: u64,
    pub offset: u64,
}

impl PageRecord {
    pub(super) fn new(path: &str, number: u64, offset: u64, bytes: &[u8]) -> io::Result<Self> {
        let len = |len: usize| u32::try_from(len).map_err(io::Error::other);
        Ok(Self { path_len: len(path.len())?, len: len(bytes.len())?, number, offset })
    }
}

/// Opens each request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InHeader {
    /// Of the whole request.
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub total_extlen: u16,
    pub padding: u16,
}

/// What FUSE_INIT says. Kernels before 7.36 end it after `flags`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitIn {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    /// Meaningful with `INIT_EXT` in `flags`.
    pub flags2: u32,
    pub unused: [u32; 11],
}

impl InitIn {
    /// Length of the message without `flags2` and what follows.
    pub(super) const SHORT: usize = 16;
}

/// Opens each reply; with `unique` 0 it is a notification whose code is in `error`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OutHeader {
    /// Of the whole reply.
    pub len: u32,
    /// 0, or a negated errno.
    pub error: i32,
    pub unique: u64,
}

/// The answer to FUSE_INIT.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitOut {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    /// In nanoseconds.
    pub time_gran: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
    pub flags2: u32,
    pub max_stack_depth: u32,
    pub unused: [u32; 6],
}

/// FUSE_INIT, whole.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitRequestMessage {
    pub header: InHeader,
    pub body: InitIn,
}

/// The answer to FUSE_INIT, whole.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitReplyMessage {
    pub header: OutHeader,
    pub body: InitOut,
}

/// The length of a message of ours as its header carries it.
#[allow(clippy::cast_possible_truncation)] // no message here is longer than 104 bytes
pub(super) const fn len_of<T>() -> u32 {
    size_of::<T>() as u32
}
