//! Cutting a range of a file into what the tar holds of it and the holes between.

use std::ops::Range;

use jaunt_formats::SparseExtent;

/// A stretch of a read: bytes of the layer's tar, or zeros of a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    Tar(Range<u64>),
    Zeros(u64),
}

/// The stretches of `range`, in order; `extents` are sorted and do not overlap.
pub(super) fn stretches(extents: &[SparseExtent], range: Range<u64>) -> Vec<Stretch> {
    let mut cut = Vec::new();
    let mut at = range.start;
    for extent in extents {
        let (start, end) = (extent.file_offset.max(at), (extent.file_offset + extent.len).min(range.end));
        if start >= end {
            continue;
        }
        if start > at {
            cut.push(Stretch::Zeros(start - at));
        }
        let tar = extent.tar_offset.0 + (start - extent.file_offset);
        cut.push(Stretch::Tar(tar..tar + (end - start)));
        at = end;
    }
    if at < range.end {
        cut.push(Stretch::Zeros(range.end - at));
    }
    cut
}

#[cfg(test)]
mod tests {
    use jaunt_formats::TarOffset;

    use super::*;

    #[test]
    fn holes_read_as_zeros() {
        let extent = |file_offset, tar, len| SparseExtent { file_offset, tar_offset: TarOffset(tar), len };
        let file = [extent(0, 1000, 10), extent(20, 1010, 10)];
        let cases: [(Range<u64>, &[Stretch]); 5] = [
            (0..5, &[Stretch::Tar(1000..1005)]),
            (5..25, &[Stretch::Tar(1005..1010), Stretch::Zeros(10), Stretch::Tar(1010..1015)]),
            (12..18, &[Stretch::Zeros(6)]),
            (25..40, &[Stretch::Tar(1015..1020), Stretch::Zeros(10)]),
            (40..40, &[]),
        ];
        for (range, want) in cases {
            assert_eq!(stretches(&file, range.clone()), want, "{range:?}");
        }
    }
}
