//! Compressing spans, and joining them into a blob.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read as _;

use sha2::{Digest as _, Sha256};

use super::draft::{self, Placement, TocDraft};
use super::entries::MAX_TAR_SPLIT_LEN;
use super::layout::{Annotations, Footer, Position, SKIPPABLE_MAGIC};
use super::level::{is_small, small_level};
use super::parts::{FullPartLog, PartLog, PlacedPart};
use super::plan::{LayerPlan, Obstacle, Part, SpanPlan};
use super::reader::MAX_TOC_LEN;
use super::toc::Toc;
use crate::compression::{
    FrameEncoder, SKIPPABLE_HEADER_LEN, SpooledFrame, StreamEncoder, TableError, ZstdError, push_skippable,
    push_skippable_header,
};
use crate::seekable::{Frame, SeekTable};
use crate::spool::{self, NewSpool};
use crate::{BlobOffset, DiffId, Digest, EntryLog, Span, SpanDigest, TarOffset};

/// How frames and spans are cut: changes whenever the same tar would give other bytes.
pub const FORMAT_RECIPE: &str = "zstd:chunked+seekable v2, frames 512KiB, small ones from level 6";

/// One compressed span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedSpan {
    /// Its frames' bytes.
    pub bytes: Vec<u8>,
    tar_offset: TarOffset,
    tar_len: u32,
    digest: SpanDigest,
    frames: Vec<PackedFrame>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedFrame {
    lengths: Frame,
    /// The part of a file it starts with, and that part's digest.
    part: Option<(Part, Digest)>,
}

/// Compresses spans on reused contexts: one for each thread.
pub struct SpanCompressor {
    large: FrameEncoder,
    small: FrameEncoder,
}

impl SpanCompressor {
    /// A compressor at a level.
    pub fn new(level: i32) -> Result<Self, ZstdError> {
        Ok(Self { large: FrameEncoder::new(level)?, small: FrameEncoder::new(small_level(level))? })
    }

    /// Compresses a span. The same plan gives the same bytes, on any thread.
    pub fn compress(&mut self, plan: &SpanPlan) -> Result<PackedSpan, ZstdError> {
        let mut bytes = Vec::with_capacity(plan.bytes.len() / 2 + 64);
        let mut frames = Vec::with_capacity(plan.frames.len());
        let mut rest = plan.bytes.as_slice();
        for frame in &plan.frames {
            let (tar, behind) = rest.split_at(frame.len as usize);
            rest = behind;
            let encoder = if is_small(frame.len) { &mut self.small } else { &mut self.large };
            let compressed = encoder.encode(tar, &mut bytes)?;
            let part = frame.part.map(|part| (part, Digest::of(&tar[..part.len as usize])));
            let lengths = Frame { compressed: frame_len(compressed)?, decompressed: frame.len };
            frames.push(PackedFrame { lengths, part });
        }
        Ok(PackedSpan {
            digest: SpanDigest(blake3::hash(&bytes).into()),
            tar_offset: plan.tar_offset,
            tar_len: frame_len(plan.bytes.len())?,
            bytes,
            frames,
        })
    }
}

fn frame_len(len: usize) -> Result<u32, ZstdError> {
    u32::try_from(len).map_err(|_| ZstdError::Library("frame over 4 GiB"))
}

/// A converted layer, once its blob is complete.
pub struct ConvertedLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob.
    pub len: u64,
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar.
    pub tar_len: u64,
    /// Its spans, with BLAKE3 digests over their compressed bytes.
    pub spans: Vec<Span>,
    /// Its entries, in the tar's order.
    pub entries: EntryLog,
    /// The annotations of zstd:chunked; none when the blob is plain seekable zstd.
    pub annotations: HashMap<String, String>,
    /// Why it is plain seekable zstd, if it is.
    pub obstacle: Option<Obstacle>,
}

/// Takes compressed spans in order, and ends the blob. It holds no content.
pub struct BlobWriter {
    offset: u64,
    digest: Sha256,
    spans: Vec<Span>,
    seek_table: SeekTable,
    parts: PartLog,
    spool: NewSpool,
}

impl Default for BlobWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl BlobWriter {
    /// A writer at the start of a blob.
    pub fn new() -> Self {
        Self::with_spools(spool::in_memory)
    }

    /// One that sets aside what it keeps of the entries.
    pub fn with_spools(spool: NewSpool) -> Self {
        let (digest, seek_table) = (Sha256::new(), SeekTable::default());
        Self { offset: 0, digest, spans: Vec::new(), seek_table, parts: PartLog::new(spool), spool }
    }

    /// Bytes of the blob so far.
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// Whether nothing has been written yet.
    pub fn is_empty(&self) -> bool {
        self.offset == 0
    }

    /// Takes the next span; its `bytes` are the next of the blob.
    ///
    /// # Errors
    /// What is known of its files cannot be set aside.
    pub fn push(&mut self, span: &PackedSpan) -> Result<(), TableError> {
        self.digest.update(&span.bytes);
        self.spans.push(Span {
            blob_offset: BlobOffset(self.offset),
            // A frame over 4 GiB is refused when it is made, and a span has few frames or one.
            compressed_len: u32::try_from(span.bytes.len()).unwrap_or(u32::MAX),
            tar_offset: span.tar_offset,
            tar_len: span.tar_len,
            digest: span.digest,
        });
        for frame in &span.frames {
            let offset = self.offset;
            self.offset += u64::from(frame.lengths.compressed);
            self.seek_table.push(frame.lengths);
            if let Some((part, digest)) = frame.part {
                self.parts.push(&PlacedPart { part, digest, offset, end: self.offset })?;
            }
        }
        Ok(())
    }

    /// Hands the blob's last bytes to `output`, piece by piece; all there is to say about the blob.
    ///
    /// # Errors
    /// The compressor fails, or what was set aside.
    pub fn finish(
        self,
        plan: LayerPlan,
        level: i32,
        output: &mut dyn FnMut(Vec<u8>),
    ) -> Result<ConvertedLayer, TableError> {
        let Self { offset, digest, spans, mut seek_table, parts, spool } = self;
        let mut tail = Tail { offset, digest, output };
        if offset == 0 {
            // A blob that starts with a skippable frame is not taken for zstd by every runtime.
            let mut frame = Vec::new();
            let compressed = frame_len(FrameEncoder::new(level)?.encode(&[], &mut frame)?)?;
            seek_table.push(Frame { compressed, decompressed: 0 });
            tail.push(frame);
        }
        let annotations = match plan.toc {
            Ok(toc) => {
                let toc_frame = encode_toc(toc.draft, &parts.finish()?, toc.tar_split.digest, level, spool)?;
                tail.tables(&toc_frame, &toc.tar_split, &mut seek_table)?
            }
            Err(obstacle) => Err(obstacle),
        };
        let mut end = Vec::new();
        seek_table.write(&mut end)?;
        tail.push(end);
        Ok(ConvertedLayer {
            digest: Digest::from_bytes(tail.digest.finalize().into()),
            len: tail.offset,
            diff_id: plan.diff_id,
            tar_len: plan.tar_len,
            spans,
            entries: plan.entries,
            obstacle: annotations.as_ref().err().copied(),
            annotations: annotations.map(|annotations| annotations.to_map()).unwrap_or_default(),
        })
    }
}

/// Bytes of a table that are handed on at once.
const PIECE: u64 = 256 << 10;

/// What follows the spans.
struct Tail<'o> {
    /// Where the next piece is in the blob.
    offset: u64,
    digest: Sha256,
    output: &'o mut dyn FnMut(Vec<u8>),
}

impl Tail<'_> {
    fn push(&mut self, piece: Vec<u8>) {
        self.digest.update(&piece);
        self.offset += piece.len() as u64;
        (self.output)(piece);
    }

    /// TOC, tar-split and footer, unless a reader would refuse them.
    fn tables(
        &mut self,
        toc: &SpooledFrame,
        tar_split: &SpooledFrame,
        seek_table: &mut SeekTable,
    ) -> Result<Result<Annotations, Obstacle>, TableError> {
        if toc.raw_len > MAX_TOC_LEN || tar_split.raw_len > MAX_TAR_SPLIT_LEN {
            return Ok(Err(Obstacle::TooLarge));
        }
        let toc_position = self.table(toc, seek_table)?;
        let split_position = self.table(tar_split, seek_table)?;
        let footer = Footer { toc: toc_position, tar_split: split_position };
        let mut frame = Vec::new();
        let compressed = push_skippable(SKIPPABLE_MAGIC, &footer.to_bytes(), &mut frame)?;
        seek_table.push(Frame { compressed, decompressed: 0 });
        self.push(frame);
        let tar_split = Some(split_position);
        Ok(Ok(Annotations { toc_digest: toc.digest, toc: toc_position, tar_split }))
    }

    fn table(&mut self, table: &SpooledFrame, seek_table: &mut SeekTable) -> Result<Position, TableError> {
        let len = table.bytes.len();
        let offset = BlobOffset(self.offset + SKIPPABLE_HEADER_LEN);
        let mut piece = Vec::new();
        let compressed = push_skippable_header(SKIPPABLE_MAGIC, len, &mut piece)?;
        seek_table.push(Frame { compressed, decompressed: 0 });
        let mut rest = table.bytes.reader();
        while rest.by_ref().take(PIECE).read_to_end(&mut piece)? > 0 {
            self.push(std::mem::take(&mut piece));
        }
        Ok(Position { offset, len, raw_len: table.raw_len })
    }
}

/// Writes the TOC, giving files their places, and files of several frames their further chunks: the same
/// document as serialising [`Toc`] at once, without ever holding it.
fn encode_toc(
    draft: TocDraft,
    parts: &FullPartLog,
    tar_split_digest: Digest,
    level: i32,
    spool: NewSpool,
) -> Result<SpooledFrame, TableError> {
    const BATCH: usize = 64 << 10;
    let mut encoder = StreamEncoder::new(small_level(level), spool)?;
    let whole = Toc { version: 1, entries: Vec::new(), tar_split_digest: Some(tar_split_digest) };
    let whole = serde_json::to_string(&whole).map_err(|_| ZstdError::Library("TOC is no JSON"))?;
    let (start, end) = whole.split_once("[]").unwrap_or((&whole, ""));
    let mut json = format!("{start}[").into_bytes();
    let mut parts = parts.read()?;
    draft.read(&mut |number, entry, large| {
        let (name, digest) = large.unwrap_or_default();
        let mut first = true;
        while let Some(here) = parts.next_of(number)? {
            let placement = placement(&here, digest.filter(|_| first));
            if number > 0 || !first {
                json.push(b',');
            }
            let open = if first { Cow::Borrowed(entry) } else { Cow::Owned(draft::chunk(&name)?) };
            draft::append(&mut json, &open, &placement)?;
            first = false;
        }
        if first {
            if number > 0 {
                json.push(b',');
            }
            draft::append(&mut json, entry, &Placement::default())?;
        }
        if json.len() >= BATCH {
            encoder.push(&json)?;
            json.clear();
        }
        Ok(())
    })?;
    json.extend_from_slice(format!("]{end}").as_bytes());
    encoder.push(&json)?;
    encoder.finish()
}

/// Where a part of a file is; `digest` is the whole file's, if it has several parts and this is the first.
fn placement(here: &PlacedPart, digest: Option<Digest>) -> Placement {
    let (offset, end_offset) = (here.offset.cast_signed(), here.end.cast_signed());
    if here.part.whole {
        return Placement { digest: Some(here.digest), offset, end_offset, ..Placement::default() };
    }
    Placement {
        digest,
        offset,
        end_offset,
        chunk_size: here.part.len.into(),
        chunk_offset: here.part.offset.cast_signed(),
        chunk_digest: Some(here.digest),
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
