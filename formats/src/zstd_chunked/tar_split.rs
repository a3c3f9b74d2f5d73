//! tar-split: what is needed besides the files' content to rebuild the tar, bit for bit.
//!
//! JSON, a document a line, numbered: `{"type":2,"payload":…}` carries raw bytes, everything between
//! two files' content as one piece; `{"type":1,"name":…,"size":…,"payload":…}` stands for an entry
//! and carries its content's CRC-64. Compressed as it is made.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::crc64::Crc64;
use crate::compression::{SpooledFrame, StreamEncoder, TableError, ZstdError};
use crate::spool::NewSpool;

/// Raw bytes after the end of the tar are split into pieces, so that no reader needs all at once.
const TRAILING_PIECE: usize = 1 << 20;
/// JSON collected before it is compressed.
const BATCH: usize = 64 << 10;

pub(super) struct TarSplit {
    encoder: StreamEncoder,
    json: Vec<u8>,
    raw: Vec<u8>,
    file: Option<File>,
    position: u64,
}

struct File {
    name: String,
    size: u64,
    crc: Crc64,
}

impl TarSplit {
    pub fn new(level: i32, spool: NewSpool) -> Result<Self, ZstdError> {
        Ok(Self {
            encoder: StreamEncoder::new(level, spool)?,
            json: Vec::with_capacity(2 * BATCH),
            raw: Vec::new(),
            file: None,
            position: 0,
        })
    }

    /// Bytes that are no content. A header stays in one piece with what precedes it.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.end_file()?;
        self.raw.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes behind the end of the tar.
    pub fn trailing(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.raw(bytes)?;
        while self.raw.len() >= TRAILING_PIECE {
            let rest = self.raw.split_off(TRAILING_PIECE);
            self.segment()?;
            self.raw = rest;
        }
        Ok(())
    }

    /// Bytes of it so far, before compression; they only grow.
    pub fn raw_len(&self) -> u64 {
        self.encoder.raw_len() + self.json.len() as u64
    }

    /// The headers of an entry are complete; `size` bytes of content follow.
    pub fn entry(&mut self, name: &str, size: u64) -> Result<(), TableError> {
        self.end_file()?;
        self.segment()?;
        self.file = Some(File { name: name.to_owned(), size, crc: Crc64::new() });
        Ok(())
    }

    pub fn content(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            file.crc.update(bytes);
        }
    }

    pub fn finish(mut self) -> Result<SpooledFrame, TableError> {
        self.end_file()?;
        self.segment()?;
        self.encoder.push(&self.json)?;
        self.encoder.finish()
    }

    fn segment(&mut self) -> Result<(), TableError> {
        if self.raw.is_empty() {
            return Ok(());
        }
        self.json.extend_from_slice(b"{\"type\":2,\"payload\":\"");
        push_base64(&mut self.json, &self.raw);
        self.json.push(b'"');
        self.raw.clear();
        self.end_line()
    }

    fn end_file(&mut self) -> Result<(), TableError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        self.json.extend_from_slice(b"{\"type\":1,\"name\":");
        self.json.extend_from_slice(json_string(&file.name).as_bytes());
        if file.size == 0 {
            self.json.extend_from_slice(b",\"payload\":null");
        } else {
            let start = format!(",\"size\":{},\"payload\":\"", file.size);
            self.json.extend_from_slice(start.as_bytes());
            push_base64(&mut self.json, &file.crc.finish().to_be_bytes());
            self.json.push(b'"');
        }
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), TableError> {
        let end = format!(",\"position\":{}}}\n", self.position);
        self.json.extend_from_slice(end.as_bytes());
        self.position += 1;
        if self.json.len() >= BATCH {
            self.encoder.push(&self.json)?;
            self.json.clear();
        }
        Ok(())
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn push_base64(json: &mut Vec<u8>, bytes: &[u8]) {
    let start = json.len();
    json.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The slice has exactly the length needed.
    let written = STANDARD.encode_slice(bytes, &mut json[start..]).unwrap_or(0);
    json.truncate(start + written);
}
