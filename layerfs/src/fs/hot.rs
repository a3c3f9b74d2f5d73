//! The files of a chain that its boot pack has something of, in the order in which starts touch them.
//!
//! An index may have many files share one range of a tar, and a pack may cut it as it likes. So the parts that are
//! gathered are bounded, far above what an honest image has. The bytes are so where they are stored (`fuse::push`).

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use jaunt_formats::boot::Extent;
use jaunt_formats::launch::InodeId;

use super::{Ino, LayerFs};

/// A file of which the boot pack has something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HotFile {
    pub(crate) ino: Ino,
    /// Below the chain's root, without a slash at the start.
    pub(crate) path: String,
    /// Whole pages of it, the last of the file maybe shorter; sorted, apart from each other.
    pub(crate) pages: Vec<Range<u64>>,
    /// The pack's frame with which all of them are there.
    pub(crate) frame: usize,
}

/// Parts of files that are gathered for each of the pack's extents, on average. An extent lies in one file, for between two
/// is a tar's header; the others are room for files that share their content.
const PARTS_AN_EXTENT: usize = 4;

/// What the pack has of one file.
#[derive(Default)]
struct Held {
    /// Parts of the file.
    parts: Vec<Range<u64>>,
    frame: usize,
    /// The first of the pack's extents that it is in.
    first: usize,
}

/// An extent, and where it stands in the pack.
struct Placed {
    layer: u16,
    tar: Range<u64>,
    frame: usize,
    first: usize,
}

impl LayerFs {
    /// Those files, given what the pack has in which of its frames. Looks at every inode and every name; what has no name that
    /// is text is left out.
    pub(crate) fn hot_files(&self, extents: &[(usize, Extent)], page: u64) -> Vec<HotFile> {
        let held = self.held(extents, PARTS_AN_EXTENT * extents.len());
        let mut paths = self.paths_of(&held.keys().copied().collect::<HashSet<_>>());
        let mut hot: Vec<_> = held
            .into_iter()
            .filter_map(|(ino, held)| {
                let size = self.attributes(ino).ok()?.size;
                let Held { parts, frame, first } = held;
                let pages = whole_pages(parts, size, page);
                let file = HotFile { ino, path: paths.remove(&ino)?, pages, frame };
                (!file.pages.is_empty()).then_some((first, file))
            })
            .collect();
        hot.sort_unstable_by_key(|(first, file)| (file.frame, *first));
        hot.into_iter().map(|(_, file)| file).collect()
    }

    /// Of the first inodes that have so many parts together.
    fn held(&self, extents: &[(usize, Extent)], mut parts: usize) -> HashMap<Ino, Held> {
        let placed = |(first, (frame, extent)): (usize, &(usize, Extent))| {
            let (layer, tar) = (extent.layer, extent.tar_range());
            Placed { layer, tar, frame: *frame, first }
        };
        let mut placed: Vec<_> = extents.iter().enumerate().map(placed).collect();
        placed.sort_unstable_by_key(|placed| (placed.layer, placed.tar.start));
        let mut all = HashMap::new();
        for inode in self.index().inodes_of_at_least(1) {
            if let Some(held) = self.held_of(inode, &placed, &mut parts) {
                all.insert(self.ino(inode), held);
            }
            if parts == 0 {
                break;
            }
        }
        all
    }

    /// What of a file's content is in `placed`, which is sorted; no more than `left` parts, which it takes from there.
    fn held_of(&self, inode: InodeId, placed: &[Placed], left: &mut usize) -> Option<Held> {
        let content = self.index().content(inode).ok().filter(|content| content.layer < self.prefix())?;
        let mut held = Held { first: usize::MAX, ..Held::default() };
        for part in &content.extents {
            let (start, end) = (part.tar_offset.0, part.tar_offset.0.saturating_add(part.len));
            let from = placed.partition_point(|one| (one.layer, one.tar.end) <= (content.layer, start));
            let here =
                placed[from..].iter().take_while(|one| one.layer == content.layer && one.tar.start < end);
            for one in here.take(*left) {
                *left -= 1;
                let both = one.tar.start.max(start)..one.tar.end.min(end);
                let at = part.file_offset + (both.start - start);
                held.parts.push(at..at + (both.end - both.start));
                held.frame = held.frame.max(one.frame);
                held.first = held.first.min(one.first);
            }
        }
        (!held.parts.is_empty()).then_some(held)
    }
}

/// The whole pages in some parts of a file of this size, in which what adjoins is one.
fn whole_pages(mut parts: Vec<Range<u64>>, size: u64, page: u64) -> Vec<Range<u64>> {
    parts.sort_unstable_by_key(|part| part.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.end >= part.start => last.end = last.end.max(part.end),
            _ => joined.push(part),
        }
    }
    let whole = joined.into_iter().map(|part| {
        let end = if part.end >= size { size } else { part.end / page * page };
        part.start.next_multiple_of(page)..end
    });
    whole.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole_but_for_a_files_last() {
        type Parts<'p> = &'p [(u64, u64)];
        let cases: [(Parts<'_>, u64, Parts<'_>); 6] = [
            (&[(0, 4096)], 9000, &[(0, 4096)]),
            (&[(1, 4096)], 9000, &[]),
            (&[(0, 100), (100, 9000)], 9000, &[(0, 9000)]),
            (&[(8192, 9000), (10, 5000)], 9000, &[(8192, 9000)]),
            (&[(4000, 8200)], 9000, &[(4096, 8192)]),
            (&[(0, 50)], 50, &[(0, 50)]),
        ];
        let ranges = |parts: Parts<'_>| parts.iter().map(|&(start, end)| start..end).collect::<Vec<_>>();
        for (parts, size, want) in cases {
            assert_eq!(whole_pages(ranges(parts), size, 4096), ranges(want), "{parts:?} of {size}");
        }
    }
}
