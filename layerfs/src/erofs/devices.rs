//! The files of the store that an image's content lies in, and where a range of a layer's tar is among them.

use std::collections::HashMap;
use std::ops::Range;

use jaunt_formats::SparseExtent;
use jaunt_formats::launch::FileContent;

use super::ImageError;
use super::layout::{BLOCK, BLOCK_BITS, HOLE, MAX_CHUNK_BITS};
use crate::store::LargeFiles;

/// More devices than this are not named: each is a file that is open for as long as the mount lives.
pub(super) const MAX_DEVICES: usize = 8192;
/// More chunks than this a file does not get: 8 MiB of them.
const MAX_CHUNKS: u64 = 1 << 20;

/// A file of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceFile {
    /// The layer, counted from the bottom.
    pub layer: u16,
    /// The range of the tar that the file holds and nothing else, if it is a large file.
    pub large: Option<Range<u64>>,
    /// Its length.
    pub len: u64,
}

/// How a file's content is cut into chunks of so many blocks, a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub bits: u8,
    pub count: u64,
}

impl Shape {
    pub(super) fn of(content: &FileContent) -> Result<Self, ImageError> {
        let blocks = content.size.div_ceil(BLOCK);
        let limit = power(blocks).min(MAX_CHUNK_BITS);
        let bits = if whole(content).is_some() { limit } else { borders(content)?.min(limit) };
        let count = blocks.div_ceil(1 << bits);
        if count > MAX_CHUNKS {
            return Err(ImageError::Unfit("a file of too many stretches"));
        }
        Ok(Self { bits, count })
    }
}

/// Devices in the order of their numbers, the first of which is 1.
pub(super) struct Devices<'l> {
    layers: &'l [(u64, LargeFiles)],
    numbers: HashMap<DeviceFile, u16>,
    files: Vec<DeviceFile>,
}

/// A file's content: chunks of so many blocks, a power of two.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    pub bits: u8,
    /// Device and first block.
    pub list: Vec<(u16, u32)>,
}

impl<'l> Devices<'l> {
    /// Over layers, each with the length of its tar and its large files.
    pub(super) fn new(layers: &'l [(u64, LargeFiles)]) -> Self {
        Self { layers, numbers: HashMap::new(), files: Vec::new() }
    }

    pub(super) fn files(&self) -> &[DeviceFile] {
        &self.files
    }

    /// Where a file's content is. Devices that are met for the first time get numbers.
    pub(super) fn chunks(&mut self, content: &FileContent) -> Result<Chunks, ImageError> {
        let Shape { bits, count } = Shape::of(content)?;
        if let Some(extent) = whole(content) {
            let (device, first) = self.locate(content.layer, extent)?;
            let list = (0..count).map(|chunk| Ok((device, block(u64::from(first) + (chunk << bits))?)));
            return Ok(Chunks { bits, list: list.collect::<Result<_, ImageError>>()? });
        }
        let mut list = vec![(0, HOLE); usize::try_from(count).unwrap_or_default()];
        for extent in content.extents.iter().filter(|extent| extent.len > 0) {
            let (device, first) = self.locate(content.layer, extent)?;
            let start = extent.file_offset >> BLOCK_BITS >> bits;
            let chunks = extent.len.div_ceil(BLOCK).div_ceil(1 << bits);
            for chunk in 0..chunks {
                let place = list.get_mut(usize::try_from(start + chunk).unwrap_or(usize::MAX));
                let place = place.ok_or(ImageError::Malformed("a file's content lies behind its end"))?;
                *place = (device, block(u64::from(first) + (chunk << bits))?);
            }
        }
        Ok(Chunks { bits, list })
    }

    /// Device and first block of a stretch of content.
    fn locate(&mut self, layer: u16, extent: &SparseExtent) -> Result<(u16, u32), ImageError> {
        let (start, end) = (extent.tar_offset.0, extent.tar_offset.0.saturating_add(extent.len));
        let (tar_len, large) = self
            .layers
            .get(usize::from(layer))
            .ok_or(ImageError::Malformed("content of a layer above the mounted ones"))?;
        if end > *tar_len {
            return Err(ImageError::Malformed("content lies outside its layer"));
        }
        let next = large.ranges().partition_point(|large| large.end <= start);
        let (file, offset) = match large.ranges().get(next) {
            Some(own) if own.start <= start && end <= own.end => {
                let len = own.end - own.start;
                (DeviceFile { layer, large: Some(own.clone()), len }, start - own.start)
            }
            Some(own) if own.start < end => {
                return Err(ImageError::Unfit("files that share a part of their content"));
            }
            _ => (DeviceFile { layer, large: None, len: *tar_len }, start),
        };
        if offset % BLOCK != 0 {
            return Err(ImageError::Unfit("content that does not begin with a block"));
        }
        block(file.len.div_ceil(BLOCK))?;
        Ok((self.number(file)?, block(offset >> BLOCK_BITS)?))
    }

    fn number(&mut self, file: DeviceFile) -> Result<u16, ImageError> {
        if let Some(&number) = self.numbers.get(&file) {
            return Ok(number);
        }
        let number = u16::try_from(self.files.len() + 1).ok().filter(|_| self.files.len() < MAX_DEVICES);
        let number = number.ok_or(ImageError::Unfit("more than 8192 large files"))?;
        self.files.push(file.clone());
        self.numbers.insert(file, number);
        Ok(number)
    }
}

/// The one stretch that is all of a file.
fn whole(content: &FileContent) -> Option<&SparseExtent> {
    match &content.extents[..] {
        [whole] if (whole.file_offset, whole.len) == (0, content.size) => Some(whole),
        _ => None,
    }
}

/// The power of two of blocks with which every stretch of a sparse file begins and ends.
fn borders(content: &FileContent) -> Result<u8, ImageError> {
    let mut borders = 0;
    for extent in content.extents.iter().filter(|extent| extent.len > 0) {
        let end = extent.file_offset + extent.len;
        borders |= extent.file_offset | if end == content.size { 0 } else { end };
    }
    if borders % BLOCK != 0 {
        return Err(ImageError::Unfit("a sparse file whose stretches are not whole blocks"));
    }
    Ok(u8::try_from((borders >> BLOCK_BITS).trailing_zeros()).unwrap_or(u8::MAX))
}

/// The smallest power of two that is at least `blocks`.
fn power(blocks: u64) -> u8 {
    let bits = u64::BITS - blocks.saturating_sub(1).leading_zeros();
    u8::try_from(bits).unwrap_or(u8::MAX)
}

/// A block's number, short of the one that means a hole.
fn block(number: u64) -> Result<u32, ImageError> {
    u32::try_from(number)
        .ok()
        .filter(|&number| number != HOLE)
        .ok_or(ImageError::Unfit("content beyond the first 2 TiB of a layer"))
}

#[cfg(test)]
mod tests {
    use jaunt_formats::TarOffset;

    use super::*;

    fn content(layer: u16, size: u64, extents: &[(u64, u64, u64)]) -> FileContent {
        let extent =
            |&(file_offset, tar, len): &_| SparseExtent { file_offset, tar_offset: TarOffset(tar), len };
        FileContent { layer, size, extents: extents.iter().map(extent).collect() }
    }

    fn whole(layer: u16, tar: u64, len: u64) -> FileContent {
        content(layer, len, &[(0, tar, len)])
    }

    #[test]
    fn every_block_is_found_in_the_file_that_holds_it() {
        let range = (1 << 20)..(3 << 20) + 5;
        let large = crate::store::large_files(std::slice::from_ref(&range));
        let layers = [(8 << 20, large), ((1 << 40) + 512, LargeFiles::default())];
        let mut devices = Devices::new(&layers);
        let mut chunks = |content| devices.chunks(&content).map(|chunks| (chunks.bits, chunks.list));
        assert_eq!(chunks(whole(0, 512, 1)).unwrap(), (0, vec![(1, 1)]));
        assert_eq!(chunks(whole(0, 1024, 1025)).unwrap(), (2, vec![(1, 2)]));
        assert_eq!(chunks(whole(0, 1 << 20, (2 << 20) + 5)).unwrap(), (13, vec![(2, 0)]));
        assert_eq!(chunks(whole(0, (1 << 20) + 1024, 700)).unwrap(), (1, vec![(2, 2)]));
        let far = chunks(whole(1, 0, (1 << 40) + 1)).unwrap();
        assert_eq!(far, (31, vec![(3, 0), (3, 1 << 31)]));
        let holes = content(0, 10_000, &[(1024, 512, 2048), (9216, 2560, 784)]);
        let mut list = vec![(0, HOLE); 10];
        list[1..3].copy_from_slice(&[(1, 1), (1, 3)]);
        list[9] = (1, 5);
        assert_eq!(chunks(holes).unwrap(), (1, list));
        assert_eq!(chunks(content(0, 4096, &[])).unwrap(), (3, vec![(0, HOLE)]));
        let files: Vec<_> = devices.files().iter().map(|file| (file.layer, file.len)).collect();
        assert_eq!(files, [(0, 8 << 20), (0, (2 << 20) + 5), (1, (1 << 40) + 512)]);
    }

    #[test]
    fn what_no_block_can_say_is_refused() {
        let range = (1 << 20)..(3 << 20);
        let large = crate::store::large_files(std::slice::from_ref(&range));
        let layers = [(8 << 20, large), (1 << 50, LargeFiles::default())];
        let mut devices = Devices::new(&layers);
        for bad in [
            whole(2, 0, 1),
            whole(0, (8 << 20) - 512, 513),
            whole(0, u64::MAX - 511, 512),
            content(0, 512, &[(0, 512, 512), (512, 1024, 512)]),
        ] {
            assert!(matches!(devices.chunks(&bad), Err(ImageError::Malformed(_))), "{bad:?}");
        }
        for bad in [
            whole(0, 513, 1),
            whole(0, 0, (1 << 20) + 1),
            whole(0, (1 << 20) + 1, 5),
            whole(1, 1 << 45, 5),
            content(0, 2000, &[(100, 512, 100)]),
            content(0, 2000, &[(512, 512, 100)]),
            content(1, 1 << 40, &[(512, 512, 512)]),
        ] {
            assert!(matches!(devices.chunks(&bad), Err(ImageError::Unfit(_))), "{bad:?}");
        }
    }
}
