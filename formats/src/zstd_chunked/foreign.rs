//! Layers in zstd:chunked as podman, buildah and skopeo make them: spans and entries with no conversion.
//!
//! A span is a whole file of at most a MiB, or a chunk of a larger one, since that is what the TOC has
//! digests of; they are SHA-256 of the decoded bytes. What lies between files has frames of its own,
//! and its digest is known from the tar-split, so that the spans cover the whole tar. Blobs in which a
//! file's last frame carries what follows (our own) have gaps there instead: nobody reads them, since
//! headers are known, but such a layer cannot be checked against its diffID span by span.
//!
//! Everything is pinned by the layer's descriptor: its annotations name the TOC by digest, the TOC
//! names the tar-split and the content of every file.

use std::ops::Range;

use super::entries::{Described, EntriesError, read_described};
use super::layout::{Annotations, Position};
use super::replay::Between;
use super::toc::TocEntry;
use crate::compression::SKIPPABLE_HEADER_LEN;
use crate::launch::{Blob, LaunchLayer};
use crate::spool::NewSpool;
use crate::{BlobOffset, DiffId, Digest, DigestScope, Entry, EntryLog, Span, SpanDigest, TarOffset};

/// Bytes of a file that is one span, however many chunks it has: fewer requests, fewer digests to keep.
const WHOLE_FILE: u64 = 1 << 20;
/// Bytes of compressed TOC and tar-split together: what has to be in memory at once.
const MAX_TAIL_LEN: u64 = 64 << 20;
/// Bytes between the two, and in front of them, that are not worth a second request.
const MAX_SLACK: u64 = 4096;
/// zstd's best: 128 KiB of one byte in a block of four bytes. A claim beyond it is a lie.
const MAX_RATIO: u64 = 32 << 10;

/// A layer as the launch index has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignLayer {
    /// Its blob and its spans.
    pub layer: LaunchLayer,
    /// Its entries, in the tar's order.
    pub entries: Vec<Entry>,
}

/// Why a layer in zstd:chunked cannot be read lazily.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The annotations name ranges that cannot be.
    #[error("annotations: {0}")]
    Position(&'static str),
    /// TOC and tar-split are larger than what is worth having in memory.
    #[error("TOC and tar-split have {0} bytes, more than {MAX_TAIL_LEN}")]
    TooLarge(u64),
    /// Another range of the blob was handed in than [`tail`] names.
    #[error("TOC and tar-split have {expected} bytes; {actual} arrived")]
    Tail {
        /// What [`tail`] says.
        expected: u64,
        /// What came.
        actual: usize,
    },
    /// TOC and tar-split are not sound.
    #[error(transparent)]
    Entries(#[from] EntriesError),
}

/// The range of the blob that holds TOC and tar-split: all that has to be fetched.
///
/// # Errors
/// There is no tar-split, or the annotations name what cannot be.
pub fn tail(annotations: &Annotations, blob_len: u64) -> Result<Range<u64>, ForeignError> {
    let toc = range(&annotations.toc);
    let tar_split = range(annotations.tar_split.as_ref().ok_or(EntriesError::NoTarSplit)?);
    let tail = toc.start.min(tar_split.start)..toc.end.max(tar_split.end);
    if tail.end > blob_len || tail.start < SKIPPABLE_HEADER_LEN {
        return Err(ForeignError::Position("the TOC or the tar-split lies outside the blob"));
    }
    let (whole, parts) = (tail.end - tail.start, toc.end - toc.start + tar_split.end - tar_split.start);
    if whole < parts {
        return Err(ForeignError::Position("TOC and tar-split overlap"));
    }
    if whole - parts > MAX_SLACK {
        return Err(ForeignError::Position("TOC and tar-split lie far apart"));
    }
    if whole > MAX_TAIL_LEN {
        return Err(ForeignError::TooLarge(whole));
    }
    Ok(tail)
}

/// Reads a layer out of the bytes of its blob that [`tail`] names.
///
/// # Errors
/// They do not describe a layer, are not those that the annotations name, or describe one whose content
/// cannot be read span by span.
pub fn read(
    diff_id: DiffId,
    blob: Blob,
    annotations: &Annotations,
    tail_bytes: &[u8],
) -> Result<ForeignLayer, ForeignError> {
    let (toc, tar_split) = split(annotations, blob.len, tail_bytes)?;
    let frames_end = tail(annotations, blob.len)?.start - SKIPPABLE_HEADER_LEN;
    let (mut cutter, mut entries) = (Cutter::new(frames_end), Vec::new());
    let rest = read_described(annotations, toc, tar_split, &mut |described| {
        cutter.entry(&described).map_err(|what| refused(&described, what))?;
        entries.push(described.member.entry);
        Ok(())
    })?;
    if let Some(behind) = rest.behind {
        cutter.between(&behind, cutter.limit);
    }
    let layer = LaunchLayer {
        diff_id,
        original: blob,
        converted: blob,
        tar_len: rest.tar_len,
        scope: DigestScope::Uncompressed,
        spans: cutter.spans,
    };
    Ok(ForeignLayer { layer, entries })
}

/// The entries alone, of a layer whose spans are known from elsewhere.
///
/// # Errors
/// As [`read`], but nothing is said of content.
pub fn read_entries(
    blob_len: u64,
    annotations: &Annotations,
    tail_bytes: &[u8],
) -> Result<Vec<Entry>, ForeignError> {
    let (toc, tar_split) = split(annotations, blob_len, tail_bytes)?;
    Ok(super::read_entries(annotations, toc, tar_split)?)
}

/// The same, set aside.
///
/// # Errors
/// As [`read_entries`]; or the spool fails.
pub fn log_entries(
    blob_len: u64,
    annotations: &Annotations,
    tail_bytes: &[u8],
    spool: NewSpool,
) -> Result<EntryLog, ForeignError> {
    let (toc, tar_split) = split(annotations, blob_len, tail_bytes)?;
    Ok(super::entries::log_entries(annotations, toc, tar_split, spool)?)
}

/// TOC and tar-split out of the bytes that [`tail`] names.
fn split<'a>(
    annotations: &Annotations,
    blob_len: u64,
    bytes: &'a [u8],
) -> Result<(&'a [u8], &'a [u8]), ForeignError> {
    let tail = tail(annotations, blob_len)?;
    let part = |position: Range<u64>| {
        let start = usize::try_from(position.start - tail.start).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(position.end - position.start).ok()?)?)
    };
    let wrong_len = || ForeignError::Tail { expected: tail.end - tail.start, actual: bytes.len() };
    let toc = part(range(&annotations.toc)).ok_or_else(wrong_len)?;
    let tar_split = annotations.tar_split.as_ref().ok_or(EntriesError::NoTarSplit)?;
    Ok((toc, part(range(tar_split)).ok_or_else(wrong_len)?))
}

fn range(position: &Position) -> Range<u64> {
    // The sum was checked when the annotation was read.
    position.offset.0..position.offset.0.saturating_add(position.len)
}

fn refused(described: &Described, what: &'static str) -> EntriesError {
    EntriesError::Refused { name: described.chunks[0].name.clone(), what }
}

/// Makes spans of what the TOC says, in the order of tar and blob.
struct Cutter {
    spans: Vec<Span>,
    /// Where the last content's frames end.
    blob_end: u64,
    /// Where the frames end.
    limit: u64,
}

/// A stretch of a file's content.
struct Chunk {
    offset: u64,
    len: u64,
    blob: Range<u64>,
    digest: Option<Digest>,
}

impl Cutter {
    fn new(limit: u64) -> Self {
        Self { spans: Vec::new(), blob_end: 0, limit }
    }

    fn entry(&mut self, described: &Described) -> Result<(), &'static str> {
        let tar = &described.member.content;
        let Some(before) = &described.before else {
            return if described.chunks.len() == 1 { Ok(()) } else { Err("an empty file has chunks") };
        };
        let chunks = chunks(&described.chunks, tar.end - tar.start)?;
        let (first, last) = (&chunks[0], &chunks[chunks.len() - 1]);
        if first.blob.start < self.blob_end || last.blob.end > self.limit {
            return Err("its frames overlap others, or lie outside of the blob's");
        }
        self.between(before, first.blob.start);
        let whole = described.chunks[0].digest;
        let joined = || chunks.array_windows().all(|[a, b]| a.blob.end == b.blob.start);
        if tar.end - tar.start <= WHOLE_FILE && joined() {
            self.push(&first.blob.start..&last.blob.end, tar.clone(), whole)?;
        } else {
            for chunk in &chunks {
                let start = tar.start + chunk.offset;
                self.push(&chunk.blob.start..&chunk.blob.end, start..start + chunk.len, chunk.digest)?;
            }
        }
        self.blob_end = last.blob.end;
        Ok(())
    }

    /// What lies between two files' content, if it has frames of its own.
    fn between(&mut self, between: &Between, blob_end: u64) {
        if let Some(span) = span(self.blob_end..blob_end, between.range.clone(), between.digest) {
            self.spans.push(span);
        }
    }

    fn push(
        &mut self,
        blob: Range<&u64>,
        tar: Range<u64>,
        digest: Option<Digest>,
    ) -> Result<(), &'static str> {
        let digest = SpanDigest(*digest.ok_or("a part of its content has no digest")?.as_bytes());
        let span = span(*blob.start..*blob.end, tar, digest);
        self.spans.push(span.ok_or("its frames, or what they hold, are empty, too large or impossible")?);
        Ok(())
    }
}

/// A span, unless no such span can be.
fn span(blob: Range<u64>, tar: Range<u64>, digest: SpanDigest) -> Option<Span> {
    let len = |range: &Range<u64>| {
        let len = range.end.checked_sub(range.start).filter(|&len| len > 0)?;
        u32::try_from(len).ok().filter(|&len| len <= Span::MAX_LEN)
    };
    let (compressed_len, tar_len) = (len(&blob)?, len(&tar)?);
    let (blob_offset, tar_offset) = (BlobOffset(blob.start), TarOffset(tar.start));
    let possible = u64::from(tar_len) <= u64::from(compressed_len) * MAX_RATIO;
    possible.then_some(Span { blob_offset, compressed_len, tar_offset, tar_len, digest })
}

/// The chunks of a file of `len` bytes, which must follow one another without a gap. podman writes where
/// a file ends into its first entry, other writers where each chunk does.
fn chunks(entries: &[TocEntry], len: u64) -> Result<Vec<Chunk>, &'static str> {
    let number = |number: i64| u64::try_from(number).map_err(|_| "a negative number");
    let mut chunks = Vec::with_capacity(entries.len());
    let mut at = 0;
    for (index, entry) in entries.iter().enumerate() {
        let start = number(entry.offset)?;
        let next = entries.get(index + 1).map(|next| number(next.offset)).transpose()?;
        let own = Some(number(entry.end_offset)?).filter(|&own| own > 0);
        let end = match (own, next) {
            (Some(own), Some(next)) => own.min(next),
            (None, Some(next)) => next,
            (Some(own), None) => own,
            (None, None) => number(entries[0].end_offset)?,
        };
        if start >= end {
            return Err("its chunks are out of order, or empty");
        }
        let alone = entries.len() == 1 && entry.chunk_size == 0;
        let chunk_len = if alone { len } else { number(entry.chunk_size)? };
        if number(entry.chunk_offset)? != at || chunk_len == 0 {
            return Err("its chunks leave a gap, overlap, or are empty");
        }
        let digest = if entries.len() == 1 { entry.digest } else { entry.chunk_digest };
        chunks.push(Chunk { offset: at, len: chunk_len, blob: start..end, digest });
        at = at.checked_add(chunk_len).ok_or("its chunks are larger than any file")?;
    }
    if at == len { Ok(chunks) } else { Err("its chunks do not add up to its size") }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
