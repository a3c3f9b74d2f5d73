//! A blob that arrives asynchronously, read by a thread: hashed as it comes, decompressed on request.

use std::io::{self, BufRead, Read};
use std::pin::pin;

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _};
use jaunt_formats::Digest;
use jaunt_formats::compression::{self, Compression, MAGIC_LEN, ZstdError};
use jaunt_formats::tar::ScanError;
use jaunt_formats::zstd_chunked::{PlanError, TableError};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::place::PlaceError;

/// Pieces under way between the network and the thread; each has up to 64 KiB or so.
const QUEUE: usize = 32;

/// How much a blob may decode to: without a limit, one of a gigabyte keeps us busy for a day. gzip packs zeros
/// 1,000 to 1 and zstd 32,000 to 1; layers that programs run from, 2 to 4 to 1.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes that any blob may decode to.
    free: u64,
    /// Bytes more for each byte of the blob.
    ratio: u64,
}

const BOUNDS: Bounds = Bounds { free: 16 << 30, ratio: 200 };

/// Why a layer could not be read through.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("cannot decompress {kind}: {source}")]
    Decompress { kind: &'static str, source: io::Error },
    /// The same, with what the blob turned out to be.
    #[error("cannot decompress {kind}: {source}")]
    Corrupt { kind: &'static str, source: io::Error, blob: BlobRead },
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Zstd(#[from] ZstdError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("its first {blob} bytes decode to more than {limit}: no layer is that regular")]
    Bomb { blob: u64, limit: u64 },
    #[error("interrupted")]
    Interrupted,
}

/// The sending half: what the network delivers.
pub type Sender = mpsc::Sender<Result<Bytes, PlaceError>>;

/// A channel's two halves.
pub fn channel() -> (Sender, BlobReader) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    (sender, BlobReader { pieces, piece: Bytes::new(), digest: Sha256::new(), len: 0 })
}

/// Passes a blob on until it ends, nobody reads it any more, or it is longer than it should be: what
/// follows then makes it no better.
pub async fn pump(blob: impl Stream<Item = Result<Bytes, PlaceError>>, expected_len: u64, sender: Sender) {
    let (mut blob, mut len) = (pin!(blob), 0);
    while let Some(piece) = blob.next().await {
        len += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if sender.send(piece).await.is_err() || len > expected_len {
            return;
        }
    }
}

/// The reading half; for threads only.
pub struct BlobReader {
    pieces: mpsc::Receiver<Result<Bytes, PlaceError>>,
    piece: Bytes,
    digest: Sha256,
    len: u64,
}

/// What has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRead {
    pub digest: Digest,
    pub len: u64,
}

impl BlobReader {
    /// Reads what is left, and tells what all of it was.
    pub fn finish(mut self) -> Result<BlobRead, StreamError> {
        loop {
            let len = self.fill_buf().map_err(|error| explain("the blob", error))?.len();
            if len == 0 {
                return Ok(BlobRead {
                    digest: Digest::from_bytes(self.digest.finalize().into()),
                    len: self.len,
                });
            }
            self.consume(len);
        }
    }
}

impl BufRead for BlobReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => break,
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(piece)) => {
                    self.digest.update(&piece);
                    self.len += piece.len() as u64;
                    self.piece = piece;
                }
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount);
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

/// The place's own error if that is what stopped a decompressor, else the decompressor's.
pub fn explain(kind: &'static str, error: io::Error) -> StreamError {
    error
        .downcast::<PlaceError>()
        .map_or_else(|source| StreamError::Decompress { kind, source }, StreamError::Place)
}

type Peeked = io::Chain<io::Cursor<Vec<u8>>, BlobReader>;

/// A layer's tar, out of whatever the blob is compressed with.
pub struct TarReader {
    decoder: Decoder,
    /// Bytes of tar so far.
    len: u64,
    bounds: Bounds,
}

enum Decoder {
    Plain(Peeked),
    Gzip(Box<MultiGzDecoder<Peeked>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Peeked>>),
}

impl TarReader {
    /// Looks at the blob's first bytes to see what it is.
    pub fn new(blob: BlobReader) -> Result<Self, StreamError> {
        Ok(Self { decoder: Decoder::new(blob)?, len: 0, bounds: BOUNDS })
    }

    pub fn compression(&self) -> Compression {
        match self.decoder {
            Decoder::Plain(_) => Compression::None,
            Decoder::Gzip(_) => Compression::Gzip,
            Decoder::Zstd(_) => Compression::Zstd,
        }
    }

    /// Reads until the buffer is full or the tar ends.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let (kind, read) = self.decoder.read(&mut buffer[filled..]);
            match read {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(explain(kind, error)),
            }
        }
        self.len += filled as u64;
        let blob = self.decoder.blob_len();
        let limit = self.bounds.free.saturating_add(self.bounds.ratio.saturating_mul(blob));
        if self.len > limit { Err(StreamError::Bomb { blob, limit }) } else { Ok(filled) }
    }

    /// Reads the blob to its end, and tells what all of it was.
    pub fn finish(self) -> Result<BlobRead, StreamError> {
        let (_, blob) = match self.decoder {
            Decoder::Plain(peeked) => peeked,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
        }
        .into_inner();
        blob.finish()
    }
}

impl Decoder {
    fn new(mut blob: BlobReader) -> Result<Self, StreamError> {
        let mut start = Vec::with_capacity(MAGIC_LEN);
        let peeked = blob.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut start);
        peeked.map_err(|error| explain("the blob", error))?;
        let kind = compression::detect(&start);
        let peeked = Read::chain(io::Cursor::new(start), blob);
        Ok(match kind {
            Compression::None => Self::Plain(peeked),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(peeked))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(peeked);
                Self::Zstd(Box::new(decoder.map_err(|error| explain("zstd", error))?))
            }
        })
    }

    /// Some bytes, and what they are decoded from.
    fn read(&mut self, buffer: &mut [u8]) -> (&'static str, io::Result<usize>) {
        match self {
            Self::Plain(reader) => ("a plain tar", reader.read(buffer)),
            Self::Gzip(reader) => ("gzip", reader.read(buffer)),
            Self::Zstd(reader) => ("zstd", reader.read(buffer)),
        }
    }

    /// Bytes of the blob that have arrived.
    fn blob_len(&self) -> u64 {
        let peeked = match self {
            Self::Plain(peeked) => peeked,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        };
        peeked.get_ref().1.len
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// How much a blob decodes to within these bounds, and how much of that came before an error.
    fn decoded(blob: &[u8], bounds: Bounds) -> (Result<(), StreamError>, u64) {
        let (sender, reader) = channel();
        sender.try_send(Ok(Bytes::copy_from_slice(blob))).unwrap();
        drop(sender);
        let mut tar = TarReader { bounds, ..TarReader::new(reader).unwrap() };
        let mut buffer = vec![0; 64 << 10];
        loop {
            match tar.fill(&mut buffer) {
                Ok(0) => {
                    let len = tar.len;
                    return (tar.finish().map(drop), len);
                }
                Ok(_) => {}
                Err(error) => return (Err(error), tar.len),
            }
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_what_its_length_allows() {
        let zeros = vec![0; 8 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&zeros).unwrap();
        for blob in [gzip.finish().unwrap(), zstd::encode_all(zeros.as_slice(), 1).unwrap()] {
            let limit = (1 << 20) + 2 * blob.len() as u64;
            let (stopped, len) = decoded(&blob, Bounds { free: 1 << 20, ratio: 2 });
            assert!(
                matches!(stopped, Err(StreamError::Bomb { limit: at, .. }) if at == limit),
                "{stopped:?}"
            );
            assert!((limit..limit + (64 << 10) + 1).contains(&len), "{len}");
            for enough in [Bounds { free: 8 << 20, ratio: 0 }, Bounds { free: 0, ratio: 40_000 }] {
                let (done, len) = decoded(&blob, enough);
                assert!(done.is_ok() && len == 8 << 20, "{done:?}");
            }
        }
        let (plain, _) = decoded(&zeros, BOUNDS);
        assert!(plain.is_ok());
    }
}
