//! Finding large files without looking at the others.

use zerocopy::FromBytes as _;
use zerocopy::little_endian::U64;

use super::layout::Section;
use super::{InodeId, LaunchIndex};

impl<B: AsRef<[u8]>> LaunchIndex<B> {
    /// The inodes of this size and larger, whatever they are. Reads one column: half a mebibyte for 65,536 inodes.
    pub fn inodes_of_at_least(&self, size: u64) -> impl Iterator<Item = InodeId> + '_ {
        let sizes = <[U64]>::ref_from_bytes(self.column(Section::InodeSize)).unwrap_or_default();
        let large = sizes.iter().zip(0u32..).filter(move |(own, _)| own.get() >= size);
        large.map(|(_, inode)| InodeId(inode))
    }
}
