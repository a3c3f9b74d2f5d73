//! Which files of a layer are large enough for a file of their own.
//!
//! They are what passthrough serves: the kernel then reads the store's file itself, which must hold the content from
//! its first byte on. What is large follows from the layer's entries alone, so images that share a layer agree on
//! it; an index that lies about it names another cut, and shares nothing.

use std::ops::Range;
use std::sync::Arc;

use jaunt_formats::launch::LaunchIndex;

/// Files from this size on: an open file and its inode cost nothing beside a mebibyte, and what is smaller is read
/// faster out of one file.
pub(crate) const LARGE: u64 = 1 << 20;

/// The large files of one layer: tar ranges of their content, in order, none overlapping another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LargeFiles(Arc<[Range<u64>]>);

impl LargeFiles {
    /// Those of each layer of an index.
    pub fn of_layers<B: AsRef<[u8]>>(index: &LaunchIndex<B>) -> Vec<Self> {
        let mut ranges = vec![Vec::new(); index.layers().len()];
        // What has no content, or none that can be found, is not large.
        for content in index.inodes_of_at_least(LARGE).filter_map(|inode| index.content(inode).ok()) {
            if let ([whole], Some(ranges)) =
                (&content.extents[..], ranges.get_mut(usize::from(content.layer)))
                && (whole.file_offset, whole.len) == (0, content.size)
            {
                ranges.push(whole.tar_offset.0..whole.tar_offset.0 + whole.len);
            }
        }
        ranges.into_iter().map(Self::from_ranges).collect()
    }

    /// Of ranges that overlap, the first stays.
    fn from_ranges(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut end = 0;
        ranges.retain(|range| {
            let apart = range.start >= end;
            end = if apart { range.end } else { end };
            apart
        });
        Self(ranges.into())
    }

    /// Their tar ranges.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use jaunt_formats::launch::{self, LaunchLayer};
    use jaunt_formats::tree::TreeBuilder;
    use jaunt_formats::{Content, Entry, EntryKind, EntryPath, SparseExtent, TarOffset, Timestamp};

    use super::*;

    pub(crate) fn large(ranges: &[Range<u64>]) -> LargeFiles {
        LargeFiles::from_ranges(ranges.to_vec())
    }

    fn file(path: &str, size: u64, content: Content) -> Entry {
        let path = EntryPath::parse(path.as_bytes()).unwrap();
        let kind = EntryKind::Regular { size, content };
        Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Vec::new() }
    }

    #[test]
    fn only_whole_files_of_a_mebibyte_and_more_are_large() {
        let at = |offset| Content::Contiguous(TarOffset(offset));
        let hole = SparseExtent { file_offset: 512, tar_offset: TarOffset(0), len: LARGE };
        let lower = vec![
            file("small", LARGE - 1, at(512)),
            file("second", LARGE + 5, at(6 << 20)),
            file("first", LARGE, at(3 << 20)),
            file("liar", 2 * LARGE, at(5 << 20)),
            file("sparse", LARGE + 512, Content::Sparse(vec![hole])),
        ];
        let upper = vec![file("first", LARGE, at(0))];
        let mut tree = TreeBuilder::new();
        tree.push_layer(lower).unwrap();
        tree.push_layer(upper).unwrap();
        let fixture = |len| LaunchLayer { tar_len: len, ..super::super::tests::layer_of_one_span(len) };
        let bytes = launch::write(&[fixture(8 << 20), fixture(1 << 20)], tree.finish()).unwrap();
        let found = LargeFiles::of_layers(&LaunchIndex::open(bytes).unwrap());
        assert_eq!(found[0].ranges(), [(3 << 20)..(4 << 20), (5 << 20)..(7 << 20)]);
        assert_eq!(found[1].ranges().first(), Some(&(0..LARGE)));
    }
}
