//! A TOC in the making, before it is known where content lies in the blob.
//!
//! Entries are set aside as the JSON that they will be, compressed a block at a time: some thirty bytes an
//! entry, where the values take five hundred. What is known last, a file's digest and its place, also
//! comes last in the JSON, so it is appended when the TOC is written.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::Serialize;

use super::plan::FRAME_LEN;
use super::toc::{TocEntry, is_zero};
use crate::Digest;
use crate::compression::{FrameDecoder, FrameEncoder, TableError, ZstdError};
use crate::spool::{NewSpool, SpoolWriter};

/// JSON that is compressed at once.
const BLOCK_LEN: usize = 1 << 20;
/// Bytes that a file's content takes in its entry at least: `,"digest":"sha256:…","offset":1,"endOffset":2`.
const PLACEMENT_LEN: u64 = 83 + 11 + 14;
/// It is read once and gone: speed counts.
const LEVEL: i32 = 1;

/// A file of several chunks: its name, and the digest of its content once that is known.
pub(super) type Large = (String, Option<Digest>);

/// Takes an entry: its number, its JSON without the end, and what is known of it if it has several chunks.
pub(super) type Sink<'a> = dyn FnMut(usize, &[u8], Option<Large>) -> Result<(), TableError> + 'a;

pub(super) struct TocDraft {
    encoder: FrameEncoder,
    /// Entries, a line each, without the brace that ends them.
    open: Vec<u8>,
    /// Full blocks, compressed.
    blocks: SpoolWriter,
    /// Their lengths, and what they decode to.
    lengths: Vec<(usize, usize)>,
    /// By the numbers of their entries.
    large: BTreeMap<usize, Large>,
    entries: usize,
    /// Bytes of all entries.
    raw_len: u64,
}

/// Where an entry's content is: the last fields of [`TocEntry`], in its order.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Placement {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub end_offset: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_size: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_offset: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_digest: Option<Digest>,
}

fn json_error(_: serde_json::Error) -> ZstdError {
    ZstdError::Library("TOC is no JSON")
}

impl TocDraft {
    pub fn new(spool: NewSpool) -> Result<Self, ZstdError> {
        let (encoder, blocks) = (FrameEncoder::new(LEVEL)?, SpoolWriter::new(spool));
        let (open, lengths, large) = (Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Self { encoder, open, blocks, lengths, large, entries: 0, raw_len: 0 })
    }

    /// Adds an entry without a place, of so many bytes of content.
    pub fn push(&mut self, entry: &TocEntry, len: u64) -> Result<(), TableError> {
        if len > 0 {
            self.raw_len += PLACEMENT_LEN;
        }
        if len > u64::from(FRAME_LEN) {
            self.large.insert(self.entries, (entry.name.clone(), None));
        }
        self.entries += 1;
        let start = self.open.len();
        serde_json::to_writer(&mut self.open, entry).map_err(json_error)?;
        self.open.pop();
        self.open.push(b'\n');
        self.raw_len += (self.open.len() - start) as u64;
        if self.open.len() >= BLOCK_LEN {
            self.close()?;
        }
        Ok(())
    }

    /// Bytes that the TOC will have at least; they only grow.
    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    /// The digest of the last entry's content, which has several chunks.
    pub fn digest(&mut self, digest: Digest) {
        if let Some(mut last) = self.large.last_entry() {
            last.get_mut().1 = Some(digest);
        }
    }

    fn close(&mut self) -> Result<(), TableError> {
        let mut block = Vec::new();
        self.encoder.encode(&self.open, &mut block)?;
        self.lengths.push((block.len(), self.open.len()));
        self.blocks.push(&block)?;
        self.open.clear();
        Ok(())
    }

    /// Hands each entry to `sink`, in order.
    pub fn read(mut self, sink: &mut Sink<'_>) -> Result<(), TableError> {
        self.close()?;
        let (mut decoder, mut number) = (FrameDecoder::new(), 0);
        let (blocks, mut block) = (self.blocks.finish()?, Vec::new());
        let mut blocks = blocks.reader();
        for (compressed, len) in self.lengths {
            block.resize(compressed, 0);
            blocks.read_exact(&mut block)?;
            let lines = decoder.decode_to_vec(&block, len)?;
            for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                sink(number, line, self.large.remove(&number))?;
                number += 1;
            }
        }
        Ok(())
    }
}

/// Appends an entry of which only the end is missing.
pub(super) fn append(json: &mut Vec<u8>, open: &[u8], placement: &Placement) -> Result<(), ZstdError> {
    json.extend_from_slice(open);
    let end = serde_json::to_vec(placement).map_err(json_error)?;
    if end.len() > 2 {
        json.push(b',');
    }
    json.extend_from_slice(&end[1..]);
    Ok(())
}

/// The same without the end, of a further chunk of the file `name`.
pub(super) fn chunk(name: &str) -> Result<Vec<u8>, ZstdError> {
    let mut open = serde_json::to_vec(&TocEntry::chunk(name)).map_err(json_error)?;
    open.pop();
    Ok(open)
}
