//! One layer through the threads: decompress, plan, compress on all cores, join in order.
//!
//! ```text
//! blob --decompressor--> tar buffers --planner--> spans --pool--> packed spans --joiner--> blob'
//! ```
//!
//! Every arrow is a bounded channel, and what the launch index and the TOC need of each entry is set aside,
//! so memory stays at some tens of MiB whatever the layer has. Buffers go back to be used again.
//! Whichever stage fails drops its channels, and with that stops the others.

use std::cell::{Cell, RefCell};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use bytes::Bytes;
use jaunt_formats::compression::{Compression, ZstdError};
use jaunt_formats::zstd_chunked::{
    BlobWriter, ConvertedLayer, LayerPlan, PackedSpan, Planner, SpanCompressor, SpanPlan,
};
use tokio::sync::mpsc;

use crate::spill::spill;
use crate::stream::{BlobRead, BlobReader, StreamError, TarReader};

/// Bytes of tar that are decompressed at once: out of the second-level cache, they cost memory bandwidth.
const TAR_BUFFER: usize = 256 << 10;
/// Tar buffers between decompressor and planner.
const TAR_BUFFERS: usize = 4;

/// What converts spans: threads for all layers, and the level that all have.
pub struct Workshop {
    pool: rayon::ThreadPool,
    level: i32,
}

/// A layer that went through.
pub struct Processed {
    /// What the original blob really was.
    pub original: BlobRead,
    pub compression: Compression,
    pub layer: ConvertedLayer,
}

/// A span on its way through the pool: the packed span, and the buffer it was made from.
type Packed = Receiver<Result<(PackedSpan, Vec<u8>), ZstdError>>;

impl Workshop {
    pub fn new(level: i32) -> Result<Self, rayon::ThreadPoolBuildError> {
        Self::with_threads(level, 0)
    }

    /// One with so many threads; 0 stands for one a core.
    fn with_threads(level: i32, threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        Ok(Self { pool: pool.thread_name(|n| format!("compress-{n}")).build()?, level })
    }

    /// Spans of one layer that may be in the pool: enough to keep every thread busy.
    fn spans_in_flight(&self) -> usize {
        (self.pool.current_num_threads() + 2).min(18)
    }

    /// Converts one layer. Blocks; the converted blob goes to `output` piece by piece.
    pub fn process(&self, blob: BlobReader, output: &mpsc::Sender<Bytes>) -> Result<Processed, StreamError> {
        let (full, filled) = sync_channel(TAR_BUFFERS);
        let (empty, emptied) = channel();
        let (spans, ordered) = sync_channel(self.spans_in_flight());
        let (spare, spares) = channel();
        thread::scope(|scope| {
            let source = scope.spawn(move || decompress(blob, &full, &emptied));
            let planner = scope.spawn(move || self.plan(&filled, &empty, &spans, &spares));
            let mut writer = BlobWriter::with_spools(spill);
            let joined = join(&mut writer, &ordered, &spare, output);
            drop((ordered, spare));
            let plan = planner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let source = source.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let ((original, compression), plan) = first_error(source, plan, joined)?;
            let mut stopped = false;
            let layer = writer.finish(plan, self.level, &mut |piece| {
                stopped = stopped || output.blocking_send(piece.into()).is_err();
            })?;
            if stopped {
                return Err(StreamError::Interrupted);
            }
            Ok(Processed { original, compression, layer })
        })
    }

    fn plan(
        &self,
        filled: &Receiver<(Vec<u8>, usize)>,
        empty: &Sender<Vec<u8>>,
        spans: &SyncSender<Packed>,
        spares: &Receiver<Vec<u8>>,
    ) -> Result<LayerPlan, StreamError> {
        let mut planner = Planner::with_spools(self.level, spill)?;
        let stopped = Cell::new(false);
        let mut submit = |plan| stopped.set(stopped.get() || spans.send(self.compress(plan)).is_err());
        for (buffer, len) in filled {
            spares.try_iter().for_each(|spare| planner.recycle(spare));
            planner.push(&buffer[..len], &mut submit)?;
            if stopped.get() {
                return Err(StreamError::Interrupted);
            }
            // The decompressor may have ended.
            let _ = empty.send(buffer);
        }
        let plan = planner.finish(&mut submit)?;
        if stopped.get() { Err(StreamError::Interrupted) } else { Ok(plan) }
    }

    /// Hands a span to the pool.
    fn compress(&self, plan: SpanPlan) -> Packed {
        thread_local! {
            /// This thread's compressor and its level.
            static COMPRESSOR: RefCell<Option<(i32, SpanCompressor)>> = const { RefCell::new(None) };
        }
        let (done, packed) = sync_channel(1);
        let level = self.level;
        self.pool.spawn(move || {
            let result = COMPRESSOR.with_borrow_mut(|slot| {
                let compressor = match slot {
                    Some((kept, compressor)) if *kept == level => compressor,
                    slot => &mut slot.insert((level, SpanCompressor::new(level)?)).1,
                };
                compressor.compress(&plan)
            });
            // Nobody waits any more when another stage has failed.
            let _ = done.send(result.map(|packed| (packed, plan.bytes)));
        });
        packed
    }
}

fn decompress(
    blob: BlobReader,
    full: &SyncSender<(Vec<u8>, usize)>,
    emptied: &Receiver<Vec<u8>>,
) -> Result<(BlobRead, Compression), StreamError> {
    let mut tar = TarReader::new(blob)?;
    loop {
        let mut buffer = emptied.try_recv().unwrap_or_else(|_| vec![0; TAR_BUFFER]);
        let len = match tar.fill(&mut buffer) {
            Ok(len) => len,
            // Whether the blob is broken or the image, only the blob's digest can tell.
            Err(StreamError::Decompress { kind, source }) => {
                return Err(StreamError::Corrupt { kind, source, blob: tar.finish()? });
            }
            Err(error) => return Err(error),
        };
        if len == 0 {
            let compression = tar.compression();
            return Ok((tar.finish()?, compression));
        }
        full.send((buffer, len)).map_err(|_| StreamError::Interrupted)?;
    }
}

/// Takes spans in the tar's order, whatever order they are done in.
fn join(
    writer: &mut BlobWriter,
    ordered: &Receiver<Packed>,
    spare: &Sender<Vec<u8>>,
    output: &mpsc::Sender<Bytes>,
) -> Result<(), StreamError> {
    for packed in ordered {
        let (span, buffer) = packed.recv().map_err(|_| StreamError::Interrupted)??;
        writer.push(&span)?;
        let _ = spare.send(buffer);
        output.blocking_send(span.bytes.into()).map_err(|_| StreamError::Interrupted)?;
    }
    Ok(())
}

/// The first stage that failed knows why; the others only know that they were stopped.
fn first_error<A, B>(
    source: Result<A, StreamError>,
    plan: Result<B, StreamError>,
    joined: Result<(), StreamError>,
) -> Result<(A, B), StreamError> {
    match (source, plan, joined) {
        (Ok(source), Ok(plan), Ok(())) => Ok((source, plan)),
        (source, plan, joined) => {
            let mut errors = [source.err(), plan.err(), joined.err()].into_iter().flatten();
            let cause = errors.find(|error| !matches!(error, StreamError::Interrupted));
            Err(cause.unwrap_or(StreamError::Interrupted))
        }
    }
}

#[cfg(test)]
mod tests {
    use jaunt_formats::Digest;

    use super::*;
    use crate::stream;

    /// A tar of files from a byte to some MiB, of which some compress well.
    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for n in 0..60_u64 {
            let len = n.pow(3) * 9 + 1;
            let noise = (0..len).scan(n + 1, |state, at| {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at);
                Some(if n % 3 == 0 { b'x' } else { state.to_le_bytes()[7] })
            });
            let content: Vec<u8> = noise.collect();
            let mut header = tar::Header::new_ustar();
            header.set_size(len);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("file-{n}"), content.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn converted(tar: &[u8], threads: usize) -> (Vec<u8>, Digest) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let workshop = Workshop::with_threads(3, threads).unwrap();
        let (sender, reader) = stream::channel();
        let (output, mut pieces) = mpsc::channel(8);
        let worker = thread::spawn(move || workshop.process(reader, &output));
        let input =
            futures_util::stream::iter(tar.chunks(40_000).map(|piece| Ok(Bytes::copy_from_slice(piece))));
        let blob = runtime.block_on(async {
            let collect = async {
                let mut blob = Vec::new();
                while let Some(piece) = pieces.recv().await {
                    blob.extend_from_slice(&piece);
                }
                blob
            };
            tokio::join!(stream::pump(input, tar.len() as u64, sender), collect).1
        });
        let digest = worker.join().unwrap().unwrap().layer.digest;
        (blob, digest)
    }

    #[test]
    fn the_number_of_threads_makes_no_difference() {
        let tar = tar();
        let (blob, digest) = converted(&tar, 1);
        assert_eq!(digest, Digest::of(&blob));
        assert_eq!(zstd::decode_all(blob.as_slice()).unwrap(), tar);
        for threads in [2, 7] {
            assert!(converted(&tar, threads) == (blob.clone(), digest), "{threads} threads");
        }
    }
}
