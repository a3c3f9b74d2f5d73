//! The push scanner: slices of a tar in, events out.
//!
//! States: `Header -> (Extension | OldSparse | SparseMap)* -> Content -> Padding -> Header`, and
//! `Header -> ZeroBlock -> Trailing` at the end. Invariants: every byte pushed is in exactly one
//! event, in order; a [`Member`] comes after the bytes of its headers and before its content; what
//! is buffered is one header with its extensions, never content.

use std::ops::Range;

use super::error::{Problem, ScanError, shown};
use super::header::{Dialect, Fields, c_string};
use super::member::{Member, Pending, Written, entry_of, is_regular, size_of};
use super::pax::Pax;
use super::sparse::{ContentMap, OldMap, PaxSparse, Stretch, place};
use super::{BLOCK, BLOCK_USIZE, padding_of};
use crate::{Content, TarOffset};

/// A PAX header or GNU long name may have this many bytes; the limit of Go's `archive/tar`.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// What the next bytes of the tar are.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// Header blocks, their extensions and the zero blocks that end a tar, in pieces.
    Header(&'a [u8]),
    /// The headers of one entry are complete.
    Member(Box<Member>),
    /// Content of the last member, in pieces.
    Content(&'a [u8]),
    /// Bytes between content and the next header, in pieces.
    Padding(&'a [u8]),
    /// All that follows the two zero blocks, in pieces.
    Trailing(&'a [u8]),
    /// The bytes so far ended a PAX global header, which container runtimes ignore.
    GlobalHeader,
}

/// Reads one tar. After an error it must not be used again.
#[derive(Debug)]
pub struct Scanner {
    offset: u64,
    /// Where the group of headers being read starts.
    start: u64,
    state: State,
    /// The part of a block or extension that has arrived.
    buffer: Vec<u8>,
    pending: Pending,
    /// The last member's name, for the error of a truncated tar.
    current: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Header,
    Extension { kind: Extension, len: u64 },
    OldSparse { fields: Box<Fields>, map: OldMap },
    SparseMap { fields: Box<Fields>, size: i64, map: ContentMap, stored: Range<u64> },
    Content { end: u64 },
    Padding { end: u64 },
    ZeroBlock,
    Trailing,
}

#[derive(Clone, Copy, Debug)]
enum Extension {
    Pax,
    GlobalPax,
    LongName,
    LongLink,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner at the start of a tar.
    pub fn new() -> Self {
        Self {
            offset: 0,
            start: 0,
            state: State::Header,
            buffer: Vec::new(),
            pending: Pending::default(),
            current: Vec::new(),
        }
    }

    /// Bytes pushed so far.
    pub fn offset(&self) -> TarOffset {
        TarOffset(self.offset)
    }

    /// Takes the next bytes of the tar, of any number.
    pub fn push(&mut self, mut input: &[u8], sink: &mut impl FnMut(Event<'_>)) -> Result<(), ScanError> {
        while !input.is_empty() {
            let wanted = self.wanted();
            let take = usize::try_from(wanted).unwrap_or(usize::MAX).min(input.len());
            let (piece, rest) = input.split_at(take);
            input = rest;
            self.offset += piece.len() as u64;
            match self.state {
                State::Content { .. } => sink(Event::Content(piece)),
                State::Padding { .. } => sink(Event::Padding(piece)),
                State::Trailing => sink(Event::Trailing(piece)),
                _ => {
                    self.buffer.extend_from_slice(piece);
                    sink(Event::Header(piece));
                }
            }
            if piece.len() as u64 == wanted {
                self.step(sink).map_err(|problem| ScanError { at: TarOffset(self.start), problem })?;
            }
        }
        Ok(())
    }

    /// Bytes of the last member's content that have not been pushed.
    pub fn content_left(&self) -> u64 {
        if let State::Content { end } = self.state { end - self.offset } else { 0 }
    }

    /// Passes over what is left of the last member's content, as if it had been pushed; how many bytes that was.
    /// The map of a sparse file that lies in front of its content is no content.
    pub fn skip_content(&mut self) -> u64 {
        let skipped = self.content_left();
        if let State::Content { end } = self.state {
            self.offset = end;
            self.state = after_content(end);
            self.note_start();
        }
        skipped
    }

    /// Declares the tar complete.
    pub fn finish(self) -> Result<(), ScanError> {
        let problem = match self.state {
            State::Content { end } => {
                Problem::TruncatedContent { name: shown(&self.current), missing: end - self.offset }
            }
            State::Padding { .. } | State::Trailing => return Ok(()),
            State::Header | State::ZeroBlock if self.buffer.len().is_multiple_of(BLOCK_USIZE) => {
                return Ok(());
            }
            _ => Problem::TruncatedHeader,
        };
        Err(ScanError { at: TarOffset(self.offset), problem })
    }

    /// Bytes until the present state is complete.
    fn wanted(&self) -> u64 {
        let missing = |len: u64| len - self.buffer.len() as u64;
        match &self.state {
            State::Header | State::ZeroBlock | State::OldSparse { .. } | State::SparseMap { .. } => {
                missing(BLOCK)
            }
            State::Extension { len, .. } => missing(len + padding_of(*len)),
            State::Content { end } | State::Padding { end } => end - self.offset,
            State::Trailing => u64::MAX,
        }
    }

    /// The present state is complete: what it held decides the next.
    fn step(&mut self, sink: &mut impl FnMut(Event<'_>)) -> Result<(), Problem> {
        let state = std::mem::replace(&mut self.state, State::Header);
        let buffer = std::mem::take(&mut self.buffer);
        let next = match state {
            State::Header => self.header(&buffer, sink)?,
            State::Extension { kind, len } => self.extension(kind, &buffer, len, sink)?,
            State::OldSparse { fields, mut map } => {
                map.extend(block_of(&buffer)?)?;
                self.old_sparse(fields, map, sink)?
            }
            State::SparseMap { fields, size, mut map, stored } => {
                let refuse = |what| Problem::Sparse { name: shown(&fields.name), what };
                let stored = self.offset..stored.end;
                match map.push(&buffer).map_err(refuse)? {
                    Some(map) => self.member(&fields, size, Some(&map), stored, sink)?,
                    None if stored.start + BLOCK > stored.end => return Err(refuse("map is cut short")),
                    None => State::SparseMap { fields, size, map, stored },
                }
            }
            State::Content { end } => after_content(end),
            State::Padding { .. } => State::Header,
            State::ZeroBlock if is_zero(&buffer) => State::Trailing,
            State::ZeroBlock => return Err(Problem::LoneZeroBlock),
            State::Trailing => State::Trailing,
        };
        self.state = next;
        // Buffers of extensions are rare and may be large: only a block's is kept.
        if buffer.capacity() <= 4 * BLOCK_USIZE {
            self.buffer = buffer;
            self.buffer.clear();
        }
        self.note_start();
        Ok(())
    }

    /// Where a group of headers may start, the next one does.
    fn note_start(&mut self) {
        if matches!(self.state, State::Header) && self.pending.is_empty() {
            self.start = self.offset;
        }
    }

    fn header(&mut self, block: &[u8], sink: &mut impl FnMut(Event<'_>)) -> Result<State, Problem> {
        if is_zero(block) {
            return Ok(State::ZeroBlock);
        }
        let block = block_of(block)?;
        let fields = Fields::parse(block)?;
        let extension = match fields.typeflag {
            b'x' => Extension::Pax,
            b'g' => Extension::GlobalPax,
            b'L' => Extension::LongName,
            b'K' => Extension::LongLink,
            b'S' if fields.dialect == Dialect::Gnu => {
                return self.old_sparse(Box::new(fields), OldMap::from_header(block)?, sink);
            }
            _ => return self.plain(Box::new(fields), sink),
        };
        let len = size_of(&fields.name, fields.size)?;
        if len > EXTENSION_LIMIT {
            return Err(Problem::ExtensionTooLong { len, limit: EXTENSION_LIMIT });
        }
        match len {
            0 => self.extension(extension, &[], 0, sink),
            _ => Ok(State::Extension { kind: extension, len }),
        }
    }

    fn extension(
        &mut self,
        kind: Extension,
        padded: &[u8],
        len: u64,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<State, Problem> {
        let content = usize::try_from(len).ok().and_then(|len| padded.get(..len)).unwrap_or(padded);
        match kind {
            Extension::Pax => self.pending.pax = Pax::parse(content)?,
            Extension::LongName => self.pending.long_name = c_string(content).to_vec(),
            Extension::LongLink => self.pending.long_link = c_string(content).to_vec(),
            Extension::GlobalPax => {
                Pax::parse(content)?;
                self.pending = Pending::default();
                sink(Event::GlobalHeader);
                return Ok(State::Header);
            }
        }
        self.pending.any = true;
        Ok(State::Header)
    }

    /// A header that no extension block follows: what it says together with what came before it.
    fn plain(&mut self, mut fields: Box<Fields>, sink: &mut impl FnMut(Event<'_>)) -> Result<State, Problem> {
        self.pending.apply(&mut fields);
        if fields.typeflag == 0 {
            fields.typeflag = if fields.name.ends_with(b"/") { b'5' } else { b'0' };
        }
        let stored = self.stored(&fields)?;
        let sparse = &self.pending.pax.sparse;
        let kind = sparse.kind();
        if kind == PaxSparse::No {
            let size = fields.size;
            return self.member(&fields, size, None, stored, sink);
        }
        let size = sparse.size.or(sparse.real_size).unwrap_or(fields.size);
        if let Some(name) = &sparse.name {
            fields.name.clone_from(name);
        }
        let refuse = |what| Problem::Sparse { name: shown(&fields.name), what };
        if !is_regular(fields.typeflag) {
            return Err(refuse("not a regular file"));
        }
        match kind {
            PaxSparse::InContent if stored.is_empty() => Err(refuse("map is cut short")),
            PaxSparse::InContent => Ok(State::SparseMap { fields, size, map: ContentMap::default(), stored }),
            _ => {
                let map = sparse.stretches().map_err(refuse)?;
                self.member(&fields, size, Some(&map), stored, sink)
            }
        }
    }

    fn old_sparse(
        &mut self,
        mut fields: Box<Fields>,
        map: OldMap,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<State, Problem> {
        if map.more {
            return Ok(State::OldSparse { fields, map });
        }
        self.pending.apply(&mut fields);
        let stored = self.stored(&fields)?;
        self.member(&fields, map.real_size, Some(&map.stretches), stored, sink)
    }

    /// The bytes of tar that hold a member's content; links, directories and devices have none.
    fn stored(&self, fields: &Fields) -> Result<Range<u64>, Problem> {
        let size = size_of(&fields.name, fields.size)?;
        let len = if matches!(fields.typeflag, b'1'..=b'6') { 0 } else { size };
        let end = self.offset.checked_add(len).filter(|end| end.checked_add(BLOCK).is_some());
        Ok(self.offset..end.ok_or(Problem::Number("size"))?)
    }

    /// Announces a member, and says what follows it.
    fn member(
        &mut self,
        fields: &Fields,
        size: i64,
        map: Option<&[Stretch]>,
        stored: Range<u64>,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<State, Problem> {
        let pending = std::mem::take(&mut self.pending);
        let content = match map {
            Some(map) => place(&fields.name, map, size_of(&fields.name, size)?, &stored)?,
            None => Content::Contiguous(TarOffset(stored.start)),
        };
        let entry = entry_of(fields, size, content, pending.pax)?;
        self.current.clone_from(&fields.name);
        let end = stored.end;
        let written = Written::of(fields, size);
        let empty = stored.is_empty();
        sink(Event::Member(Box::new(Member {
            entry,
            header: TarOffset(self.start),
            content: stored,
            written,
        })));
        Ok(if empty { State::Header } else { State::Content { end } })
    }
}

fn after_content(end: u64) -> State {
    match padding_of(end) {
        0 => State::Header,
        padding => State::Padding { end: end + padding },
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// A state that collects blocks completes with exactly one.
fn block_of(buffer: &[u8]) -> Result<&[u8; BLOCK_USIZE], Problem> {
    buffer.try_into().map_err(|_| Problem::TruncatedHeader)
}

#[cfg(test)]
#[path = "scanner_tests.rs"]
mod tests;
