//! Reads a tar-split back: the headers of a tar whose files' content lies elsewhere.
//!
//! The raw bytes go through the tar scanner as if they were the tar, and content is passed over. So
//! what comes out is what scanning the tar would give, and a tar-split that is not that of a tar is
//! refused. Bytes between two files' content are digested on the way: they belong to no file, and are
//! known here before any of the blob has been read.

use std::borrow::Cow;
use std::io::BufRead;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::SpanDigest;
use crate::tar::{Event, Member, ScanError, Scanner};

/// Bytes of one line: raw bytes before one entry, that is padding and up to four extensions of a MiB.
const MAX_LINE: u64 = 8 << 20;

/// Why a tar-split is not that of a layer.
#[derive(Debug, thiserror::Error)]
pub enum TarSplitError {
    /// It does not decompress.
    #[error("tar-split does not decompress: {0}")]
    Compression(std::io::Error),
    /// A line is not the JSON it should be.
    #[error("tar-split line {line}: {source}")]
    Json {
        /// Its number, from 0.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line says something that cannot be.
    #[error("tar-split line {line}: {what}")]
    Line {
        /// Its number, from 0.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The raw bytes are no headers of a tar.
    #[error("tar-split: {0}")]
    Scan(#[from] ScanError),
}

/// Bytes of the tar that are no file's content, all between one file's and the next one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Between {
    pub range: Range<u64>,
    /// SHA-256.
    pub digest: SpanDigest,
}

/// One entry of the tar.
pub(super) struct Found {
    pub member: Box<Member>,
    /// What lies between the content before and this entry's, if it has any.
    pub before: Option<Between>,
}

/// A tar-split being read.
pub(super) struct Replay<R> {
    lines: R,
    line: Vec<u8>,
    number: u64,
    scanner: Scanner,
    /// The entry whose headers have come and whose line has not.
    member: Option<Box<Member>>,
    between: Sha256,
    between_start: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    name_raw: Option<Cow<'a, str>>,
    #[serde(default)]
    size: u64,
    #[serde(default, borrow)]
    payload: Option<Cow<'a, str>>,
    position: u64,
}

impl<R: BufRead> Replay<R> {
    pub fn new(lines: R) -> Self {
        Self {
            lines,
            line: Vec::new(),
            number: 0,
            scanner: Scanner::new(),
            member: None,
            between: Sha256::new(),
            between_start: 0,
        }
    }

    /// The next entry; `None` after the last.
    pub fn next_entry(&mut self) -> Result<Option<Found>, TarSplitError> {
        while self.read_line()? {
            let line = std::mem::take(&mut self.line);
            let number = self.number;
            let parsed: Line<'_> = serde_json::from_slice(&line)
                .map_err(|source| TarSplitError::Json { line: number, source })?;
            if parsed.position != number {
                return Err(self.bad("its position is not its number"));
            }
            let found = match parsed.kind {
                1 => Some(self.entry(&parsed)?),
                2 => {
                    self.raw(&self.base64(parsed.payload.as_deref().unwrap_or_default())?)?;
                    None
                }
                _ => return Err(self.bad("unknown type")),
            };
            self.line = line;
            self.number += 1;
            if found.is_some() {
                return Ok(found);
            }
        }
        match self.member {
            None => Ok(None),
            Some(_) => Err(self.bad("headers that no entry claims, and the tar-split's end")),
        }
    }

    /// Length of the tar, and what lies behind the last content. Call it after the last entry.
    pub fn finish(self) -> Result<(u64, Option<Between>), TarSplitError> {
        let end = self.scanner.offset().0;
        self.scanner.finish()?;
        let range = self.between_start..end;
        let digest = SpanDigest(self.between.finalize().into());
        Ok((end, (!range.is_empty()).then_some(Between { range, digest })))
    }

    /// Reads a line of at most [`MAX_LINE`]; whether there was one.
    fn read_line(&mut self) -> Result<bool, TarSplitError> {
        self.line.clear();
        let mut limited = std::io::Read::take(&mut self.lines, MAX_LINE);
        let len = limited.read_until(b'\n', &mut self.line).map_err(TarSplitError::Compression)?;
        if len as u64 == MAX_LINE {
            return Err(self.bad("it is longer than any headers"));
        }
        Ok(len > 0)
    }

    /// Raw bytes: headers, and padding.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), TarSplitError> {
        self.between.update(bytes);
        let (member, mut refused) = (&mut self.member, None);
        self.scanner.push(bytes, &mut |event| match event {
            Event::Member(found) => {
                refused = member.replace(found).map(|_| "headers that no entry claims").or(refused);
            }
            Event::Content(_) => refused = Some("raw bytes where a file's content should be"),
            _ => {}
        })?;
        refused.map_or(Ok(()), |what| Err(self.bad(what)))
    }

    /// An entry's own line: its headers have come, and its content is passed over.
    fn entry(&mut self, line: &Line<'_>) -> Result<Found, TarSplitError> {
        let member = self.member.take().ok_or_else(|| self.bad("an entry without headers"))?;
        let name = match &line.name_raw {
            Some(raw) => Cow::Owned(self.base64(raw)?),
            None => Cow::Borrowed(line.name.as_bytes()),
        };
        if *name != *member.written.name {
            return Err(self.bad("its name is not that of its headers"));
        }
        if line.size != self.scanner.content_left() {
            return Err(self.bad("its size is not that of its headers"));
        }
        let mut before = None;
        if self.scanner.skip_content() > 0 {
            let range = self.between_start..member.content.start;
            before = Some(Between { range, digest: SpanDigest(self.between.finalize_reset().into()) });
            self.between_start = member.content.end;
        }
        Ok(Found { member, before })
    }

    fn base64(&self, text: &str) -> Result<Vec<u8>, TarSplitError> {
        STANDARD.decode(text).map_err(|_| self.bad("its payload is not base64"))
    }

    fn bad(&self, what: &'static str) -> TarSplitError {
        TarSplitError::Line { line: self.number, what }
    }
}
