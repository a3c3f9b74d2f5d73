//! What a layer's entries weigh in memory: content passes through, entries stay until the layer is done.
//!
//! Headers compress a thousandfold, so without a limit a small blob would fill any memory.

use crate::tar::Member;
use crate::{Content, EntryKind};

/// Bytes that the entries of one layer may weigh: some four million files. The launch index, which has
/// no more than this of a whole image, says the same more tersely.
pub(super) const MAX_METADATA: u64 = 1 << 30;
/// What an entry weighs besides its names, here and in the table of contents.
pub(super) const ENTRY_WEIGHT: u64 = 256;

/// What one entry weighs.
pub(super) fn weight_of(member: &Member) -> u64 {
    let names = member.written.name.len() + member.written.link_name.len();
    let xattrs = member.entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 32);
    let extents = match &member.entry.kind {
        EntryKind::Regular { content: Content::Sparse(extents), .. } => size_of_val(&extents[..]),
        _ => 0,
    };
    ENTRY_WEIGHT + (names + xattrs.sum::<usize>() + extents) as u64
}
