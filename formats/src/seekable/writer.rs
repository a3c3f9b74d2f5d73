//! Collects frames and writes the seek table.

use super::layout::{Frame, SEEKABLE_MAGIC, SKIPPABLE_MAGIC};
use crate::compression::{ZstdError, push_skippable};

/// A seek table in the making.
#[derive(Clone, Debug, Default)]
pub struct SeekTable {
    entries: Vec<u8>,
    frames: u32,
}

impl SeekTable {
    /// Adds the blob's next frame.
    pub fn push(&mut self, frame: Frame) {
        self.entries.extend_from_slice(&frame.compressed.to_le_bytes());
        self.entries.extend_from_slice(&frame.decompressed.to_le_bytes());
        self.frames += 1;
    }

    /// Appends the table, which ends the blob.
    pub fn write(mut self, blob: &mut Vec<u8>) -> Result<(), ZstdError> {
        self.entries.extend_from_slice(&self.frames.to_le_bytes());
        self.entries.push(0);
        self.entries.extend_from_slice(&SEEKABLE_MAGIC);
        push_skippable(SKIPPABLE_MAGIC, &self.entries, blob).map(|_| ())
    }
}
