//! EROFS on disk, as far as it is written here (Linux: `fs/erofs/erofs_fs.h`). Integers are little-endian.
//!
//! ```text
//! 0        1024 bytes, zero
//! 1024     super block (128), device table (128 for each device), zeros to the end of the block
//! base     inodes where their numbers say ([`super::Numbers`]), each followed by its extended attributes and then by its
//!          chunks, or by what is inline: a small directory, a short symbolic link. An inode's number is its position
//!          behind `base` in units of 32 bytes.
//! then     blocks of larger directories and longer symbolic links
//! ```
//!
//! Blocks have 512 bytes, which is what content in a tar is aligned to. A file is one chunk that covers all of it and
//! lies in another device: a file of the store. Neither an inode's first 64 bytes nor anything inline crosses a block.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Blocks of 2^9 bytes.
pub(super) const BLOCK_BITS: u8 = 9;
pub(super) const BLOCK: u64 = 1 << BLOCK_BITS;
/// The unit of inode numbers.
pub(super) const SLOT: u64 = 32;
pub(super) const SUPER_OFFSET: u64 = 1024;
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;
/// The super block has a checksum; times are modification times.
pub(super) const COMPATIBLE: u32 = 0x1 | 0x2;
pub(super) const CHUNKED_FILE: u32 = 0x4;
pub(super) const DEVICE_TABLE: u32 = 0x8;
/// A chunk of zeros.
pub(super) const HOLE: u32 = u32::MAX;
/// Chunks have at most 2^31 blocks.
pub(super) const MAX_CHUNK_BITS: u8 = 31;

pub(super) const INODE_LEN: u64 = size_of::<Inode>() as u64;
pub(super) const DEVICE_LEN: u64 = size_of::<Device>() as u64;
pub(super) const DIRENT_LEN: usize = size_of::<Dirent>();
pub(super) const CHUNK_LEN: u64 = size_of::<Chunk>() as u64;
pub(super) const DEVICES_OFFSET: u64 = SUPER_OFFSET + size_of::<SuperBlock>() as u64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Default)]
#[repr(C)]
pub(super) struct SuperBlock {
    pub magic: U32,
    /// CRC-32C, not inverted, of the super block's block from 1024 on, this being 0.
    pub checksum: U32,
    pub compatible: U32,
    pub block_bits: u8,
    pub extension_slots: u8,
    pub root: U16,
    pub inodes: U64,
    pub epoch: U64,
    pub fixed_nanoseconds: U32,
    pub blocks: U32,
    pub meta_block: U32,
    pub xattr_block: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub incompatible: U32,
    pub compression: U16,
    pub devices: U16,
    /// In units of a device's record.
    pub device_table: U16,
    pub directory_block_bits: u8,
    pub xattr_prefixes: u8,
    pub xattr_prefix_start: U32,
    pub packed_inode: U64,
    pub xattr_filter: u8,
    pub zero: [u8; 23],
}

/// A device besides the image itself.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Device {
    /// Ours: what it is.
    pub tag: [u8; 64],
    pub blocks: U32,
    pub unified_block: U32,
    pub zero: [u8; 56],
}

/// How content is found: `Inode::format` is twice this, and 1 for the inode of 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum DataLayout {
    Blocks = 0,
    Inline = 2,
    Chunks = 4,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    pub format: U16,
    /// 0: no extended attributes; else 1 and their bytes in units of 4 beyond the 12 of their header.
    pub xattr_units: U16,
    pub mode: U16,
    pub zero: U16,
    pub size: U64,
    /// First block, chunk format or device number.
    pub data: U32,
    pub ino: U32,
    pub uid: U32,
    pub gid: U32,
    pub seconds: U64,
    pub nanoseconds: U32,
    pub nlink: U32,
    pub zero2: [u8; 16],
}

/// In `Inode::data` of a file in chunks: the size of chunks, as a power of two of blocks, and this.
pub(super) const CHUNK_INDEXES: u32 = 0x20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Chunk {
    pub zero: U16,
    /// 0 for the image itself, then in the order of the table.
    pub device: U16,
    pub block: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Dirent {
    pub nid: U64,
    pub name_offset: U16,
    pub file_type: u8,
    pub zero: u8,
}

/// What extended attributes begin with: none of them is shared.
pub(super) const XATTR_HEADER_LEN: usize = 12;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrRecord {
    pub name_len: u8,
    pub name_index: u8,
    pub value_len: U16,
}

const _: () = assert!(size_of::<SuperBlock>() == 128 && size_of::<Device>() == 128);
const _: () = assert!(size_of::<Inode>() == 64 && size_of::<Chunk>() == 8 && DIRENT_LEN == 12);
