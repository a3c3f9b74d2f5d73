//! FUSE_INIT, the handshake of a FUSE connection, as pure functions over bytes.
//!
//! The kernel offers ([`InitRequest`]), we choose ([`negotiate`]) and answer ([`Negotiated::reply`]).
//! A connection is initialised once in its life, by the process that mounts. A process that serves it
//! later talks through a library that insists on a handshake of its own: it gets one that is made up
//! from the outcome ([`Negotiated::synthetic_request`]), in which the kernel offers exactly what was
//! agreed, and its answer is checked against that ([`Negotiated::check_reply`]).
//!
//! [`Negotiated`] travels between processes, possibly of different versions, as 36 little-endian bytes:
//!
//! ```text
//! format u32 = 1 | minor u32 | flags u64 | max_readahead u32 | max_write u32 | max_stack_depth u32
//!                | max_pages u16 | max_background u16 | congestion_threshold u16 | numbering u16
//! ```
//!
//! The last was 0 before there was a choice of numberings. One that is not known here is kept as it is: the mount cannot be
//! served, but held for who can.

use fuser::InitFlags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::abi::{InHeader, InitIn, InitOut, InitReplyMessage, InitRequestMessage, MAJOR, OPCODE_INIT};
use super::abi::{OutHeader, len_of};
use super::numbers::Numbering;

/// The newest minor version whose messages the serving library knows.
const NEWEST_MINOR: u32 = 40;
/// 7.31 is Linux 5.4; whatever the read path rests on (`MAX_PAGES`, `CACHE_SYMLINKS`,
/// `NO_OPENDIR_SUPPORT`) is older.
const OLDEST_MINOR: u32 = 31;

/// Bytes of one request at most: two spans, and what the kernel allows by default (256 pages of 4 KiB).
const MAX_REQUEST: u32 = 1 << 20;
/// Background requests (read-ahead) that the kernel may have under way: four sequential readers with
/// 16 each. With the kernel's own 12, one reader on a slow link starves the others.
const MAX_BACKGROUND: u16 = 64;
/// Where the kernel calls the device congested: three quarters, as is its own custom.
const CONGESTION_THRESHOLD: u16 = MAX_BACKGROUND / 4 * 3;

/// What we take from a kernel that offers it.
///
/// Directories are always read with attributes (`DO_READDIRPLUS` without `READDIRPLUS_AUTO`): attributes
/// cost us no I/O and stay cached for ever, whereas the adaptive mode sends one LOOKUP an entry for all
/// but the first page of a directory. Content never changes under a path, hence `EXPLICIT_INVAL_DATA`
/// and not `AUTO_INVAL_DATA`. `HAS_RESEND` and the two for opening only tell what the kernel can do.
/// `ALLOW_IDMAP` (Linux 6.12) lets the mount be id-mapped for user namespaces, which is the kernel's work alone where
/// it checks permissions. With `POSIX_ACL` the kernel asks for the access list of each file whose permissions it
/// checks, so it is taken only for chains that have any ([`super::MountOptions::posix_acl`]).
///
/// Left out: `ABORT_ERROR` (the end of a connection shall read as ENODEV, a plain end), the splice flags (replies
/// come from memory). `PASSTHROUGH` is taken where a mount is to have it ([`super::MountOptions::passthrough`]).
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_INIT_EXT)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_PASSTHROUGH)
    .union(InitFlags::FUSE_ALLOW_IDMAP)
    .union(InitFlags::FUSE_HAS_RESEND);

/// Backing files lie on an ordinary disk; the kernel allows two levels, and overlayfs on top is the other.
const STACK_DEPTH: u32 = 1;

/// Number of the synthetic request; any will do, nobody else is on that socket.
const SYNTHETIC_UNIQUE: u64 = 2;

/// The kernel features that may be used: all, but for those that were hidden.
///
/// Hiding makes a new kernel look like an old one, so that the older paths can be run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFeatures(InitFlags);

impl KernelFeatures {
    /// Whatever the kernel offers.
    pub const ALL: Self = Self(InitFlags::from_bits_retain(u64::MAX));

    /// The same, with `flags` hidden.
    #[must_use]
    pub const fn without(self, flags: InitFlags) -> Self {
        Self(self.0.difference(flags))
    }

    /// The same, as a kernel before 6.9 would have it: what a dead process had taken is never sent again.
    #[must_use]
    pub const fn without_resend(self) -> Self {
        self.without(InitFlags::FUSE_HAS_RESEND)
    }

    /// The same, as a kernel before 6.12 would have it: its FUSE mounts cannot be id-mapped.
    #[must_use]
    pub const fn without_id_mapping(self) -> Self {
        self.without(InitFlags::FUSE_ALLOW_IDMAP)
    }

    /// The same, as a kernel before 6.9 would have it: every read comes to the file system.
    #[must_use]
    pub const fn without_passthrough(self) -> Self {
        self.without(InitFlags::FUSE_PASSTHROUGH)
    }

    /// The same, with access lists shown and not enforced.
    #[must_use]
    pub const fn without_posix_acl(self) -> Self {
        self.without(InitFlags::FUSE_POSIX_ACL)
    }
}

impl Default for KernelFeatures {
    fn default() -> Self {
        Self::ALL
    }
}

/// What the kernel offers in its FUSE_INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRequest {
    /// Number of the request; the answer repeats it.
    pub unique: u64,
    /// The kernel's minor protocol version.
    pub minor: u32,
    /// Read-ahead in bytes that the kernel would do by itself.
    pub max_readahead: u32,
    /// What the kernel can do.
    pub flags: InitFlags,
}

impl InitRequest {
    /// Reads the first request of a new connection.
    pub fn parse(bytes: &[u8]) -> Result<Self, InitError> {
        let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| InitError::Short(bytes.len()))?;
        if header.opcode != OPCODE_INIT {
            return Err(InitError::NotInit(header.opcode));
        }
        if usize::try_from(header.len) != Ok(bytes.len()) || rest.len() < InitIn::SHORT {
            return Err(InitError::Short(bytes.len()));
        }
        let mut body = InitIn::default();
        let known = rest.len().min(size_of::<InitIn>());
        body.as_mut_bytes()[..known].copy_from_slice(&rest[..known]);
        if body.major != MAJOR || body.minor < OLDEST_MINOR {
            return Err(InitError::Version { major: body.major, minor: body.minor });
        }
        let flags = flags_of(body.flags, body.flags2);
        Ok(Self { unique: header.unique, minor: body.minor, max_readahead: body.max_readahead, flags })
    }
}

/// Chooses from what the kernel offers. `page` is the size of a memory page in bytes.
pub fn negotiate(offer: &InitRequest, features: KernelFeatures, page: u32) -> Negotiated {
    let flags = offer.flags & features.0 & WANTED;
    Negotiated {
        minor: offer.minor.min(NEWEST_MINOR),
        flags,
        max_readahead: offer.max_readahead,
        max_write: MAX_REQUEST,
        max_stack_depth: if flags.contains(InitFlags::FUSE_PASSTHROUGH) { STACK_DEPTH } else { 0 },
        max_pages: u16::try_from(MAX_REQUEST / page.max(1)).unwrap_or(u16::MAX).max(1),
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION_THRESHOLD,
        numbering: Numbering::BY_IMAGE,
    }
}

/// What a connection agreed on with the kernel, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Minor protocol version in use; the major one is 7.
    pub minor: u32,
    /// Capabilities in use.
    pub flags: InitFlags,
    /// Read-ahead in bytes as of the handshake; the mount's own setting comes after it.
    pub max_readahead: u32,
    /// Bytes of one WRITE at most: what a reader of the device must have room for besides headers.
    pub max_write: u32,
    /// File systems that may be stacked below this one; not 0 only with `PASSTHROUGH`.
    pub max_stack_depth: u32,
    /// Pages of one request at most.
    pub max_pages: u16,
    /// Background requests under way at most.
    pub max_background: u16,
    /// Background requests at which the kernel calls the device congested.
    pub congestion_threshold: u16,
    /// What the kernel is told of inodes, by whoever serves the mount.
    pub numbering: Numbering,
}

impl Negotiated {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = size_of::<Carried>();

    /// Whether the kernel sends again, on demand, the requests that a dead process had taken.
    pub fn can_resend(&self) -> bool {
        self.flags.contains(InitFlags::FUSE_HAS_RESEND)
    }

    /// Whether OPEN is answered, and files may be handed to the kernel.
    pub fn has_passthrough(&self) -> bool {
        self.flags.contains(InitFlags::FUSE_PASSTHROUGH)
    }

    /// The answer to the kernel's request number `unique`.
    pub fn reply(&self, unique: u64) -> Vec<u8> {
        let (low, high) = halves(self.flags);
        let header = OutHeader { len: len_of::<InitReplyMessage>(), error: 0, unique };
        let body = InitOut {
            major: MAJOR,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags: low,
            max_background: self.max_background,
            congestion_threshold: self.congestion_threshold,
            max_write: self.max_write,
            time_gran: 1,
            max_pages: self.max_pages,
            flags2: high,
            max_stack_depth: self.max_stack_depth,
            ..InitOut::default()
        };
        InitReplyMessage { header, body }.as_bytes().to_vec()
    }

    /// A FUSE_INIT in which a kernel offers exactly what was agreed.
    pub fn synthetic_request(&self) -> Vec<u8> {
        // INIT_EXT is about the layout of this very message.
        let (flags, flags2) = halves(self.flags | InitFlags::FUSE_INIT_EXT);
        let header = InHeader {
            len: len_of::<InitRequestMessage>(),
            opcode: OPCODE_INIT,
            unique: SYNTHETIC_UNIQUE,
            ..InHeader::default()
        };
        let body = InitIn {
            major: MAJOR,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags,
            flags2,
            ..InitIn::default()
        };
        InitRequestMessage { header, body }.as_bytes().to_vec()
    }

    /// Whether the answer to [`Self::synthetic_request`] rests on nothing that the kernel does not give.
    ///
    /// Its limits may be higher than the agreed ones: the kernel keeps to those.
    pub fn check_reply(&self, bytes: &[u8]) -> Result<(), InitError> {
        let (header, _) = OutHeader::read_from_prefix(bytes).map_err(|_| InitError::Short(bytes.len()))?;
        if header.error != 0 {
            return Err(InitError::Refused(header.error.wrapping_neg()));
        }
        let message = InitReplyMessage::read_from_bytes(bytes).map_err(|_| InitError::Short(bytes.len()))?;
        let body = message.body;
        if body.major != MAJOR || body.minor < self.minor {
            return Err(InitError::Version { major: body.major, minor: body.minor });
        }
        if body.max_write < self.max_write {
            return Err(InitError::Room { has: body.max_write, needs: self.max_write });
        }
        let flags = flags_of(body.flags, body.flags2);
        let extra = flags.difference(self.flags | InitFlags::FUSE_INIT_EXT);
        if extra.is_empty() { Ok(()) } else { Err(InitError::NotAgreed(extra)) }
    }

    /// For another process, of this version or a later one.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        zerocopy::transmute!(Carried {
            format: Carried::FORMAT.into(),
            minor: self.minor.into(),
            flags: self.flags.bits().into(),
            max_readahead: self.max_readahead.into(),
            max_write: self.max_write.into(),
            max_stack_depth: self.max_stack_depth.into(),
            max_pages: self.max_pages.into(),
            max_background: self.max_background.into(),
            congestion_threshold: self.congestion_threshold.into(),
            numbering: self.numbering.0.into(),
        })
    }

    /// Back from [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InitError> {
        let carried = Carried::read_from_bytes(bytes).map_err(|_| InitError::Short(bytes.len()))?;
        if carried.format != Carried::FORMAT {
            return Err(InitError::Format(carried.format.get()));
        }
        Ok(Self {
            minor: carried.minor.get(),
            flags: InitFlags::from_bits_retain(carried.flags.get()),
            max_readahead: carried.max_readahead.get(),
            max_write: carried.max_write.get(),
            max_stack_depth: carried.max_stack_depth.get(),
            max_pages: carried.max_pages.get(),
            max_background: carried.max_background.get(),
            congestion_threshold: carried.congestion_threshold.get(),
            numbering: Numbering(carried.numbering.get()),
        })
    }
}

/// The bytes of [`Negotiated::to_bytes`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Carried {
    format: U32,
    minor: U32,
    flags: U64,
    max_readahead: U32,
    max_write: U32,
    max_stack_depth: U32,
    max_pages: U16,
    max_background: U16,
    congestion_threshold: U16,
    numbering: U16,
}

impl Carried {
    const FORMAT: u32 = 1;
}

/// A handshake that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// A message is cut off, or longer than it says.
    #[error("FUSE handshake: a message of {0} bytes is not of the length it should have")]
    Short(usize),
    /// The first request of a connection is something else.
    #[error("FUSE handshake: the first request has opcode {0}, not FUSE_INIT")]
    NotInit(u32),
    /// The other side is too old, or of another world.
    #[error(
        "FUSE handshake: protocol {major}.{minor} is not usable (7.{OLDEST_MINOR}, Linux 5.4, or later is)"
    )]
    Version {
        /// Offered major version.
        major: u32,
        /// Offered minor version.
        minor: u32,
    },
    /// The file system declined to start; the number is an errno.
    #[error("FUSE handshake: the file system refused with errno {0}")]
    Refused(i32),
    /// The serving side cannot take the longest request.
    #[error("FUSE handshake: room for writes of {has} bytes, but {needs} were agreed with the kernel")]
    Room {
        /// Bytes it can take.
        has: u32,
        /// Bytes that may come.
        needs: u32,
    },
    /// The serving side counts on capabilities that this connection lacks.
    #[error("FUSE handshake: {0:?} is asked for but was not agreed with the kernel")]
    NotAgreed(InitFlags),
    /// Written by a version of this program that knows more.
    #[error("FUSE handshake: unknown format {0} of a connection's record")]
    Format(u32),
    /// Mounted by a version of this program that numbers inodes in another way.
    #[error("the mount has inode numbers of kind {0}, which this version does not know")]
    Numbering(u16),
}

fn flags_of(low: u32, high: u32) -> InitFlags {
    let flags = InitFlags::from_bits_retain(low.into());
    if flags.contains(InitFlags::FUSE_INIT_EXT) {
        flags | InitFlags::from_bits_retain(u64::from(high) << 32)
    } else {
        flags
    }
}

#[allow(clippy::cast_possible_truncation)] // to take the two halves is the point
fn halves(flags: InitFlags) -> (u32, u32) {
    (flags.bits() as u32, (flags.bits() >> 32) as u32)
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
