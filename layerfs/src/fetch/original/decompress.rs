//! From an original blob, piece by piece, to the layer's tar in a file.
//!
//! Held at a time: a piece, the decoder's window, and one block.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use jaunt_formats::DiffId;
use jaunt_formats::launch::Compression;

use crate::verify::whole::{BLOCK, TarWriter, WholeTar, WholeTarError};

/// Log2 of the window that zstd may ask for: 64 MiB, which is what containerd grants.
const WINDOW_LOG: u32 = 26;

/// Why there is no tar.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecompressError {
    /// The blob is not what it should be.
    #[error("cannot decompress {}: {}", .0.name(), .1)]
    Decode(Compression, #[source] io::Error),
    /// The tar is not the layer's, or cannot be written.
    #[error(transparent)]
    Tar(#[from] WholeTarError),
}

/// Takes a blob's pieces in order.
pub(super) struct Decompressor {
    decoder: Decoder,
    compression: Compression,
}

enum Decoder {
    None(Blocks),
    Gzip(Box<MultiGzDecoder<Blocks>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Blocks>>),
}

impl Decompressor {
    pub(super) fn new(tar: TarWriter, compression: Compression) -> Result<Self, DecompressError> {
        let blocks = Blocks { tar, block: Vec::with_capacity(BLOCK) };
        let decoder = match compression {
            Compression::None => Decoder::None(blocks),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(blocks))),
            Compression::Zstd => {
                let fail = |error| DecompressError::Decode(compression, error);
                let mut decoder = zstd::stream::write::Decoder::new(blocks).map_err(fail)?;
                decoder.window_log_max(WINDOW_LOG).map_err(fail)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { decoder, compression })
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), DecompressError> {
        let written = match &mut self.decoder {
            Decoder::None(blocks) => blocks.write_all(piece),
            Decoder::Gzip(decoder) => decoder.write_all(piece),
            Decoder::Zstd(decoder) => decoder.write_all(piece),
        };
        written.map_err(|error| explain(self.compression, error))
    }

    /// All has come: is it the layer?
    pub(super) fn finish(self, diff_id: DiffId) -> Result<WholeTar, DecompressError> {
        let compression = self.compression;
        let blocks = match self.decoder {
            Decoder::None(blocks) => Ok(blocks),
            Decoder::Gzip(decoder) => decoder.finish(),
            Decoder::Zstd(mut decoder) => decoder.flush().map(|()| decoder.into_inner()),
        };
        let mut blocks = blocks.map_err(|error| explain(compression, error))?;
        blocks.tar.push(&blocks.block)?;
        Ok(blocks.tar.finish(diff_id)?)
    }
}

/// The tar's own error if that is what stopped a decoder, else the decoder's.
fn explain(compression: Compression, error: io::Error) -> DecompressError {
    error
        .downcast::<WholeTarError>()
        .map_or_else(|error| DecompressError::Decode(compression, error), DecompressError::Tar)
}

/// A tar that is written in whole blocks.
struct Blocks {
    tar: TarWriter,
    block: Vec<u8>,
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..len]);
        if self.block.len() == BLOCK {
            self.tar.push(&self.block).map_err(io::Error::other)?;
            self.block.clear();
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::write::GzEncoder;
    use jaunt_formats::Digest;

    use super::*;

    fn run(
        blob: &[u8],
        compression: Compression,
        tar: &[u8],
        len: usize,
    ) -> Result<WholeTar, DecompressError> {
        let tar_writer = TarWriter::new(tempfile::tempfile().unwrap(), len as u64);
        let mut decompressor = Decompressor::new(tar_writer, compression)?;
        blob.chunks(10_000).try_for_each(|piece| decompressor.push(piece))?;
        decompressor.finish(DiffId(Digest::of(tar)))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn any_compression_of_the_layer_will_do_in_one_piece_or_many() {
        let tar: Vec<u8> = (0..200_000_u32).flat_map(|at| (at ^ at << 9).to_le_bytes()).collect();
        let (head, rest) = tar.split_at(300_000);
        for (blob, compression) in [
            (tar.clone(), Compression::None),
            (gzip(&tar), Compression::Gzip),
            ([gzip(head), gzip(b""), gzip(rest)].concat(), Compression::Gzip),
            (crate::decode::tests::frames(&tar, 77_777), Compression::Zstd),
        ] {
            assert!(run(&blob, compression, &tar, tar.len()).is_ok(), "{compression:?}");
            let cut = run(&blob[..blob.len() - 9], compression, &tar, tar.len());
            assert!(cut.is_err(), "{compression:?} cut short");
        }
        assert!(matches!(run(b"no gzip", Compression::Gzip, &tar, 9), Err(DecompressError::Decode(..))));
    }

    #[test]
    fn a_bomb_ends_at_the_length_of_the_layer() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let outcome = run(&bomb, Compression::Gzip, b"", 1 << 20);
        assert!(matches!(outcome, Err(DecompressError::Tar(WholeTarError::TooLong(_)))));
        let bomb = crate::decode::tests::frames(&vec![0; 64 << 20], 64 << 20);
        let outcome = run(&bomb, Compression::Zstd, b"", 1 << 20);
        assert!(matches!(outcome, Err(DecompressError::Tar(WholeTarError::TooLong(_)))));
    }
}
