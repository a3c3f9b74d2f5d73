//! Telling compressions apart, and zstd frames with contexts that are reused.
//!
//! A new zstd context costs a third of a small frame's time, so encoder and decoder keep theirs.
//! Frames carry their content size and no checksum: spans have digests.

use sha2::{Digest as _, Sha256};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use crate::Digest;
pub use crate::launch::Compression;
use crate::spool::{NewSpool, SpoolWriter, Spooled};

/// Bytes that [`detect`] needs to see.
pub const MAGIC_LEN: usize = 4;

/// Skippable frames have this length before their data: magic number and length.
pub const SKIPPABLE_HEADER_LEN: u64 = 8;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a blob's first bytes say it is. Media types are not asked: builders get them wrong.
pub fn detect(start: &[u8]) -> Compression {
    match start {
        _ if start.starts_with(&GZIP_MAGIC) => Compression::Gzip,
        _ if start.starts_with(&ZSTD_MAGIC) => Compression::Zstd,
        // A skippable frame, sixteen magic numbers of them, may come first.
        [nibble, 0x2a, 0x4d, 0x18, ..] if nibble & 0xf0 == 0x50 => Compression::Zstd,
        _ => Compression::None,
    }
}

/// libzstd refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZstdError {
    /// Its own words.
    #[error("zstd: {0}")]
    Library(&'static str),
    /// The bytes decode to another length than they should.
    #[error("zstd: decodes to {actual} bytes instead of {expected}")]
    Length {
        /// What they should decode to.
        expected: usize,
        /// What they decode to.
        actual: usize,
    },
}

/// A layer's tables cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The compressor failed.
    #[error(transparent)]
    Zstd(#[from] ZstdError),
    /// There is no room for what is known of the entries, or it cannot be read back.
    #[error("cannot set aside what is known of the layer's entries: {0}")]
    Spool(#[from] std::io::Error),
}

fn library(code: usize) -> ZstdError {
    ZstdError::Library(zstd_safe::get_error_name(code))
}

/// Name and version of the compressor: part of a blob's recipe, since versions differ in output.
pub fn encoder_version() -> String {
    format!("libzstd {}", zstd_safe::version_string())
}

/// Makes whole frames, one after the other, on one context.
pub struct FrameEncoder {
    context: CCtx<'static>,
    scratch: Vec<u8>,
}

impl FrameEncoder {
    /// An encoder at a compression level.
    pub fn new(level: i32) -> Result<Self, ZstdError> {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
        ] {
            context.set_parameter(parameter).map_err(library)?;
        }
        Ok(Self { context, scratch: Vec::new() })
    }

    /// Appends one frame that holds `input` to `output`; its length.
    pub fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, ZstdError> {
        let bound = zstd_safe::compress_bound(input.len());
        if self.scratch.len() < bound {
            self.scratch.resize(bound, 0);
        }
        let len = self.context.compress2(&mut self.scratch[..], input).map_err(library)?;
        output.extend_from_slice(&self.scratch[..len]);
        Ok(len)
    }
}

/// Bytes that a frame may hold behind those it is read for: padding, and the headers of what follows.
pub const MAX_SURPLUS: usize = 1 << 20;

/// Decodes runs of whole frames on one context.
pub struct FrameDecoder {
    context: DCtx<'static>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder.
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Decodes frames to exactly `len` bytes. Never writes, nor allocates, more than that, and zeroes nothing first.
    pub fn decode_to_vec(&mut self, frames: &[u8], len: usize) -> Result<Vec<u8>, ZstdError> {
        let mut output = Vec::with_capacity(len);
        let actual = self.context.decompress(&mut output, frames).map_err(library)?;
        if actual == len { Ok(output) } else { Err(ZstdError::Length { expected: len, actual }) }
    }

    /// Decodes frames to their first `len` bytes, where the last may hold up to [`MAX_SURPLUS`] more and declares it.
    pub fn decode_prefix(&mut self, frames: &[u8], len: usize) -> Result<Vec<u8>, ZstdError> {
        let declared = zstd_safe::find_decompressed_size(frames).ok().flatten();
        let declared = declared.and_then(|declared| usize::try_from(declared).ok()).unwrap_or(len);
        if !(len..=len.saturating_add(MAX_SURPLUS)).contains(&declared) {
            return Err(ZstdError::Length { expected: len, actual: declared });
        }
        let mut output = self.decode_to_vec(frames, declared)?;
        output.truncate(len);
        Ok(output)
    }

    /// Decodes frames that hold exactly as many bytes as `output`.
    pub fn decode(&mut self, frames: &[u8], output: &mut [u8]) -> Result<(), ZstdError> {
        let actual = self.context.decompress(output, frames).map_err(library)?;
        if actual == output.len() {
            Ok(())
        } else {
            Err(ZstdError::Length { expected: output.len(), actual })
        }
    }
}

/// Makes one frame of bytes that come in pieces; the frame lies in a spool.
pub(crate) struct StreamEncoder {
    context: CCtx<'static>,
    output: SpoolWriter,
    digest: Sha256,
    scratch: Vec<u8>,
    raw_len: u64,
}

/// A finished frame.
pub(crate) struct SpooledFrame {
    pub bytes: Spooled,
    pub digest: Digest,
    pub raw_len: u64,
}

impl StreamEncoder {
    pub fn new(level: i32, spool: NewSpool) -> Result<Self, ZstdError> {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(library)?;
        let (output, scratch) = (SpoolWriter::new(spool), vec![0; CCtx::out_size()]);
        Ok(Self { context, output, digest: Sha256::new(), scratch, raw_len: 0 })
    }

    /// Bytes taken so far.
    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    pub fn push(&mut self, input: &[u8]) -> Result<(), TableError> {
        self.raw_len += input.len() as u64;
        let mut input = InBuffer::around(input);
        while input.pos() < input.src.len() {
            let mut output = OutBuffer::around(&mut self.scratch[..]);
            self.context.compress_stream(&mut output, &mut input).map_err(library)?;
            let len = output.pos();
            self.keep(len)?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<SpooledFrame, TableError> {
        loop {
            let mut output = OutBuffer::around(&mut self.scratch[..]);
            let left = self.context.end_stream(&mut output).map_err(library)?;
            let len = output.pos();
            self.keep(len)?;
            if left == 0 {
                let digest = Digest::from_bytes(self.digest.finalize().into());
                return Ok(SpooledFrame { bytes: self.output.finish()?, digest, raw_len: self.raw_len });
            }
        }
    }

    /// Sets aside what the scratch buffer starts with.
    fn keep(&mut self, len: usize) -> Result<(), TableError> {
        self.digest.update(&self.scratch[..len]);
        Ok(self.output.push(&self.scratch[..len])?)
    }
}

/// Decodes frames piece by piece: what they hold never lies in memory as a whole.
pub(crate) struct FrameReader<'a> {
    context: DCtx<'static>,
    input: InBuffer<'a>,
    /// Bytes that are still to come.
    left: u64,
}

/// The window, and so the memory, that a frame read piece by piece may ask for: log2 of 32 MiB.
const MAX_WINDOW_LOG: u32 = 25;

impl<'a> FrameReader<'a> {
    /// Reads frames that must hold exactly `len` bytes.
    pub fn new(frames: &'a [u8], len: u64) -> Result<Self, ZstdError> {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(library)?;
        Ok(Self { context, input: InBuffer::around(frames), left: len })
    }

    fn decode(&mut self, output: &mut [u8]) -> Result<usize, ZstdError> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(output.len());
        if room == 0 {
            return if output.is_empty() { Ok(0) } else { self.end() };
        }
        let mut output = OutBuffer::around(&mut output[..room]);
        loop {
            let (before, input) = (self.input.pos(), self.input.src.len());
            let hint = self.context.decompress_stream(&mut output, &mut self.input).map_err(library)?;
            let decoded = output.pos();
            if decoded > 0 {
                self.left -= decoded as u64;
                return Ok(decoded);
            }
            if self.input.pos() == input && (hint == 0 || before == input) {
                return Err(ZstdError::Library("the frame ends early"));
            }
        }
    }

    /// All is there; more would be too much.
    fn end(&mut self) -> Result<usize, ZstdError> {
        let mut more = [0];
        while self.input.pos() < self.input.src.len() {
            let mut output = OutBuffer::around(&mut more[..]);
            self.context.decompress_stream(&mut output, &mut self.input).map_err(library)?;
            if output.pos() > 0 {
                return Err(ZstdError::Library("the frame holds more than it should"));
            }
        }
        Ok(0)
    }
}

impl std::io::Read for FrameReader<'_> {
    fn read(&mut self, output: &mut [u8]) -> std::io::Result<usize> {
        self.decode(output).map_err(std::io::Error::other)
    }
}

/// The frame that every zstd decoder passes over, around `data`.
pub(crate) fn push_skippable(magic: [u8; 4], data: &[u8], output: &mut Vec<u8>) -> Result<u32, ZstdError> {
    let len = push_skippable_header(magic, data.len() as u64, output)?;
    output.extend_from_slice(data);
    Ok(len)
}

/// The start of such a frame, before `len` bytes of data; the length of the whole frame.
pub(crate) fn push_skippable_header(
    magic: [u8; 4],
    len: u64,
    output: &mut Vec<u8>,
) -> Result<u32, ZstdError> {
    let too_long = || ZstdError::Library("skippable frame over 4 GiB");
    let len = u32::try_from(len).map_err(|_| too_long())?;
    output.extend_from_slice(&magic);
    output.extend_from_slice(&len.to_le_bytes());
    len.checked_add(8).ok_or_else(too_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_compressions_by_their_magic() {
        for (start, want) in [
            (b"\x1f\x8b\x08\x00" as &[u8], Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x5e\x2a\x4d\x18", Compression::Zstd),
            (b"usr/", Compression::None),
            (b"", Compression::None),
        ] {
            assert_eq!(detect(start), want, "{start:?}");
        }
    }

    #[test]
    fn frames_join_and_decode_as_one() {
        let mut encoder = FrameEncoder::new(3).unwrap();
        let mut frames = Vec::new();
        let first = encoder.encode(b"hello ", &mut frames).unwrap();
        encoder.encode(b"world", &mut frames).unwrap();
        let mut decoder = FrameDecoder::new();
        let mut text = [0; 11];
        decoder.decode(&frames, &mut text).unwrap();
        assert_eq!(&text, b"hello world");
        assert_eq!(
            decoder.decode(&frames[..first], &mut text),
            Err(ZstdError::Length { expected: 11, actual: 6 })
        );
        assert!(decoder.decode(&frames, &mut [0; 5]).is_err());
        assert!(decoder.decode(b"garbage", &mut text).is_err());
        assert!(matches!(zstd_safe::get_frame_content_size(&frames), Ok(Some(6))));
    }

    #[test]
    fn pieces_make_one_frame() {
        let mut stream = StreamEncoder::new(3, crate::spool::in_memory).unwrap();
        let text: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        text.chunks(777).for_each(|piece| stream.push(piece).unwrap());
        assert_eq!(stream.raw_len(), text.len() as u64);
        let spooled = stream.finish().unwrap();
        let mut frame = Vec::new();
        std::io::Read::read_to_end(&mut spooled.bytes.reader(), &mut frame).unwrap();
        assert_eq!((spooled.digest, spooled.raw_len), (Digest::of(&frame), text.len() as u64));
        let mut back = vec![0; text.len()];
        FrameDecoder::new().decode(&frame, &mut back).unwrap();
        assert!(back == text);
    }

    #[test]
    fn frames_are_read_in_pieces_and_must_hold_what_they_should() {
        use std::io::Read as _;
        let text: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let (mut encoder, mut frames) = (FrameEncoder::new(3).unwrap(), Vec::new());
        text.chunks(400_000).for_each(|part| {
            encoder.encode(part, &mut frames).unwrap();
        });
        let read = |frames: &[u8], len: usize| {
            let mut back = Vec::new();
            FrameReader::new(frames, len as u64).unwrap().read_to_end(&mut back).map(|_| back)
        };
        assert!(read(&frames, text.len()).unwrap() == text);
        assert_eq!(read(&[], 0).unwrap(), b"");
        for (frames, len, what) in [
            (&frames[..], text.len() + 1, "ends early"),
            (&frames[..], text.len() - 1, "more than it should"),
            (&frames[..frames.len() - 1], text.len(), ""),
            (b"junk, not a frame", 3, "Unknown frame"),
            (b"", 1, "ends early"),
        ] {
            let error = read(frames, len).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
