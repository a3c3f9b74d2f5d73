//! Packs of one layer, loaded whole, in part, too late or not at all, and what readers get meanwhile.

mod faults;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use jaunt_formats::boot::{Extent, PACK_LEVEL, Pack, PackWriter};
use jaunt_formats::{Digest, TarOffset};
use tokio::sync::mpsc;

use super::*;
use crate::layers::Layers;
use crate::source::{MemorySource, Source};
use crate::store::LargeFiles;
use crate::testing::{Fixture, FnSource, NOT_AHEAD, stopped_clock};
use crate::verify::verify_frame;

/// Two frames of it: the first is 64 KiB.
const TOUCHED: Range<u64> = 100_000..300_000;
const FIRST: Range<u64> = 100_000..100_000 + (64 << 10);
const SECOND: Range<u64> = 290_000..300_000;

struct Bed {
    fixture: Fixture,
    layers: Layers,
    layer: Layer,
    spans: Arc<MemorySource>,
    blob: Bytes,
    named: NamedPack,
    boot: Boot,
    directory: tempfile::TempDir,
}

fn index() -> Digest {
    Digest::of(b"index")
}

impl Bed {
    fn new() -> Self {
        let fixture = Fixture::new(10);
        let (blob, named) = packed(&fixture, index());
        Self::with(fixture, blob, named)
    }

    fn with(fixture: Fixture, blob: Bytes, named: NamedPack) -> Self {
        let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
        let spans = fixture.memory();
        let source: Arc<dyn Source> = spans.clone();
        let layer = fixture.open_in(&layers, &[source]);
        let directory = tempfile::tempdir().unwrap();
        Self { fixture, layers, layer, spans, blob, named, boot: Boot::default(), directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("shelf")
    }

    fn expected(&self) -> Expected {
        Expected { index: index(), layers: vec![(self.fixture.layer.clone(), LargeFiles::default())] }
    }

    async fn load(&self, source: Arc<dyn Source>) -> Result<Loaded, LoadError> {
        let expected = std::future::ready(Some(self.expected()));
        self.boot.load(self.named, source, &self.layers, &self.path(), expected).await
    }

    async fn load_bytes(&self, blob: Bytes) -> Result<Loaded, LoadError> {
        self.load(Arc::new(MemorySource::new([(self.named.digest, blob)]))).await
    }

    /// What a reader gets, who misses in the layer.
    async fn read(&self, range: Range<u64>) -> Vec<u8> {
        match self.boot.await_bytes(0, &self.layer, &range).await {
            Some(bytes) => bytes,
            None => self.layer.read(range).await.unwrap(),
        }
    }

    fn right(&self, range: Range<u64>) -> &[u8] {
        self.fixture.bytes(range)
    }
}

/// A pack of what the fixture's start touches.
fn packed(fixture: &Fixture, index: Digest) -> (Bytes, NamedPack) {
    let mut pack = PackWriter::new(index, PACK_LEVEL).unwrap();
    let len = u32::try_from(TOUCHED.end - TOUCHED.start).unwrap();
    let extent = Extent { layer: 0, tar_offset: TarOffset(TOUCHED.start), len };
    pack.push(extent, fixture.bytes(TOUCHED)).unwrap();
    let Pack { bytes, table } = pack.finish().unwrap();
    let named = NamedPack { digest: Digest::of(&bytes), len: bytes.len() as u64, table, learnt: true };
    (bytes.into(), named)
}

/// A source of bytes that the test sends.
fn gated() -> (mpsc::UnboundedSender<Bytes>, Arc<dyn Source>) {
    let (send, receive) = mpsc::unbounded_channel::<Bytes>();
    let receive = std::sync::Mutex::new(Some(receive));
    let source = FnSource::source("gated", move |_, _| {
        let receive = receive.lock().unwrap().take().unwrap();
        futures_util::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|bytes| (Ok(bytes), receive))
        })
        .boxed()
    });
    (send, source)
}

#[tokio::test]
async fn what_a_pack_has_is_read_without_fetching_a_span() {
    let bed = Bed::new();
    assert_eq!(bed.load_bytes(bed.blob.clone()).await.unwrap(), Loaded::Whole);
    for range in [TOUCHED, FIRST, SECOND, 150_001..150_002] {
        assert_eq!(bed.read(range.clone()).await, bed.right(range));
    }
    assert_eq!(bed.spans.fetches(), 0);
    assert!(!bed.layer.file().has(&FIRST), "the store takes only what spans' digests vouch for");
    // What lies across the pack's edge, and beyond it.
    for range in [TOUCHED.start - 5000..TOUCHED.start + 10, 500_000..500_001] {
        assert_eq!(bed.read(range.clone()).await, bed.right(range));
    }
    assert!(bed.spans.fetches() > 0);
    for (range, is_held) in
        [(TOUCHED, true), (FIRST, true), (500_000..500_001, false), (TOUCHED.start - 1..TOUCHED.end, false)]
    {
        assert_eq!(bed.boot.holds(0, &range), is_held, "{range:?}, though the layer has it by now");
    }
    let figures = bed.boot.figures();
    assert_eq!(figures.present_bytes, TOUCHED.end - TOUCHED.start);
    assert_eq!((figures.content_bytes, figures.used_bytes), (figures.present_bytes, figures.present_bytes));
}

/// A file's pages may be of several frames, and are pushed when the last of them is here.
#[tokio::test]
async fn a_frame_that_lands_before_an_earlier_one_waits_for_it() {
    let bed = Bed::new();
    let table = &bed.blob[..bed.named.table.len()];
    let pack = bed.named.table.open(table).unwrap();
    let frames = pack.frames.clone();
    let shelf = Shelf::create(&bed.path(), table, pack, true).unwrap();
    let shelf = bed.boot.shelf.get_or_init(|| Arc::new(shelf));
    let put = |number: usize| {
        let place = &frames[number].blob;
        let bytes = &bed.blob[usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap()];
        shelf.put(number, &verify_frame(&frames[number], bytes).unwrap()).unwrap();
        bed.boot.progress.landed();
    };
    put(1);
    assert_eq!(bed.boot.landed(1).now_or_never(), None);
    put(0);
    assert_eq!(bed.boot.landed(1).now_or_never(), Some(true));
}

#[tokio::test]
async fn a_damaged_pack_gives_what_came_before_the_damage() {
    let bed = Bed::new();
    let mut blob = bed.blob.to_vec();
    *blob.last_mut().unwrap() ^= 1;
    let error = bed.load_bytes(blob.into()).await.unwrap_err();
    assert!(matches!(error, LoadError::Frame { at: 1, source: FrameError::Digest, .. }), "{error}");
    assert_eq!(bed.read(FIRST).await, bed.right(FIRST));
    assert_eq!(bed.spans.fetches(), 0);
    assert_eq!(bed.read(SECOND).await, bed.right(SECOND));
    assert_eq!(bed.spans.fetches(), 1);
    assert_eq!(bed.layers.metrics().boot_failures.get(), 1);
}

#[tokio::test]
async fn a_damaged_table_gives_nothing() {
    let bed = Bed::new();
    let mut blob = bed.blob.to_vec();
    blob[70] ^= 1;
    assert!(matches!(bed.load_bytes(blob.into()).await, Err(LoadError::Pack(_))));
    assert_eq!(bed.read(FIRST).await, bed.right(FIRST));
    assert_eq!(bed.spans.fetches(), 1);
}

#[tokio::test]
async fn a_pack_that_is_cut_short_gives_what_has_come() {
    let bed = Bed::new();
    let cut = bed.blob.slice(..bed.blob.len() - 1);
    let (send, source) = gated();
    send.send(cut.clone()).unwrap();
    drop(send);
    let error = bed.load(source).await.unwrap_err();
    let received = cut.len() as u64;
    assert!(matches!(error, LoadError::Short { received: came, .. } if came == received), "{error}");
    assert_eq!(bed.read(FIRST).await, bed.right(FIRST));
    assert_eq!(bed.spans.fetches(), 0);
    assert!(
        bed.boot.holds(0, &FIRST) && !bed.boot.holds(0, &SECOND),
        "what it does not bring any more is read ahead of"
    );
    assert_eq!(bed.read(SECOND).await, bed.right(SECOND));
}

#[tokio::test]
async fn a_pack_of_another_index_or_length_is_not_used() {
    let mut bed = Bed::new();
    let (own, named) = (bed.blob.clone(), bed.named);
    (bed.blob, bed.named) = packed(&bed.fixture, Digest::of(b"other"));
    let error = bed.load_bytes(bed.blob.clone()).await.unwrap_err();
    assert!(error.to_string().contains("not of"), "{error}");
    assert!(bed.boot.read(0, &bed.layer, &FIRST).is_none() && !bed.path().exists());
    bed.named = NamedPack { len: named.len + 1, ..named };
    let (send, source) = gated();
    send.send(own).unwrap();
    assert!(matches!(bed.load(source).await, Err(LoadError::Length { .. })));
}

#[tokio::test]
async fn a_reader_waits_for_what_is_about_to_come() {
    let _clock = stopped_clock();
    let bed = Bed::new();
    let (send, source) = gated();
    let (table, frames) = bed.blob.split_at(bed.named.table.len());
    send.send(Bytes::copy_from_slice(table)).unwrap();
    let mut loading = Box::pin(bed.load(source));
    assert!(loading.as_mut().now_or_never().is_none());
    let mut reading = Box::pin(bed.read(FIRST));
    assert!(reading.as_mut().now_or_never().is_none(), "he waits");
    assert!(bed.boot.progress.is_awaited());
    send.send(Bytes::copy_from_slice(frames)).unwrap();
    let (loaded, read) = tokio::join!(loading, reading);
    assert_eq!(loaded.unwrap(), Loaded::Whole);
    assert_eq!(read, bed.right(FIRST));
    assert_eq!(bed.spans.fetches(), 0);
}

#[tokio::test]
async fn a_reader_goes_by_himself_where_a_pack_hangs_or_ends() {
    for hangs in [true, false] {
        let bed = Bed::new();
        let (send, source) = gated();
        send.send(bed.blob.slice(..bed.named.table.len())).unwrap();
        let mut loading = Box::pin(bed.load(source));
        assert!(loading.as_mut().now_or_never().is_none());
        let mut reading = Box::pin(bed.read(FIRST));
        assert!(reading.as_mut().now_or_never().is_none());
        if !hangs {
            drop(send);
            assert!(loading.await.is_err());
        }
        assert_eq!(reading.await, bed.right(FIRST));
        assert_eq!(bed.spans.fetches(), 1);
    }
}

#[tokio::test]
async fn the_stream_stands_back_for_other_readers_but_not_for_its_own() {
    let _clock = stopped_clock();
    let bed = Bed::new();
    let (send, source) = gated();
    let (table, part) = (bed.named.table.len(), (bed.blob.len() - bed.named.table.len()) / 5);
    let mut sent = 0;
    let mut send_next = |len: usize| {
        send.send(bed.blob.slice(sent..sent + len)).unwrap();
        sent += len;
    };
    let mut loading = Box::pin(bed.load(source));
    let mut taken = async || {
        assert!(futures_util::poll!(&mut loading).is_pending());
        bed.layers.metrics().boot_fetched_bytes.get() as usize
    };
    send_next(table);
    assert_eq!(taken().await, table);
    // The look for the next piece was taken before the other reader came; what comes after that one is left standing.
    let other = bed.layers.node().pool.urgency.wait();
    send_next(part);
    send_next(part);
    assert_eq!(taken().await, table + part);
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(taken().await, table + part, "a reader of something else waits");
    tokio::time::advance(Duration::from_millis(2)).await;
    assert_eq!(taken().await, table + 2 * part, "but not for ever");
    send_next(part);
    assert_eq!(taken().await, table + 2 * part, "he still waits");
    let mut reading = Box::pin(bed.read(SECOND));
    assert!(futures_util::poll!(&mut reading).is_pending());
    assert_eq!(taken().await, table + 3 * part, "a reader of the pack's own waits");
    drop(reading);
    send_next(part);
    send_next(bed.blob.len() - table - 4 * part);
    assert_eq!(taken().await, table + 4 * part, "and is gone");
    drop(other);
    assert_eq!(loading.await.unwrap(), Loaded::Whole);
    assert_eq!(bed.read(SECOND).await, bed.right(SECOND));
    assert_eq!(bed.spans.fetches(), 0);
}

#[tokio::test]
async fn nothing_is_loaded_that_is_local() {
    let bed = Bed::new();
    bed.layer.fetch(0..10, crate::class::Class::Background).await.unwrap();
    assert_eq!(bed.load_bytes(bed.blob.clone()).await.unwrap(), Loaded::NotNeeded);
    assert_eq!(bed.layers.metrics().boot_content_bytes.get(), 0);
    assert!(!bed.path().exists());
}

#[tokio::test]
async fn the_shelf_outlives_the_process_and_damage_is_found() {
    let bed = Bed::new();
    bed.load_bytes(bed.blob.clone()).await.unwrap();
    let layers = [bed.fixture.layer.clone()];
    let again = Boot::open(&bed.path(), index(), &layers).unwrap();
    assert_eq!(again.read(0, &bed.layer, &TOUCHED).unwrap(), bed.right(TOUCHED));
    assert!(again.is_learnt());
    assert!(!bed.layer.file().has(&TOUCHED));

    let mut bytes = std::fs::read(bed.path()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(bed.path(), &bytes).unwrap();
    let damaged = Boot::open(&bed.path(), index(), &layers).unwrap();
    assert_eq!(damaged.read(0, &bed.layer, &FIRST).unwrap(), bed.right(FIRST));
    assert!(damaged.read(0, &bed.layer, &SECOND).is_none());
    assert!(damaged.figures().present_bytes < TOUCHED.end - TOUCHED.start, "the frame is not there any more");

    for (at, change) in [(0, 1), (66, 1)] {
        bytes[at] ^= change;
        std::fs::write(bed.path(), &bytes).unwrap();
        assert!(Boot::open(&bed.path(), index(), &layers).is_none(), "{at}");
        assert!(!bed.path().exists());
    }
    assert!(Boot::open(&bed.path(), index(), &layers).is_none());
}

#[tokio::test]
async fn a_shelf_of_another_index_is_not_opened() {
    let bed = Bed::new();
    bed.load_bytes(bed.blob.clone()).await.unwrap();
    assert!(
        Boot::open(&bed.path(), Digest::of(b"other"), std::slice::from_ref(&bed.fixture.layer)).is_none()
    );
}
