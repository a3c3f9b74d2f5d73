//! Reads a pack's table, and compares it with the launch index.

use zerocopy::FromBytes;

use super::layout::{ExtentRecord, FrameRecord, Header, MAGIC, VERSION, table_len};
use super::{BootError, BootPack, Extent, Frame, MAX_CONTENT_LEN, MAX_FRAME_LEN, MAX_RECORDS};
use crate::launch::LaunchLayer;
use crate::{Digest, TarOffset};

impl BootPack {
    /// Reads a table, all of it and nothing else.
    ///
    /// # Errors
    /// It is no table, is of another version, claims too much, or contradicts itself.
    pub fn read(table: &[u8]) -> Result<Self, BootError> {
        let (header, rest) = Header::ref_from_prefix(table).map_err(|_| BootError::Magic)?;
        if header.magic != MAGIC {
            return Err(BootError::Magic);
        }
        if header.version.get() != VERSION {
            return Err(BootError::Version(header.version.get()));
        }
        let records = [("extents", header.extents.get()), ("frames", header.frames.get())];
        for (what, actual) in records {
            limited(what, actual.into(), MAX_RECORDS.into())?;
        }
        limited("bytes of content", header.content_len.get(), MAX_CONTENT_LEN)?;
        let [extents, frames] = records.map(|(_, number)| number as usize);
        let declared = table_len(extents, frames);
        let wrong = BootError::TableLength { declared, actual: table.len() as u64 };
        if declared != table.len() as u64 {
            return Err(wrong);
        }
        let Ok((extents, rest)) = <[ExtentRecord]>::ref_from_prefix_with_elems(rest, extents) else {
            return Err(wrong);
        };
        let Ok(frames) = <[FrameRecord]>::ref_from_bytes(rest) else { return Err(wrong) };
        let extents = read_extents(extents)?;
        let frames = read_frames(frames, &extents, declared)?;
        let pack = Self { index: Digest::from_bytes(header.index), extents, frames };
        if header.zero != [0; 4] || pack.content_len() != header.content_len.get() {
            return Err(BootError::Record {
                what: "header",
                at: 0,
                why: "it is not what the records add up to",
            });
        }
        Ok(pack)
    }

    /// Length of the table.
    pub fn table_len(&self) -> u64 {
        table_len(self.extents.len(), self.frames.len())
    }

    /// Compares it with the launch index that has this digest and these layers.
    ///
    /// # Errors
    /// It is of another index, or has what no span of a layer covers.
    pub fn check(&self, index: Digest, layers: &[LaunchLayer]) -> Result<(), BootError> {
        if self.index != index {
            return Err(BootError::Index { expected: index, actual: self.index });
        }
        for (at, extent) in self.extents.iter().enumerate() {
            let layer = layers.get(usize::from(extent.layer));
            let layer = layer.ok_or_else(|| extent_error(at, "there is no such layer"))?;
            if !layer.covers(&extent.tar_range()) {
                return Err(extent_error(at, "no spans of its layer cover it"));
            }
        }
        Ok(())
    }
}

fn read_extents(records: &[ExtentRecord]) -> Result<Vec<Extent>, BootError> {
    let mut extents = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        let (offset, len) = (record.tar_offset.get(), record.len.get());
        if len == 0 || len > MAX_FRAME_LEN || record.zero != [0; 2] {
            return Err(extent_error(at, "it is empty, too long, or has unknown fields"));
        }
        if offset.checked_add(len.into()).is_none() {
            return Err(extent_error(at, "it ends beyond any tar"));
        }
        extents.push(Extent { layer: record.layer.get(), tar_offset: TarOffset(offset), len });
    }
    let mut order: Vec<usize> = (0..extents.len()).collect();
    order.sort_unstable_by_key(|&at| extents[at]);
    for pair in order.windows(2) {
        let (one, next) = (&extents[pair[0]], &extents[pair[1]]);
        if one.layer == next.layer && one.tar_range().end > next.tar_offset.0 {
            return Err(extent_error(pair[1], "it overlaps another one"));
        }
    }
    Ok(extents)
}

fn read_frames(records: &[FrameRecord], extents: &[Extent], start: u64) -> Result<Vec<Frame>, BootError> {
    let mut frames = Vec::with_capacity(records.len());
    let (mut first, mut offset) = (0, start);
    for (at, record) in records.iter().enumerate() {
        let bad = |why| BootError::Record { what: "frame", at, why };
        let (len, count) = (record.compressed_len.get(), record.extents.get() as usize);
        // No more than zstd's own bound for what does not compress at all.
        if len == 0 || len > MAX_FRAME_LEN + MAX_FRAME_LEN / 128 {
            return Err(bad("it is empty or too long"));
        }
        let held = extents.get(first..).and_then(|rest| rest.get(..count)).filter(|held| !held.is_empty());
        let held = held.ok_or_else(|| bad("it holds no extents, or more than there are"))?;
        let content: u64 = held.iter().map(|extent| u64::from(extent.len)).sum();
        let content_len = u32::try_from(content).ok().filter(|len| *len <= MAX_FRAME_LEN);
        let content_len = content_len.ok_or_else(|| bad("it holds too much"))?;
        let blob = offset..offset + u64::from(len);
        offset = blob.end;
        frames.push(Frame { blob, extents: first..first + count, content_len, digest: record.digest });
        first += count;
    }
    if first == extents.len() { Ok(frames) } else { Err(extent_error(first, "no frame holds it")) }
}

fn limited(what: &'static str, actual: u64, limit: u64) -> Result<(), BootError> {
    if actual > limit { Err(BootError::TooLarge { what, actual, limit }) } else { Ok(()) }
}

fn extent_error(at: usize, why: &'static str) -> BootError {
    BootError::Record { what: "extent", at, why }
}
