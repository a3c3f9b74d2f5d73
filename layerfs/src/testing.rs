//! What the tests of the read path share: a layer in memory, sources that do as they are told, and chance with a seed.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use jaunt_formats::launch::{Blob, Compression, LaunchLayer};
use jaunt_formats::{BlobOffset, DiffId, Digest, DigestScope, Span, SpanDigest, TarOffset};
use tokio::time::Instant;

pub(crate) use crate::chance::Chance;
use crate::layer::Layer;
use crate::layers::{Layers, Settings};
pub(crate) use crate::source::error;
use crate::source::{ByteStream, MemorySource, Source};
use crate::store::{Cap, LargeFiles, Store};

/// Bytes of tar a span.
pub(crate) const SPAN: usize = 64 << 10;
/// Nothing is fetched that nobody asked for.
pub(crate) const NOT_AHEAD: fn() -> Settings = || Settings { ahead: false, ..Settings::default() };

/// A layer, its blob, and a store that has nothing of it yet.
pub(crate) struct Fixture {
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Bytes,
    pub(crate) layer: LaunchLayer,
    pub(crate) store: Arc<Store>,
    /// Bytes of tar a span.
    span: usize,
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// A layer of so many spans that hardly compress.
    pub(crate) fn new(spans: usize) -> Self {
        Self::of(noise(spans * SPAN))
    }

    /// The same with spans of that length.
    pub(crate) fn cut(spans: usize, span: usize) -> Self {
        Self::of_spans(noise(spans * span), span)
    }

    /// A layer of so many spans that compress to almost nothing.
    pub(crate) fn of_zeros(spans: usize) -> Self {
        Self::of(vec![0; spans * SPAN - 700])
    }

    /// A layer of this tar.
    pub(crate) fn of(tar: Vec<u8>) -> Self {
        Self::of_spans(tar, SPAN)
    }

    fn of_spans(tar: Vec<u8>, span: usize) -> Self {
        let (mut blob, mut spans) = (Vec::new(), Vec::new());
        for (at, part) in tar.chunks(span).enumerate() {
            let frames = crate::decode::tests::frames(part, 30_000);
            spans.push(Span {
                blob_offset: BlobOffset(blob.len() as u64),
                compressed_len: frames.len().try_into().unwrap(),
                tar_offset: TarOffset((at * span) as u64),
                tar_len: part.len().try_into().unwrap(),
                digest: SpanDigest(*blake3::hash(&frames).as_bytes()),
            });
            blob.extend(frames);
        }
        let converted =
            Blob { digest: Digest::of(&blob), len: blob.len() as u64, compression: Compression::Zstd };
        let layer = LaunchLayer {
            diff_id: DiffId(Digest::of(&tar)),
            original: converted,
            converted,
            tar_len: tar.len() as u64,
            scope: DigestScope::Compressed,
            spans,
        };
        let (store, directory) = new_store();
        Self { tar, blob: blob.into(), layer, store, span, _directory: directory }
    }

    /// The same layer, with a store that has nothing of it.
    pub(crate) fn anew(self) -> Self {
        let (store, directory) = new_store();
        Self { store, _directory: directory, ..self }
    }

    /// The same layer, with a store that has a cap, and nothing of it.
    pub(crate) fn capped(self, cap: Cap) -> Self {
        let (store, directory) = new_store();
        let store = Arc::try_unwrap(store).unwrap_or_else(|_| unreachable!("it is new")).with_cap(cap);
        Self { store: Arc::new(store), _directory: directory, ..self }
    }

    /// The same layer, converted from a gzip blob: that blob.
    pub(crate) fn with_original(mut self) -> (Self, Bytes) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &self.tar).unwrap();
        let blob: Bytes = encoder.finish().unwrap().into();
        let (digest, len) = (Digest::of(&blob), blob.len() as u64);
        self.layer.original = Blob { digest, len, compression: Compression::Gzip };
        (self, blob)
    }

    /// A source of its blob.
    pub(crate) fn memory(&self) -> Arc<MemorySource> {
        Arc::new(MemorySource::new([(self.layer.converted.digest, self.blob.clone())]))
    }

    /// The layer as a mount has it that fetches nothing ahead.
    pub(crate) fn open(&self, source: Arc<dyn Source>) -> Layer {
        self.open_with(NOT_AHEAD(), &[source])
    }

    /// The layer as a mount has it.
    pub(crate) fn open_with(&self, settings: Settings, sources: &[Arc<dyn Source>]) -> Layer {
        self.open_in(&Layers::new(self.store.clone(), settings), sources)
    }

    /// The layer of a node.
    pub(crate) fn open_in(&self, layers: &Layers, sources: &[Arc<dyn Source>]) -> Layer {
        layers.open(&self.layer, &LargeFiles::default(), sources)
    }

    /// The tar range of a run of spans.
    pub(crate) fn tar_range(&self, spans: Range<usize>) -> Range<u64> {
        (spans.start * self.span) as u64..(spans.end * self.span).min(self.tar.len()) as u64
    }

    /// The tar's bytes there.
    pub(crate) fn bytes(&self, range: Range<u64>) -> &[u8] {
        &self.tar[range.start as usize..range.end as usize]
    }
}

/// Bytes that hardly compress. The last block is short, as that of a tar of odd length would be.
fn noise(len: usize) -> Vec<u8> {
    let mut chance = Chance((len / SPAN) as u64);
    let mut tar: Vec<u8> = (0..len / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
    tar.truncate(len - 700);
    tar
}

fn new_store() -> (Arc<Store>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Arc::new(Store::open(directory.path()).unwrap()), directory)
}

/// The runtime's clock stands while this is held: it does not advance by itself while something blocks. So readers who would not
/// wait for long wait for as long as a busy machine takes.
pub(crate) fn stopped_clock() -> std::sync::mpsc::Sender<()> {
    tokio::time::pause();
    let (held, released) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || released.recv());
    held
}

/// A source that does what a function says.
pub(crate) struct FnSource<F> {
    name: String,
    fetch: F,
}

impl<F: Fn(Digest, Range<u64>) -> ByteStream + Send + Sync + 'static> FnSource<F> {
    pub(crate) fn source(name: &str, fetch: F) -> Arc<dyn Source> {
        Arc::new(Self { name: name.to_owned(), fetch })
    }
}

impl<F: Fn(Digest, Range<u64>) -> ByteStream + Send + Sync + 'static> Source for FnSource<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &str {
        &self.name
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        (self.fetch)(blob, range)
    }
}

/// A line to a registry, simulated: every request waits a round trip, and all of them share the rate.
#[derive(Clone)]
pub(crate) struct Line(Arc<LineState>);

struct LineState {
    name: String,
    blob: Bytes,
    round_trip: Duration,
    /// Bytes a second.
    rate: f64,
    free: Mutex<Instant>,
    asked: Mutex<Vec<(Instant, Range<u64>)>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Line {
    pub(crate) fn new(fixture: &Fixture, round_trip: Duration, rate: f64) -> Self {
        Self::to(fixture.blob.clone(), round_trip, rate)
    }

    /// A line to this blob.
    pub(crate) fn to(blob: Bytes, round_trip: Duration, rate: f64) -> Self {
        Self(Arc::new(LineState {
            name: "line".to_owned(),
            blob,
            round_trip,
            rate,
            free: Mutex::new(Instant::now()),
            asked: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    /// What was asked for, and when.
    pub(crate) fn asked(&self) -> Vec<(Instant, Range<u64>)> {
        self.0.asked.lock().unwrap().clone()
    }

    /// What was asked for, as runs of the fixture's spans.
    pub(crate) fn runs(&self, fixture: &Fixture) -> Vec<Range<usize>> {
        let spans = &fixture.layer.spans;
        let at = |offset: u64| spans.partition_point(|span| span.blob_offset.0 < offset);
        self.asked().into_iter().map(|(_, range)| at(range.start)..at(range.end)).collect()
    }

    /// How many bytes were asked for, each of which was asked for once.
    pub(crate) fn asked_once(&self) -> u64 {
        let mut asked: Vec<_> = self.asked().into_iter().map(|(_, range)| range).collect();
        asked.sort_by_key(|range| range.start);
        assert!(asked.windows(2).all(|pair| pair[0].end <= pair[1].start), "{asked:?}");
        asked.iter().map(|range| range.end - range.start).sum()
    }

    /// Requests under way now, and the most there have been at a time.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        (self.0.under_way.load(Ordering::Relaxed), self.0.most.load(Ordering::Relaxed))
    }

    /// Waits until the line has carried `len` bytes of an answer that may begin at `ready`.
    async fn carry(&self, len: usize, ready: Instant) {
        let done = {
            let mut free = self.0.free.lock().unwrap();
            *free =
                (*free).max(ready).max(Instant::now()) + Duration::from_secs_f64(len as f64 / self.0.rate);
            *free
        };
        // The clock's ticks are milliseconds: what is less far off is there.
        if let Some(soon) = done.checked_sub(Duration::from_millis(1)).filter(|soon| *soon > Instant::now()) {
            tokio::time::sleep_until(soon).await;
        }
    }
}

/// A request of a [`Line`] that is under way.
struct UnderWay(Line);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Source for Line {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn host(&self) -> &str {
        &self.0.name
    }

    fn fetch(&self, _: Digest, range: Range<u64>) -> ByteStream {
        let line = self.clone();
        let start = async move {
            line.0.asked.lock().unwrap().push((Instant::now(), range.clone()));
            let now = line.0.under_way.fetch_add(1, Ordering::Relaxed) + 1;
            line.0.most.fetch_max(now, Ordering::Relaxed);
            let (under_way, ready) = (UnderWay(line.clone()), Instant::now() + line.0.round_trip);
            tokio::time::sleep_until(ready).await;
            let rest = line.0.blob.slice(range.start as usize..range.end as usize);
            futures_util::stream::unfold((under_way, rest), move |(under_way, mut rest)| async move {
                let len = rest.len().min(16 << 10);
                under_way.0.carry(len, ready).await;
                (len > 0).then(|| (Ok(rest.split_to(len)), (under_way, rest)))
            })
        };
        futures_util::stream::once(start).flatten().boxed()
    }
}
