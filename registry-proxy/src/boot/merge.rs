//! From traces of several starts to what most of them touch, in the order in which they do.
//!
//! Counted by pages of 4 KiB of a file. A page that at least half of the starts touched is wanted; wanted pages stand in the
//! order of their median place. A file that the image does not have (any more) is left out; one whose content has changed keeps
//! the same range.

use std::collections::{BTreeMap, HashMap, HashSet};

use jaunt_formats::TarOffset;
use jaunt_formats::boot::{Extent, Trace};
use jaunt_formats::launch::{FileContent, InodeType, LaunchIndex};

use crate::error::Error;

const PAGE: u64 = 4096;
/// Pages of all traces together, of which memory is needed for each.
pub const MAX_PAGES: usize = 1 << 20;
/// Pages that one trace may name: one that starts told of names no page often.
const MAX_NAMED: usize = 2 * MAX_PAGES;

type Index = LaunchIndex<Vec<u8>>;

/// What a pack is to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In order of first touch.
    pub extents: Vec<Extent>,
    /// Files that they are of.
    pub files: usize,
    /// Paths that traces name.
    pub paths: usize,
    /// Those of them that the image has no regular file of.
    pub absent: usize,
    /// Bytes that few starts touched, or that were beyond the limit.
    pub left_out: u64,
}

impl Wanted {
    /// Bytes of it.
    pub fn content_len(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }
}

/// A page that some starts touched.
struct Page {
    len: u32,
    file: usize,
    /// In which place each start did.
    places: Vec<usize>,
}

/// Merges traces into what is wanted of an image, at most `limit` bytes.
pub fn merge(index: &Index, traces: &[Trace], limit: u64) -> Result<Wanted, Error> {
    let (mut files, mut pages) = (HashMap::new(), BTreeMap::<(u16, u64), Page>::new());
    let mut absent = HashSet::new();
    for trace in traces {
        let (mut seen, mut named) = (HashSet::new(), 0);
        for (place, touch) in trace.touches.iter().enumerate() {
            let number = files.len();
            let known = files.entry(touch.path.as_str());
            let (file, content) = known.or_insert_with(|| (number, find(index, &touch.path)));
            let Some(content) = content else {
                absent.insert(touch.path.as_str());
                continue;
            };
            for (at, len) in pages_of(content, touch.offset, touch.len) {
                let key = (content.layer, at);
                if seen.insert(key) {
                    let page = Page { len, file: *file, places: Vec::new() };
                    pages.entry(key).or_insert(page).places.push(place);
                }
                named += 1;
                if pages.len() > MAX_PAGES || named > MAX_NAMED {
                    return Err(Error::TooManyTouches(MAX_PAGES as u64 * PAGE));
                }
            }
        }
    }
    let (paths, absent) = (files.len(), absent.len());
    Ok(Wanted { paths, absent, ..choose(pages, traces.len(), limit) })
}

/// Pages that a trace names of an image, counted no further than `limit`; the same page twice counts twice.
pub fn named(index: &Index, trace: &Trace, limit: usize) -> usize {
    let (mut files, mut named) = (HashMap::new(), 0);
    for touch in &trace.touches {
        let known = files.entry(touch.path.as_str()).or_insert_with(|| find(index, &touch.path));
        let pages = known.iter().flat_map(|content| pages_of(content, touch.offset, touch.len));
        named += pages.take(limit.saturating_sub(named)).count();
    }
    named
}

/// The content of a regular file of the whole image, by its path.
pub fn find(index: &Index, path: &str) -> Option<FileContent> {
    let view = index.view(u16::try_from(index.layers().len()).ok()?)?;
    let names = path.split('/').filter(|name| !name.is_empty());
    let mut at = view.root().ok()?;
    for name in names {
        at = view.lookup(at, name.as_bytes()).ok()??;
    }
    (index.attributes(at).ok()?.kind == InodeType::Regular).then(|| index.content(at).ok())?
}

/// Where in the tar the pages are that a range of a file touches, and how long they are.
fn pages_of(content: &FileContent, offset: u64, len: u64) -> impl Iterator<Item = (u64, u32)> {
    let (start, end) = (offset / PAGE * PAGE, offset.saturating_add(len).min(content.size));
    let end = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let reached = content.extents.partition_point(|extent| extent.file_offset + extent.len <= start);
    let touched = content.extents[reached..].iter().take_while(move |extent| extent.file_offset < end);
    touched.flat_map(move |extent| {
        let of_file = extent.file_offset.max(start)..(extent.file_offset + extent.len);
        let first = of_file.start / PAGE;
        let last = of_file.end.min(end).div_ceil(PAGE).max(first);
        (first..last).filter_map(move |page| {
            let from = (page * PAGE).max(extent.file_offset);
            let to = (page + 1).saturating_mul(PAGE).min(extent.file_offset + extent.len);
            let len = u32::try_from(to.checked_sub(from)?).ok().filter(|len| *len > 0)?;
            Some((extent.tar_offset.0 + (from - extent.file_offset), len))
        })
    })
}

fn choose(pages: BTreeMap<(u16, u64), Page>, traces: usize, limit: u64) -> Wanted {
    let mut wanted = Wanted::default();
    let mut chosen = Vec::new();
    for ((layer, start), mut page) in pages {
        if 2 * page.places.len() < traces {
            wanted.left_out += u64::from(page.len);
            continue;
        }
        page.places.sort_unstable();
        chosen.push((page.places[(page.places.len() - 1) / 2], layer, start, page.len, page.file));
    }
    chosen.sort_unstable();
    let (mut files, mut total) = (HashSet::new(), 0);
    for (_, layer, start, len, file) in chosen {
        if total + u64::from(len) > limit {
            wanted.left_out += u64::from(len);
            continue;
        }
        total += u64::from(len);
        files.insert(file);
        match wanted.extents.last_mut() {
            Some(last) if last.layer == layer && last.tar_range().end == start => last.len += len,
            _ => wanted.extents.push(Extent { layer, tar_offset: TarOffset(start), len }),
        }
    }
    wanted.files = files.len();
    wanted
}

#[cfg(test)]
mod tests {
    use jaunt_formats::SparseExtent;

    use super::*;

    #[test]
    fn pages_are_those_of_the_file_and_end_with_it() {
        let extent = |file_offset, tar, len| SparseExtent { file_offset, tar_offset: TarOffset(tar), len };
        let whole = FileContent { layer: 0, size: 10_000, extents: vec![extent(0, 512, 10_000)] };
        let pages = |content: &FileContent, offset, len| pages_of(content, offset, len).collect::<Vec<_>>();
        assert_eq!(pages(&whole, 0, 1), [(512, 4096)]);
        assert_eq!(pages(&whole, 4095, 2), [(512, 4096), (512 + 4096, 4096)]);
        assert_eq!(pages(&whole, 9999, u64::MAX), [(512 + 8192, 10_000 - 8192)]);
        assert_eq!(pages(&whole, 20_000, 5), []);
        let sparse = FileContent {
            layer: 0,
            size: 20_000,
            extents: vec![extent(1000, 0, 10), extent(15_000, 10, 4000)],
        };
        assert_eq!(pages(&sparse, 0, 20_000), [(0, 10), (10, 1384), (1394, 2616)]);
        assert_eq!(pages(&sparse, 5000, 100), []);
        assert_eq!(pages(&sparse, 1020, 1), [(0, 10)]);
        let far = FileContent { layer: 0, size: u64::MAX, extents: vec![extent(u64::MAX - 10, 0, 10)] };
        assert_eq!(pages(&far, 0, u64::MAX), [(0, 10)]);
    }

    #[test]
    fn what_most_starts_touch_is_wanted_in_median_order_up_to_the_limit() {
        let page = |places: &[usize]| Page { len: 4096, file: 0, places: places.to_vec() };
        let pages = || {
            BTreeMap::from([
                ((0, 0), page(&[9, 9, 9])),
                ((0, 4096), page(&[9, 10])),
                ((0, 8192), page(&[1])),
                ((1, 0), page(&[0, 1, 50])),
            ])
        };
        let extent = |layer, offset, len| Extent { layer, tar_offset: TarOffset(offset), len };
        let wanted = choose(pages(), 3, u64::MAX);
        assert_eq!(wanted.extents, [extent(1, 0, 4096), extent(0, 0, 8192)]);
        assert_eq!((wanted.files, wanted.left_out), (1, 4096));
        let wanted = choose(pages(), 3, 8192);
        assert_eq!(wanted.extents, [extent(1, 0, 4096), extent(0, 0, 4096)]);
        assert_eq!(wanted.left_out, 8192);
    }
}
