//! Byte layout of the launch index, version 1. All integers are little-endian and unaligned.
//!
//! ```text
//! header, 64 bytes
//!    0  8  magic "JAUNTIDX"
//!    8  4  version = 1
//!   12  4  number of sections
//!   16  8  length of the whole file in bytes
//!   24 32  BLAKE3 of everything behind the header
//!   56  8  zero
//! section table, 24 bytes a section, in the order of `Section`, each once
//!    0  4  section number       4  4  bytes per element
//!    8  8  offset in the file  16  8  length in bytes
//! sections, one behind the other
//! ```
//!
//! Inodes and dentries are stored by column: equal neighbours compress well, and a lookup touches only the
//! columns it needs. A dentry's name is `names[name_end[i-1]..name_end[i]]`; the dentries of directory `d`
//! are `dir_first[d]..dir_first[d+1]`, sorted by name bytes, then by first layer. Directory 0 is the holder of
//! the root: its only name is empty. `inode_data` depends on the type: regular file: tar offset; sparse
//! file: offset in `heap` of its extents; symbolic link: offset in `heap` of its target; directory:
//! number of its directory; device: major << 32 | minor.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 8] = *b"JAUNTIDX";
pub(super) const VERSION: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 8],
    pub version: U32,
    pub sections: U32,
    pub file_len: U64,
    pub checksum: [u8; 32],
    pub zero: [u8; 8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SectionRecord {
    pub section: U32,
    pub element_len: U32,
    pub offset: U64,
    pub len: U64,
}

/// The sections, in file order; the discriminant is the section number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Section {
    Layers,
    Spans,
    Attributes,
    InodeAttributes,
    InodeLayer,
    InodeLinks,
    InodeSeconds,
    InodeNanoseconds,
    InodeSize,
    InodeData,
    DirFirst,
    DirDentry,
    DentryNameEnd,
    DentryInode,
    DentryFirstLayer,
    DentryHiddenFrom,
    Names,
    Heap,
}

pub(super) const SECTIONS: usize = Section::Heap as usize + 1;
pub(super) const HEADER_LEN: usize = size_of::<Header>();
pub(super) const TABLE_LEN: usize = SECTIONS * size_of::<SectionRecord>();

impl Section {
    pub const ALL: [Self; SECTIONS] = [
        Self::Layers,
        Self::Spans,
        Self::Attributes,
        Self::InodeAttributes,
        Self::InodeLayer,
        Self::InodeLinks,
        Self::InodeSeconds,
        Self::InodeNanoseconds,
        Self::InodeSize,
        Self::InodeData,
        Self::DirFirst,
        Self::DirDentry,
        Self::DentryNameEnd,
        Self::DentryInode,
        Self::DentryFirstLayer,
        Self::DentryHiddenFrom,
        Self::Names,
        Self::Heap,
    ];

    /// Bytes per element.
    pub const fn element_len(self) -> usize {
        match self {
            Self::Layers => size_of::<LayerRecord>(),
            Self::Spans => size_of::<SpanRecord>(),
            Self::Attributes => size_of::<AttributesRecord>(),
            Self::InodeLayer | Self::DentryFirstLayer | Self::DentryHiddenFrom => size_of::<U16>(),
            Self::InodeSeconds | Self::InodeSize | Self::InodeData => size_of::<U64>(),
            Self::InodeAttributes
            | Self::InodeLinks
            | Self::InodeNanoseconds
            | Self::DirFirst
            | Self::DirDentry
            | Self::DentryNameEnd
            | Self::DentryInode => size_of::<U32>(),
            Self::Names | Self::Heap => 1,
        }
    }
}

/// One layer, bottom to top. Digests are raw SHA-256.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LayerRecord {
    pub diff_id: [u8; 32],
    pub original_digest: [u8; 32],
    pub converted_digest: [u8; 32],
    pub original_len: U64,
    pub converted_len: U64,
    pub tar_len: U64,
    /// Bytes of regular files when unpacked.
    pub content_len: U64,
    pub first_span: U32,
    pub spans: U32,
    /// Files, directories and links when unpacked.
    pub inodes: U32,
    pub original_compression: u8,
    pub converted_compression: u8,
    pub digest_scope: u8,
    pub zero: u8,
}

/// One span; those of a layer are neighbours and cover its tar from 0 to its end without a gap.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SpanRecord {
    pub blob_offset: U64,
    pub tar_offset: U64,
    pub compressed_len: U32,
    pub tar_len: U32,
    pub digest: [u8; 32],
}

/// A set of attributes that many inodes share.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AttributesRecord {
    /// Permission bits and the file type, as in `st_mode`.
    pub mode: U32,
    pub uid: U32,
    pub gid: U32,
    /// 0: none. Else 1 + the offset in `heap` of: u16 count, then per xattr u16 name length, u32 value length,
    /// name, value; sorted by name.
    pub xattrs: U32,
}

/// One stretch of a sparse file, in `heap` behind a u32 count, sorted by file offset.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentRecord {
    pub file_offset: U64,
    pub tar_offset: U64,
    pub len: U64,
}

/// File type bits of `st_mode`. A sparse file is told from a regular one by a type that Linux leaves free.
pub(super) mod file_type {
    pub const MASK: u32 = 0o170_000;
    pub const FIFO: u32 = 0o010_000;
    pub const CHAR_DEVICE: u32 = 0o020_000;
    pub const DIRECTORY: u32 = 0o040_000;
    pub const BLOCK_DEVICE: u32 = 0o060_000;
    pub const REGULAR: u32 = 0o100_000;
    pub const SPARSE: u32 = 0o110_000;
    pub const SYMLINK: u32 = 0o120_000;
}
