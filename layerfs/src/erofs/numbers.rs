//! Inode numbers: places in an image, and therefore what `stat` shows. They follow from the inode's number in the launch
//! index, so a chain that is not complete yet, and has no image, is served under the same numbers.
//!
//! ```text
//! bytes 0    nothing: 0 is no inode's number
//!       32   the mount's root: 1
//!      512   inode n of the index, 128 bytes each: 16 + 4 n
//!     then   those that do not fit into 128 bytes with their extended attributes and chunks, in the order of the index
//! ```
//!
//! Invariant: a kernel keeps the numbers of a FUSE mount that outlives the daemon which gave them out, and asks the next
//! one by them. So these never change for a mount that exists.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jaunt_formats::launch::{InodeId, InodeType, LaunchIndex};

use super::devices::Shape;
use super::layout::{BLOCK, CHUNK_LEN, INODE_LEN, SLOT};
use super::{ImageError, xattrs};

/// What an inode has in its place, with what follows it.
pub(super) const ROOM: u64 = 128;
/// Where the mount's root is, and its room.
pub(super) const ROOT: Nid = Nid(1);
pub(super) const ROOT_ROOM: u64 = BLOCK - SLOT;
const FIRST: u64 = BLOCK / SLOT;
const STEP: u64 = ROOM / SLOT;
/// A file of less than this is one chunk.
const CHUNK_MAX: u64 = 1 << 40;

/// An inode's number in its image, in units of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nid(pub u64);

/// The numbers of all inodes of an index, of whichever of its layers.
#[derive(Debug)]
pub struct Numbers {
    count: u32,
    /// Those that lie behind the others, by both.
    large: Vec<(InodeId, Nid)>,
}

impl Numbers {
    /// Those of an index. Looks at inodes with extended attributes, sparse ones and huge ones alone.
    pub fn of<B: AsRef<[u8]>>(index: &LaunchIndex<B>) -> Self {
        let count = u32::try_from(index.inode_count()).unwrap_or(u32::MAX);
        let mut unusual: Vec<InodeId> =
            index.inodes_out_of_the_ordinary().chain(index.inodes_of_at_least(CHUNK_MAX)).collect();
        unusual.sort_unstable();
        unusual.dedup();
        let mut next = FIRST + STEP * u64::from(count);
        let (mut large, mut xattr_lens) = (Vec::new(), HashMap::new());
        for inode in unusual {
            // What cannot be told keeps its usual number: there will be no image.
            let len = needed(index, inode, &mut xattr_lens).unwrap_or(INODE_LEN);
            if len > ROOM {
                large.push((inode, Nid(next)));
                next += len.next_multiple_of(INODE_LEN) / SLOT;
            }
        }
        Self { count, large }
    }

    /// An inode's number.
    pub fn nid(&self, inode: InodeId) -> Nid {
        let usual = Nid(FIRST + STEP * u64::from(inode.0));
        self.large(inode).unwrap_or(usual)
    }

    /// The inode behind a number; none behind that of the mount's root.
    pub fn inode(&self, nid: Nid) -> Option<InodeId> {
        let (number, rest) = (nid.0.checked_sub(FIRST)? / STEP, nid.0.checked_sub(FIRST)? % STEP);
        match u32::try_from(number).ok().filter(|&number| number < self.count) {
            Some(number) => Some(InodeId(number)).filter(|&inode| rest == 0 && self.large(inode).is_none()),
            None => {
                let at = self.large.binary_search_by_key(&nid, |(_, nid)| *nid).ok()?;
                self.large.get(at).map(|(inode, _)| *inode)
            }
        }
    }

    /// The number of an inode that needs more room than others have.
    pub(super) fn large(&self, inode: InodeId) -> Option<Nid> {
        let at = self.large.binary_search_by_key(&inode, |(inode, _)| *inode).ok()?;
        self.large.get(at).map(|(_, nid)| *nid)
    }
}

/// Bytes of an inode with what has no other place: its extended attributes, and a file's chunks.
pub(super) fn core_len(xattr_len: u64, chunks: u64) -> u64 {
    let len = INODE_LEN + xattr_len;
    if chunks == 0 { len } else { len.next_multiple_of(CHUNK_LEN) + chunks * CHUNK_LEN }
}

/// What an inode needs; `xattr_lens` has what is known already of its set of attributes.
fn needed<B: AsRef<[u8]>>(
    index: &LaunchIndex<B>,
    inode: InodeId,
    xattr_lens: &mut HashMap<Option<u32>, u64>,
) -> Result<u64, ImageError> {
    let attributes = index.attributes(inode)?;
    let chunks = match attributes.kind {
        InodeType::Regular if attributes.size > 0 => Shape::of(&index.content(inode)?)?.count,
        _ => 0,
    };
    let xattr_len = match xattr_lens.entry(index.attribute_set(inode)) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(new) => *new.insert(xattrs::encode(&index.xattrs(inode)?)?.len() as u64),
    };
    Ok(core_len(xattr_len, chunks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_back_to_its_inode() {
        // Behind the usual ones of ten inodes, 7 with 192 bytes and 9 with 64 KiB.
        let large = vec![(InodeId(7), Nid(16 + 40)), (InodeId(9), Nid(16 + 40 + 6))];
        let numbers = Numbers { count: 10, large };
        assert_eq!((numbers.nid(InodeId(0)), numbers.nid(InodeId(8))), (Nid(16), Nid(16 + 32)));
        for inode in (0..10).map(InodeId) {
            assert_eq!(numbers.inode(numbers.nid(inode)), Some(inode));
        }
        for none in [0, 1, 15, 17, 19, 16 + 28, 16 + 36, 16 + 41, 16 + 47, u64::MAX] {
            assert_eq!(numbers.inode(Nid(none)), None, "{none}");
        }
        assert_eq!(core_len(0, 0), 64);
        assert_eq!(core_len(52, 1), 128);
        assert_eq!(core_len(60, 1), 136);
    }
}
