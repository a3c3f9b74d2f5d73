//! Traces: what one start touched of an image's files, in the order in which it touched it first.
//!
//! Text, one JSON object a line: what was traced, then a touch a line. A touch names a file by its path and a range of it, so
//! that it means something in the next version of the image as well. Traces are written by nodes and read where packs are
//! made: hostile until they are parsed.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The version that is written, and read.
const VERSION: u32 = 1;
/// Bytes of a trace, and touches in one: a start that touches more is no start that a pack could help.
pub const MAX_TRACE_LEN: usize = 16 << 20;
/// See [`MAX_TRACE_LEN`].
pub const MAX_TOUCHES: usize = 1 << 16;

/// What one start touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The first line.
    pub head: TraceHead,
    /// In order of first touch.
    pub touches: Vec<Touch>,
}

/// What was traced, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceHead {
    /// Version of the format.
    pub jaunt_trace: u32,
    /// What the node calls the image.
    pub image: String,
    /// Digest of the launch index.
    pub index: Digest,
    /// How many of its layers were mounted.
    pub prefix: u16,
    /// When the first touch was, in milliseconds since 1970.
    pub started_ms: u64,
    /// Milliseconds from the first touch to the last one that counts.
    pub ready_ms: u64,
    /// Whether the touches came to rest by themselves, and not because time was up.
    pub settled: bool,
}

/// A range of a file that was touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// The file, without a slash at the start.
    pub path: String,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Milliseconds since the first touch.
    pub ms: u64,
}

/// Why bytes are no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// More than a start touches.
    #[error("a trace of {actual} {what}, more than {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many.
        actual: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A line is not what it should be.
    #[error("line {line} of a trace: {source}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It has no lines.
    #[error("an empty trace")]
    Empty,
    /// Written by a later version.
    #[error("trace has version {0}; this program reads version {VERSION}")]
    Version(u32),
}

impl TraceHead {
    /// That of a trace of this version, in which nothing has been touched yet.
    pub fn new(image: String, index: Digest, prefix: u16) -> Self {
        Self { jaunt_trace: VERSION, image, index, prefix, started_ms: 0, ready_ms: 0, settled: false }
    }
}

impl Trace {
    /// The text. What would make it longer than [`MAX_TRACE_LEN`] is left out: paths are as long as an image's author likes.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let head = serde_json::to_string(&self.head);
        let touches = self.touches.iter().map(serde_json::to_string);
        for line in std::iter::once(head).chain(touches).flatten() {
            if text.len() + line.len() >= MAX_TRACE_LEN {
                break;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// Reads a text.
    ///
    /// # Errors
    /// It is no trace, or too large a one.
    pub fn parse(text: &[u8]) -> Result<Self, TraceError> {
        limited("bytes", text.len(), MAX_TRACE_LEN)?;
        let mut lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let failed = |line: usize| move |source| TraceError::Line { line: line + 1, source };
        let (number, first) = lines.next().ok_or(TraceError::Empty)?;
        let head: TraceHead = serde_json::from_slice(first).map_err(failed(number))?;
        if head.jaunt_trace != VERSION {
            return Err(TraceError::Version(head.jaunt_trace));
        }
        let mut touches = Vec::new();
        for (number, line) in lines {
            touches.push(serde_json::from_slice(line).map_err(failed(number))?);
            limited("touches", touches.len(), MAX_TOUCHES)?;
        }
        Ok(Self { head, touches })
    }
}

fn limited(what: &'static str, actual: usize, limit: usize) -> Result<(), TraceError> {
    if actual > limit { Err(TraceError::TooLarge { what, actual, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_comes_back_and_junk_is_refused_by_line() {
        let head =
            TraceHead { ready_ms: 70, settled: true, ..TraceHead::new("r/a".to_owned(), Digest::of(b""), 3) };
        let touch = |path: &str| Touch { path: path.to_owned(), offset: 4096, len: 10, ms: 3 };
        let trace = Trace { head, touches: vec![touch("bin/a"), touch("odd \"\n name")] };
        let text = trace.to_text();
        assert_eq!(Trace::parse(text.as_bytes()).unwrap(), trace);
        assert!(text.starts_with("{\"jauntTrace\":1,"), "{text}");
        for (bad, what) in [
            (String::new(), "empty"),
            ("x".to_owned(), "line 1"),
            (text.replace("\"offset\":4096", "\"offset\":-1"), "line 2"),
            (text.replace("jauntTrace\":1", "jauntTrace\":2"), "version 2"),
            ("x".repeat(MAX_TRACE_LEN + 1), "bytes, more than"),
        ] {
            let error = Trace::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_trace_that_is_written_can_be_read() {
        let touch = Touch { path: "x".repeat(4000), offset: 0, len: 1, ms: 0 };
        let head = TraceHead::new("r/a".to_owned(), Digest::of(b""), 1);
        let trace = Trace { head, touches: vec![touch; 5000] };
        let read = Trace::parse(trace.to_text().as_bytes()).unwrap();
        assert!((4000..5000).contains(&read.touches.len()), "{}", read.touches.len());
    }
}
