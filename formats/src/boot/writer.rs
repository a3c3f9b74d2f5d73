//! Writes a pack: the same for the same content in the same order, with the same compressor.
//!
//! The first frames are small, so that the first readers wait for little; the rest are as large as compresses
//! well and is verified quickly.

use zerocopy::IntoBytes as _;

use super::layout::{ExtentRecord, FrameRecord, Header, MAGIC, VERSION, table_len};
use super::{BootError, Extent, MAX_CONTENT_LEN, MAX_FRAME_LEN, MAX_RECORDS, TablePlace};
use crate::Digest;
use crate::compression::FrameEncoder;

/// Bytes of content at which the first frames are closed, and all others.
const FIRST_FRAMES: [usize; 2] = [64 << 10, 256 << 10];
const FRAME: usize = 1 << 20;
/// A finished pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The blob.
    pub bytes: Vec<u8>,
    /// What its descriptor says of its table.
    pub table: TablePlace,
}

/// A pack in the making.
pub struct PackWriter {
    index: Digest,
    encoder: FrameEncoder,
    extents: Vec<Extent>,
    /// Extents that closed frames hold.
    closed: usize,
    content: Vec<u8>,
    content_len: u64,
    frames: Vec<FrameRecord>,
    compressed: Vec<u8>,
}

impl PackWriter {
    /// The pack of the launch index with this digest, compressed at a level of zstd's.
    ///
    /// # Errors
    /// There is no memory for the compressor, or no such level.
    pub fn new(index: Digest, level: i32) -> Result<Self, BootError> {
        let encoder = FrameEncoder::new(level)?;
        let (extents, frames) = (Vec::new(), Vec::new());
        let (content, compressed) = (Vec::new(), Vec::new());
        Ok(Self { index, encoder, extents, closed: 0, content, content_len: 0, frames, compressed })
    }

    /// Adds what is touched next. An extent that is longer than what fits one frame becomes several.
    ///
    /// # Errors
    /// The content is not as long as the extent, there would be too much of it, or the compressor failed.
    pub fn push(&mut self, extent: Extent, content: &[u8]) -> Result<(), BootError> {
        if content.len() != extent.len as usize {
            let at = self.extents.len();
            return Err(BootError::Record { what: "extent", at, why: "its content has another length" });
        }
        let (mut extent, mut content) = (extent, content);
        while !content.is_empty() {
            let room = self.frame_len().saturating_sub(self.content.len());
            let (now, rest) = content.split_at(room.min(content.len()));
            let len = u32::try_from(now.len()).unwrap_or(MAX_FRAME_LEN);
            self.extents.push(Extent { len, ..extent });
            self.content.extend_from_slice(now);
            extent.tar_offset.0 += u64::from(len);
            content = rest;
            if self.content.len() >= self.frame_len() {
                self.close()?;
            }
        }
        let limits = [
            ("bytes of content", self.content_len, MAX_CONTENT_LEN),
            ("extents", self.extents.len() as u64, MAX_RECORDS.into()),
        ];
        match limits.into_iter().find(|(_, actual, limit)| actual > limit) {
            Some((what, actual, limit)) => Err(BootError::TooLarge { what, actual, limit }),
            None => Ok(()),
        }
    }

    /// The pack.
    ///
    /// # Errors
    /// The compressor failed.
    pub fn finish(mut self) -> Result<Pack, BootError> {
        if !self.content.is_empty() {
            self.close()?;
        }
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).into();
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            extents: number(self.extents.len()),
            frames: number(self.frames.len()),
            zero: [0; 4],
            content_len: self.content_len.into(),
            index: *self.index.as_bytes(),
        };
        let len = table_len(self.extents.len(), self.frames.len()) + self.compressed.len() as u64;
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        bytes.extend_from_slice(header.as_bytes());
        for extent in &self.extents {
            let record = ExtentRecord {
                tar_offset: extent.tar_offset.0.into(),
                len: extent.len.into(),
                layer: extent.layer.into(),
                zero: [0; 2],
            };
            bytes.extend_from_slice(record.as_bytes());
        }
        bytes.extend_from_slice(self.frames.as_bytes());
        let table = TablePlace::of(&bytes);
        bytes.append(&mut self.compressed);
        Ok(Pack { bytes, table })
    }

    fn frame_len(&self) -> usize {
        FIRST_FRAMES.get(self.frames.len()).copied().unwrap_or(FRAME)
    }

    fn close(&mut self) -> Result<(), BootError> {
        let start = self.compressed.len();
        let len = self.encoder.encode(&self.content, &mut self.compressed)?;
        self.frames.push(FrameRecord {
            compressed_len: u32::try_from(len).unwrap_or(u32::MAX).into(),
            extents: u32::try_from(self.extents.len() - self.closed).unwrap_or(u32::MAX).into(),
            digest: *blake3::hash(&self.compressed[start..]).as_bytes(),
        });
        self.content_len += self.content.len() as u64;
        self.closed = self.extents.len();
        self.content.clear();
        Ok(())
    }
}
