//! Finding inodes of some kinds without looking at the others.

use zerocopy::FromBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::layout::{AttributesRecord, Section, file_type};
use super::{InodeId, LaunchIndex};

impl<B: AsRef<[u8]>> LaunchIndex<B> {
    /// The inodes of this size and larger, whatever they are. Reads one column: half a mebibyte for 65,536 inodes.
    pub fn inodes_of_at_least(&self, size: u64) -> impl Iterator<Item = InodeId> + '_ {
        let sizes = <[U64]>::ref_from_bytes(self.column(Section::InodeSize)).unwrap_or_default();
        let large = sizes.iter().zip(0u32..).filter(move |(own, _)| own.get() >= size);
        large.map(|(_, inode)| InodeId(inode))
    }

    /// The inodes that have extended attributes, or content in several stretches. Reads the sets of attributes and, where
    /// any of them says so, one column.
    pub fn inodes_out_of_the_ordinary(&self) -> impl Iterator<Item = InodeId> + '_ {
        let sets = <[AttributesRecord]>::ref_from_bytes(self.column(Section::Attributes)).unwrap_or_default();
        let is_so = |set: &AttributesRecord| {
            set.xattrs.get() != 0 || set.mode.get() & file_type::MASK == file_type::SPARSE
        };
        let column = if sets.iter().any(is_so) { self.column(Section::InodeAttributes) } else { &[] };
        let numbers = <[U32]>::ref_from_bytes(column).unwrap_or_default();
        let found = numbers
            .iter()
            .zip(0u32..)
            .filter(move |(set, _)| sets.get(set.get() as usize).is_some_and(is_so));
        found.map(|(_, inode)| InodeId(inode))
    }

    /// Which set of attributes an inode has: those of the same set have the same extended attributes.
    pub fn attribute_set(&self, inode: InodeId) -> Option<u32> {
        let numbers = <[U32]>::ref_from_bytes(self.column(Section::InodeAttributes)).unwrap_or_default();
        numbers.get(inode.0 as usize).map(|set| set.get())
    }
}
