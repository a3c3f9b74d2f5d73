//! The read path over a source in memory: right bytes, few fetches, faults that stay where they are.

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use jaunt_formats::launch::{Blob, Compression};
use jaunt_formats::{BlobOffset, DiffId, DigestScope, SpanDigest, TarOffset};

use super::*;
use crate::layers::Layers;
use crate::source::{ByteStream, MemorySource, Trouble, whole};
use crate::store::{LargeFiles, Store};

const SPAN: usize = 64 << 10;

struct Fixture {
    tar: Vec<u8>,
    blob: Bytes,
    layer: LaunchLayer,
    store: Arc<Store>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new(spans: usize) -> Self {
        // The last span is short and ends within a block, as a tar of odd length would.
        let tar: Vec<u8> = (0..spans * SPAN - 700).map(|at| (at / 7 % 251) as u8).collect();
        let (mut blob, mut cut) = (Vec::new(), Vec::new());
        for (at, part) in tar.chunks(SPAN).enumerate() {
            let frames = crate::decode::tests::frames(part, 10_000);
            cut.push(Span {
                blob_offset: BlobOffset(blob.len() as u64),
                compressed_len: frames.len().try_into().unwrap(),
                tar_offset: TarOffset((at * SPAN) as u64),
                tar_len: part.len().try_into().unwrap(),
                digest: SpanDigest(*blake3::hash(&frames).as_bytes()),
            });
            blob.extend(frames);
        }
        let digest = Digest::of(&blob);
        let converted = Blob { digest, len: blob.len() as u64, compression: Compression::Zstd };
        let layer = LaunchLayer {
            diff_id: DiffId(Digest::of(&tar)),
            original: converted,
            converted,
            tar_len: tar.len() as u64,
            scope: DigestScope::Compressed,
            spans: cut,
        };
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        Self { tar, blob: blob.into(), layer, store, _directory: directory }
    }

    fn memory(&self) -> Arc<MemorySource> {
        Arc::new(MemorySource::new([(self.layer.converted.digest, self.blob.clone())]))
    }

    /// Changes a bit of the layer's file behind the store's back.
    fn flip_on_disk(&self, at: u64) {
        let diff_id = self.store.root().join(self.layer.diff_id.0.hex());
        let cut = std::fs::read_dir(diff_id).unwrap().next().unwrap().unwrap().path();
        let data = std::fs::File::options().read(true).write(true).open(cut.join("data")).unwrap();
        let mut byte = [0];
        data.read_exact_at(&mut byte, at).unwrap();
        data.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    fn layer(&self, source: Arc<dyn Source>) -> Layer {
        self.layer_with(source, Prefetcher::new(false))
    }

    fn layer_with(&self, source: Arc<dyn Source>, prefetcher: Prefetcher) -> Layer {
        Layers::with_prefetcher(self.store.clone(), prefetcher).open(
            &self.layer,
            &LargeFiles::default(),
            &[source],
        )
    }
}

/// A source that spoils what it is told to, as often as it is told to.
struct Spoiler {
    inner: Arc<MemorySource>,
    faults: Mutex<HashMap<u64, (u32, Fault)>>,
}

#[derive(Clone, Copy)]
enum Fault {
    Flip,
    Truncate,
    Fail,
}

impl Source for Arc<Spoiler> {
    fn name(&self) -> &str {
        "spoiler"
    }

    fn host(&self) -> &str {
        "spoiler"
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        let this = self.clone();
        stream::once(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut bytes = whole(&*this.inner, blob, range.clone()).await?.to_vec();
            let mut faults = this.faults.lock().unwrap();
            for (at, (times, fault)) in faults.iter_mut().filter(|(at, _)| range.contains(at)) {
                if *times == 0 {
                    continue;
                }
                *times -= 1;
                match fault {
                    Fault::Flip => bytes[(at - range.start) as usize] ^= 1,
                    Fault::Truncate => bytes.truncate((at - range.start) as usize),
                    Fault::Fail => return Err(failure(blob, range, Trouble::Broken)),
                }
            }
            Ok(bytes.into())
        })
        .boxed()
    }
}

fn failure(blob: Digest, range: Range<u64>, trouble: Trouble) -> SourceError {
    SourceError { place: "test".to_owned(), blob, range, trouble, cause: "as told".into() }
}

#[tokio::test]
async fn any_range_reads_as_the_tar() {
    let fixture = Fixture::new(5);
    let layer = fixture.layer(fixture.memory());
    let len = fixture.tar.len() as u64;
    for range in [0..1, 0..0, 65_535..65_537, 100..len, len - 1..len, len..len, 0..len] {
        assert_eq!(
            layer.read(range.clone()).await.unwrap(),
            fixture.tar[range.start as usize..range.end as usize]
        );
        assert!(layer.read_local(&range).is_some(), "{range:?} is local once it was read");
    }
    assert!(matches!(&*layer.read(0..len + 1).await.unwrap_err().0, ReadError::OutOfRange { .. }));
}

#[tokio::test]
async fn neighbours_ride_together_and_nothing_is_fetched_twice() {
    let fixture = Fixture::new(8);
    let source = fixture.memory();
    let layer = fixture.layer(source.clone());
    layer.read(3 * SPAN as u64..4 * SPAN as u64).await.unwrap();
    assert_eq!(source.fetches(), 1);
    layer.read(0..fixture.tar.len() as u64).await.unwrap();
    assert_eq!(source.fetches(), 3, "one request before the span that was there, one behind it");
    // Another daemon of the same boot knows what the first one kept.
    drop(layer);
    let again = fixture.layer(source.clone());
    assert!(again.read_local(&(0..fixture.tar.len() as u64)).is_some());
}

/// doc/SEMANTICS.md B3: over the mounts of several images, each of which knows another repository.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_readers_of_one_span_cause_one_fetch() {
    let fixture = Fixture::new(2);
    let memory = fixture.memory();
    let source = Arc::new(Spoiler { inner: memory.clone(), faults: Mutex::default() });
    let layers = Layers::with_prefetcher(fixture.store.clone(), Prefetcher::new(false));
    let own: [Arc<dyn Source>; 1] = [Arc::new(source)];
    let reads = (0..64u64).map(|at| {
        let other: Arc<dyn Source> = Arc::new(MemorySource::named(&format!("r{}", at % 4), []));
        let layer = layers.open(
            &fixture.layer,
            &LargeFiles::default(),
            if at % 2 == 0 { &own } else { std::slice::from_ref(&other) },
        );
        tokio::spawn(async move { layer.read(at * 100..at * 100 + 5000).await.unwrap() })
    });
    for (at, bytes) in join_all(reads).await.into_iter().enumerate() {
        assert_eq!(bytes.unwrap(), fixture.tar[at * 100..at * 100 + 5000]);
    }
    assert_eq!(memory.fetches(), 1);
}

#[tokio::test]
async fn a_second_image_with_the_layer_brings_its_repository_to_those_who_have_it_open() {
    let fixture = Fixture::new(2);
    let layers = Layers::with_prefetcher(fixture.store.clone(), Prefetcher::new(false));
    let emptied: Arc<dyn Source> = Arc::new(MemorySource::named("emptied", []));
    let first = layers.open(&fixture.layer, &LargeFiles::default(), std::slice::from_ref(&emptied));
    assert!(
        matches!(&*first.read(0..10).await.unwrap_err().0, ReadError::Source(error) if error.trouble == Trouble::Gone)
    );
    let second = layers.open(&fixture.layer, &LargeFiles::default(), &[fixture.memory()]);
    assert_eq!(first.read(0..10).await.unwrap(), fixture.tar[..10]);
    assert!(second.read_local(&(0..10)).is_some());
    // The last to go takes the layer with it, and what it knew.
    drop((first, second));
    assert!(
        layers
            .open(&fixture.layer, &LargeFiles::default(), &[emptied])
            .read(SPAN as u64..SPAN as u64 + 1)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_second_miss_nearby_brings_its_neighbours() {
    let fixture = Fixture::new(8);
    let layer = fixture.layer_with(fixture.memory(), Prefetcher::new(true));
    let last = fixture.tar.len() as u64 - 1;
    layer.read(0..1).await.unwrap();
    assert!(!layer.file().has(&(last - 1..last)));
    layer.read(4 * SPAN as u64..4 * SPAN as u64 + 1).await.unwrap();
    let whole = 0..fixture.tar.len() as u64;
    for _ in 0..500 {
        if layer.file().has(&whole) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the neighbours of two misses did not come");
}

/// Notes how much tar each request brings, at most.
struct Largest {
    inner: Arc<MemorySource>,
    spans: Vec<Span>,
    largest: AtomicU64,
}

impl Source for Largest {
    fn name(&self) -> &str {
        "largest"
    }

    fn host(&self) -> &str {
        "largest"
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        let covered = self.spans.iter().filter(|span| range.contains(&span.blob_offset.0));
        self.largest.fetch_max(covered.map(|span| u64::from(span.tar_len)).sum(), Ordering::Relaxed);
        self.inner.fetch(blob, range)
    }
}

/// A few kilobytes of a blob may be gigabytes of tar.
#[tokio::test]
async fn what_compresses_a_thousandfold_is_fetched_in_pieces() {
    let fixture = Fixture::new(600);
    let (inner, spans) = (fixture.memory(), fixture.layer.spans.clone());
    let source = Arc::new(Largest { inner, spans, largest: AtomicU64::new(0) });
    let layer = fixture.layer_with(source.clone(), Prefetcher::new(true));
    let middle = (fixture.tar.len() / 2) as u64;
    for at in [middle, middle + 4 * SPAN as u64] {
        layer.read(at..at + 1).await.unwrap();
    }
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let present = layer.file().present_bytes();
    assert!((4 * SPAN as u64..=2 * MAX_PREFETCH_TAR + 8 * SPAN as u64).contains(&present), "{present}");
    assert!(source.largest.load(Ordering::Relaxed) <= MAX_PREFETCH_TAR);
    assert_eq!(layer.read(0..fixture.tar.len() as u64).await.unwrap(), fixture.tar);
    assert!(source.largest.load(Ordering::Relaxed) <= MAX_FETCH_TAR);
}

#[tokio::test]
async fn a_fault_heals_or_is_an_error_to_that_read_alone() {
    let fixture = Fixture::new(6);
    let at = |span: usize| fixture.layer.spans[span].blob_offset.0 + 5;
    let faults = [
        (at(0), (1, Fault::Flip)),
        (at(2), (9, Fault::Flip)),
        (at(4), (1, Fault::Truncate)),
        (at(5), (1, Fault::Fail)),
    ];
    let source = Arc::new(Spoiler { inner: fixture.memory(), faults: Mutex::new(faults.into()) });
    let layer = fixture.layer(Arc::new(source.clone()));
    let span = |at: usize| (at * SPAN) as u64..((at + 1) * SPAN).min(fixture.tar.len()) as u64;
    let whole = |at: usize| fixture.tar[span(at).start as usize..span(at).end as usize].to_vec();

    assert_eq!(layer.read(span(0)).await.unwrap(), whole(0), "one flipped bit heals");
    let wrong = layer.read(span(1).start..span(3).end).await.unwrap_err();
    assert!(matches!(&*wrong.0, ReadError::Wrong { source: VerifyError::Digest(_), .. }), "{wrong}");
    assert_eq!(layer.read(span(1)).await.unwrap(), whole(1), "its neighbours are not harmed");
    assert_eq!(layer.read(span(3)).await.unwrap(), whole(3));
    assert!(layer.read_local(&span(2)).is_none(), "wrong bytes are not kept");
    assert_eq!(layer.read(span(4)).await.unwrap(), whole(4), "a short answer heals");
    assert!(matches!(&*layer.read(span(5)).await.unwrap_err().0, ReadError::Source(_)));
    assert_eq!(layer.read(span(5)).await.unwrap(), whole(5), "a failed fetch is tried anew by the next read");
    source.faults.lock().unwrap().clear();
    assert_eq!(layer.read(0..fixture.tar.len() as u64).await.unwrap(), fixture.tar);
}

/// Fails after a wait, until it is told not to.
struct Silent {
    inner: Arc<MemorySource>,
    silent: AtomicBool,
}

impl Source for Arc<Silent> {
    fn name(&self) -> &str {
        "silent"
    }

    fn host(&self) -> &str {
        "silent"
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        if !self.silent.load(Ordering::Relaxed) {
            return self.inner.fetch(blob, range);
        }
        stream::once(async move {
            tokio::time::sleep(Duration::from_millis(2100)).await;
            Err(failure(blob, range, Trouble::Silent))
        })
        .boxed()
    }
}

/// The kernel follows a failed read-ahead by a read of one page.
#[tokio::test]
async fn an_outage_is_waited_for_once_and_not_for_ever() {
    let fixture = Fixture::new(3);
    let source = Arc::new(Silent { inner: fixture.memory(), silent: true.into() });
    let layer = fixture.layer(Arc::new(source.clone()));
    layer.read(0..2 * SPAN as u64).await.unwrap_err();
    let begun = Instant::now();
    layer.read(0..4096).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(500), "waited again: {:?}", begun.elapsed());
    source.silent.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(layer.read(0..4096).await.unwrap(), fixture.tar[..4096]);
}

#[tokio::test]
async fn what_was_fetched_outlives_the_daemon_and_what_the_disk_loses_is_fetched_again() {
    let fixture = Fixture::new(4);
    let span = |at: usize| (at * SPAN) as u64..((at + 1) * SPAN) as u64;
    fixture.layer(fixture.memory()).read(span(0).start..span(2).end).await.unwrap();
    let source = fixture.memory();
    let layer = fixture.layer(source.clone());
    assert!(layer.file().has(&span(0)) && layer.file().has(&span(2)) && !layer.file().has(&span(3)));
    fixture.flip_on_disk(span(1).start + 100);
    assert_eq!(layer.read(0..span(2).end).await.unwrap(), fixture.tar[..span(2).end as usize]);
    assert_eq!(source.fetches(), 1, "the one span that was damaged");
    assert_eq!(fixture.store.counters().damaged_units.load(Ordering::Relaxed), 1);
    assert_eq!(layer.read_local(&span(1)).unwrap(), fixture.tar[SPAN..2 * SPAN], "it is healed on disk");
}

#[tokio::test]
async fn a_layer_is_removed_only_when_nobody_holds_it() {
    let fixture = Fixture::new(1);
    let layer = fixture.layer(fixture.memory());
    layer.file();
    let directory = fixture.store.root().join(fixture.layer.diff_id.0.hex());
    fixture.store.retain(|_| false).unwrap();
    assert!(directory.exists());
    drop(layer);
    fixture.store.retain(|diff_id| diff_id == fixture.layer.diff_id).unwrap();
    assert!(directory.exists());
    fixture.store.retain(|_| false).unwrap();
    assert!(!directory.exists());
    assert_eq!(fixture.store.present_bytes(&fixture.layer, &LargeFiles::default()), 0);
}

/// Whoever may push to one repository must not decide what another's images read.
#[tokio::test]
async fn bytes_are_shared_only_where_the_digests_agree() {
    let fixture = Fixture::new(2);
    fixture.layer(fixture.memory()).read(0..10).await.unwrap();
    assert!(fixture.layer(fixture.memory()).file().has(&(0..10)), "the same layer of another image");

    let forged = crate::decode::tests::frames(&[b'!'; SPAN], SPAN);
    let mut claimed = fixture.layer.clone();
    claimed.spans[0].compressed_len = forged.len().try_into().unwrap();
    claimed.spans[0].digest = SpanDigest(*blake3::hash(&forged).as_bytes());
    let source = Arc::new(MemorySource::new([(claimed.converted.digest, forged.into())]));
    let layers = Layers::with_prefetcher(fixture.store.clone(), Prefetcher::new(false));
    let liar = layers.open(&claimed, &LargeFiles::default(), &[source]);
    let honest = layers.open(&fixture.layer, &LargeFiles::default(), &[fixture.memory()]);
    assert_eq!(liar.read(0..10).await.unwrap(), b"!!!!!!!!!!");
    assert_eq!(honest.read_local(&(0..10)).unwrap(), fixture.tar[..10]);
}

/// doc/SEMANTICS.md B4, from the first read on: here the layer's directory cannot even be made.
#[tokio::test]
async fn a_layer_without_a_place_on_disk_is_served_and_kept_as_soon_as_it_can_be() {
    let fixture = Fixture::new(2);
    let place = fixture.store.root().join(fixture.layer.diff_id.0.hex());
    std::fs::write(&place, "in the way").unwrap();
    let layer = fixture.layer(fixture.memory());
    assert_eq!(layer.read(0..10).await.unwrap(), fixture.tar[..10]);
    assert!(!layer.file().has(&(0..10)));
    std::fs::remove_file(&place).unwrap();
    assert_eq!(layer.read(0..10).await.unwrap(), fixture.tar[..10]);
    assert!(layer.file().has(&(0..10)));
}

/// A layer of which only content has digests, as the TOC of a zstd:chunked layer has them: the last frame of
/// each span carries bytes that the span does not count.
#[tokio::test]
async fn bytes_in_no_span_are_an_error_and_the_others_are_read() {
    let mut fixture = Fixture::new(3);
    for span in &mut fixture.layer.spans {
        span.tar_len -= 100;
        let content = &fixture.tar[span.tar_offset.0 as usize..][..span.tar_len as usize];
        span.digest = SpanDigest(*Digest::of(content).as_bytes());
    }
    fixture.layer.scope = DigestScope::Uncompressed;
    let layer = fixture.layer(fixture.memory());
    for at in [0, SPAN, 2 * SPAN] {
        let read = layer.read(at as u64..at as u64 + 60_000).await.unwrap();
        assert!(read == fixture.tar[at..at + 60_000]);
    }
    for range in [SPAN as u64 - 101..SPAN as u64 - 99, SPAN as u64 - 50..SPAN as u64 - 40] {
        assert!(matches!(*layer.read(range).await.unwrap_err().0, ReadError::OutOfRange { .. }));
    }
}
