//! Planning: which tar ranges become which frames, and which frames become which span.
//!
//! A frame starts at the first content byte of every non-empty file, every 512 KiB within a file, and
//! every 512 KiB of headers; a file's last frame also carries its padding and the headers that
//! follow. Hence every frame starts at a block of the tar and, within a file, at its first content
//! byte. A span is a run of frames of at most 512 KiB, or a single longer frame. Slices pushed make no
//! difference. The same pass makes the tar-split, the digest of the tar and those of files with
//! several frames; everything else about a span can be computed from the span alone.

use sha2::{Digest as _, Sha256};

use super::catalogue::Catalogue;
use super::draft::TocDraft;
use super::weight::MAX_METADATA;
use crate::compression::{SpooledFrame, TableError, ZstdError};
use crate::spool::{self, NewSpool};
use crate::tar::{Event, Member, ScanError, Scanner, padding_of};
use crate::{DiffId, Digest, EntryLog, TarOffset};

/// Bytes of a file, or of headers, in one frame.
pub const FRAME_LEN: u32 = 512 << 10;
/// Bytes of tar in a span of more than one frame.
pub const SPAN_LEN: u32 = 512 << 10;

/// One span, to be compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanPlan {
    /// Where it starts in the tar.
    pub tar_offset: TarOffset,
    /// Its bytes of tar.
    pub bytes: Vec<u8>,
    /// Its frames, in order.
    pub frames: Vec<FramePlan>,
}

/// One frame within a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlan {
    /// Bytes of tar.
    pub len: u32,
    /// The part of a file it starts with, if any.
    pub part: Option<Part>,
}

/// A stretch of one file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which entry of the layer.
    pub entry: usize,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length.
    pub len: u32,
    /// Whether it is the file's whole content.
    pub whole: bool,
}

/// Why a layer cannot be described by zstd:chunked's TOC; it is then plain seekable zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// podman refuses these.
    #[error("a path is in the layer twice")]
    Duplicate,
    /// JSON is UTF-8, and a header that starts with zeros looks like padding.
    #[error("a name is empty or not UTF-8")]
    Text,
    /// Sparse or contiguous file.
    #[error("an entry has a type that the TOC has no word for")]
    Type,
    /// Such as a hard link that claims a size.
    #[error("an entry's size is not the number of bytes stored")]
    Size,
    /// Years before 0 or after 9999.
    #[error("a time is outside of RFC 3339")]
    Time,
    /// podman's own converter has no word for it either.
    #[error("the tar has a PAX global header")]
    GlobalHeader,
    /// podman takes what is not zero between files for the next header.
    #[error("the tar's padding is not zero")]
    Padding,
    /// More than podman reads.
    #[error("the table of contents would be too large")]
    TooLarge,
}

/// Why a layer cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is no sound tar.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The tables of its entries cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Its entries alone would fill the memory: some millions of them, a thousand times what compressed
    /// headers weigh.
    #[error("the layer's entries need more than {MAX_METADATA} bytes of memory")]
    TooMuchMetadata,
}

/// What is known of a layer once its tar has been seen.
pub struct LayerPlan {
    /// Length of the tar.
    pub tar_len: u64,
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Its entries, in the tar's order.
    pub entries: EntryLog,
    /// The TOC in the making, or why there is none.
    pub(super) toc: Result<TocPlan, Obstacle>,
}

pub(super) struct TocPlan {
    pub draft: TocDraft,
    pub tar_split: SpooledFrame,
}

/// Cuts a tar into spans.
pub struct Planner {
    scanner: Scanner,
    digest: Sha256,
    cutter: Cutter,
    catalogue: Catalogue,
    max_metadata: u64,
}

impl Planner {
    /// A planner at the start of a tar. `level` is the blob's, here for the tar-split.
    pub fn new(level: i32) -> Result<Self, ZstdError> {
        Self::with_spools(level, spool::in_memory)
    }

    /// One that sets aside what it keeps of the entries.
    pub fn with_spools(level: i32, spool: NewSpool) -> Result<Self, ZstdError> {
        Ok(Self {
            scanner: Scanner::new(),
            digest: Sha256::new(),
            cutter: Cutter::default(),
            catalogue: Catalogue::new(level, spool)?,
            max_metadata: MAX_METADATA,
        })
    }

    /// Takes the next bytes of the tar, of any number; `sink` gets the spans they complete.
    pub fn push(&mut self, tar: &[u8], sink: &mut impl FnMut(SpanPlan)) -> Result<(), PlanError> {
        self.digest.update(tar);
        let Self { scanner, cutter, catalogue, max_metadata, .. } = self;
        let mut heavy = false;
        let mut failed = None;
        scanner.push(tar, &mut |event| {
            // Nothing more is kept of a layer that is refused.
            heavy = heavy || catalogue.weight > *max_metadata;
            if heavy {
                return;
            }
            if let Err(error) = catalogue.take(&event) {
                failed.get_or_insert(error);
            }
            match event {
                Event::Content(bytes) => cutter.content(bytes, sink),
                Event::Member(member) => cutter.member(catalogue.entries() - 1, &member, sink),
                Event::Header(bytes) | Event::Padding(bytes) | Event::Trailing(bytes) => {
                    cutter.other(bytes, sink)
                }
                Event::GlobalHeader => {}
            }
        })?;
        if heavy {
            return Err(PlanError::TooMuchMetadata);
        }
        failed.map_or(Ok(()), |error: TableError| Err(error.into()))
    }

    /// Declares the tar complete; `sink` gets the last spans.
    pub fn finish(mut self, sink: &mut impl FnMut(SpanPlan)) -> Result<LayerPlan, PlanError> {
        let tar_len = self.scanner.offset().0;
        self.scanner.finish()?;
        self.cutter.finish(sink);
        let diff_id = DiffId(Digest::from_bytes(self.digest.finalize().into()));
        let (entries, toc) = self.catalogue.finish()?;
        Ok(LayerPlan { tar_len, diff_id, entries, toc })
    }

    /// Gives a buffer back to be filled again.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.cutter.spare.push(buffer);
    }
}

/// Cuts frames, and spans of frames.
#[derive(Default)]
struct Cutter {
    /// The open span; the bytes behind its frames are the open frame's.
    span: SpanPlan,
    /// Bytes of the span in closed frames.
    closed: usize,
    part: Option<Part>,
    /// The file being read: its entry, its length and how much of it has come.
    file: Option<(usize, u64, u64)>,
    /// Bytes that the open frame may still take; the tar offsets of its limits are multiples of a block.
    room: usize,
    spare: Vec<Vec<u8>>,
}

impl Cutter {
    fn member(&mut self, entry: usize, member: &Member, sink: &mut impl FnMut(SpanPlan)) {
        let len = member.content.end - member.content.start;
        if len > 0 {
            self.close_frame(sink);
            self.file = Some((entry, len, 0));
        }
    }

    fn content(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(SpanPlan)) {
        while !bytes.is_empty() {
            let Some((entry, len, done)) = self.file else { return };
            if self.part.is_none() {
                self.open_part(entry, len, done, sink);
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(self.room));
            bytes = rest;
            self.append(piece);
            let done = done + piece.len() as u64;
            self.file = Some((entry, len, done));
            if done == len {
                // The part stays open for padding and headers, from the next block on.
                self.file = None;
                let padding = usize::try_from(padding_of(len)).unwrap_or(0);
                self.room = padding + FRAME_LEN as usize;
            } else if self.room == 0 {
                self.close_frame(sink);
            }
        }
    }

    /// Headers, padding, or what follows the tar's end.
    fn other(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(SpanPlan)) {
        while !bytes.is_empty() {
            if self.room == 0 {
                self.close_frame(sink);
                self.room = FRAME_LEN as usize;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(self.room));
            bytes = rest;
            self.append(piece);
        }
    }
}

impl Cutter {
    fn open_part(&mut self, entry: usize, len: u64, done: u64, sink: &mut impl FnMut(SpanPlan)) {
        let left = u32::try_from(len - done).unwrap_or(u32::MAX).min(FRAME_LEN);
        self.room = left as usize;
        // Known early, so that the frame's bytes go straight where they stay.
        if self.closed > 0 && self.closed + self.room > SPAN_LEN as usize {
            self.close_span(sink);
        }
        self.part = Some(Part { entry, offset: done, len: left, whole: u64::from(left) == len });
    }

    fn append(&mut self, piece: &[u8]) {
        if self.span.bytes.capacity() == 0 {
            self.span.bytes = self.buffer();
        }
        self.span.bytes.extend_from_slice(piece);
        self.room -= piece.len();
    }

    fn close_frame(&mut self, sink: &mut impl FnMut(SpanPlan)) {
        self.room = 0;
        let part = self.part.take();
        let len = self.span.bytes.len() - self.closed;
        if len == 0 {
            return;
        }
        if self.closed > 0 && self.span.bytes.len() > SPAN_LEN as usize {
            let mut next = self.buffer();
            next.extend_from_slice(&self.span.bytes[self.closed..]);
            self.span.bytes.truncate(self.closed);
            self.close_span(sink);
            self.span.bytes = next;
        }
        // At most a frame's content, padding and as many headers again.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.span.frames.push(FramePlan { len, part });
        self.closed = self.span.bytes.len();
    }

    fn close_span(&mut self, sink: &mut impl FnMut(SpanPlan)) {
        let next = TarOffset(self.span.tar_offset.0 + self.span.bytes.len() as u64);
        let span = std::mem::replace(&mut self.span, SpanPlan { tar_offset: next, ..SpanPlan::default() });
        self.closed = 0;
        sink(span);
    }

    fn finish(&mut self, sink: &mut impl FnMut(SpanPlan)) {
        self.close_frame(sink);
        if self.closed > 0 {
            self.close_span(sink);
        }
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_LEN));
        buffer.clear();
        buffer
    }
}

/// Room for a span, for the headers behind its last file and for a little more.
const BUFFER_LEN: usize = (SPAN_LEN + (64 << 10)) as usize;

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
