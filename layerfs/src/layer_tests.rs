//! The read path over sources in memory: right bytes, few fetches, faults that stay where they are.

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use jaunt_formats::{Digest, DigestScope, SpanDigest};

use super::*;
use crate::layers::{Layers, Settings};
use crate::source::{MemorySource, Trouble, whole};
use crate::store::LargeFiles;
use crate::testing::{Fixture, FnSource, NOT_AHEAD, SPAN, error};
use crate::verify::VerifyError;

/// What a source may do to the bytes it gives, as often as it is told.
#[derive(Clone, Copy)]
enum Fault {
    Flip,
    Truncate,
    Fail,
    Refuse,
}

/// A source of the fixture's blob that does `faults` where a request covers their offsets.
fn spoiler(fixture: &Fixture, faults: &Arc<Mutex<HashMap<u64, (u32, Fault)>>>) -> Arc<dyn Source> {
    let (inner, faults) = (fixture.memory(), faults.clone());
    FnSource::source("spoiler", move |blob, range| {
        let (inner, faults) = (inner.clone(), faults.clone());
        let spoilt = async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut bytes = whole(&*inner, blob, range.clone()).await?.to_vec();
            let mut faults = faults.lock().unwrap();
            for (at, (times, fault)) in faults.iter_mut().filter(|(at, _)| range.contains(at)) {
                if *times == 0 {
                    continue;
                }
                *times -= 1;
                match fault {
                    Fault::Flip => bytes[(at - range.start) as usize] ^= 1,
                    Fault::Truncate => bytes.truncate((at - range.start) as usize),
                    Fault::Fail => return Err(error(blob, range, Trouble::Broken)),
                    Fault::Refuse => return Err(error(blob, range, Trouble::Refused)),
                }
            }
            Ok(bytes.into())
        };
        stream::once(spoilt).boxed()
    })
}

#[tokio::test]
async fn any_range_reads_as_the_tar() {
    let fixture = Fixture::new(5);
    let layer = fixture.open(fixture.memory());
    let len = fixture.tar.len() as u64;
    for range in [0..1, 0..0, 65_535..65_537, 100..len, len - 1..len, len..len, 0..len] {
        assert_eq!(layer.read(range.clone()).await.unwrap(), fixture.bytes(range.clone()));
        assert!(layer.read_local(&range).is_some(), "{range:?} is local once it was read");
    }
    assert!(matches!(layer.read(0..len + 1).await.unwrap_err().kind(), ReadError::OutOfRange { .. }));
}

#[tokio::test]
async fn neighbours_ride_together_and_nothing_is_fetched_twice() {
    let fixture = Fixture::new(8);
    let source = fixture.memory();
    let layer = fixture.open(source.clone());
    layer.read(fixture.tar_range(3..5)).await.unwrap();
    assert_eq!(source.fetches(), 1);
    layer.read(0..fixture.tar.len() as u64).await.unwrap();
    assert_eq!(source.fetches(), 3, "one request before the spans that were there, one behind them");
    // Another daemon of the same boot knows what the first one kept.
    drop(layer);
    let again = fixture.open(source.clone());
    assert!(again.read_local(&(0..fixture.tar.len() as u64)).is_some());
}

/// B3: A span is fetched once, however many readers wait for it, and of however many mounts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_readers_of_one_span_cause_one_fetch() {
    let fixture = Fixture::new(2);
    let fetches = Arc::new(AtomicU64::new(0));
    let (inner, counted) = (fixture.memory(), fetches.clone());
    let own = [FnSource::source("own", move |blob, range| {
        counted.fetch_add(1, Ordering::Relaxed);
        let inner = inner.clone();
        stream::once(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            whole(&*inner, blob, range).await
        })
        .boxed()
    })];
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let reads = (0..64u64).map(|at| {
        let other: Arc<dyn Source> = Arc::new(MemorySource::named(&format!("r{}", at % 4), []));
        let layer = fixture.open_in(&layers, if at % 2 == 0 { &own } else { std::slice::from_ref(&other) });
        tokio::spawn(async move { layer.read(at * 100..at * 100 + 5000).await.unwrap() })
    });
    for (at, bytes) in (0..).zip(join_all(reads).await) {
        assert_eq!(bytes.unwrap(), fixture.bytes(at * 100..at * 100 + 5000));
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_second_image_with_the_layer_brings_its_repository_to_those_who_have_it_open() {
    let fixture = Fixture::new(2);
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let emptied: Arc<dyn Source> = Arc::new(MemorySource::named("emptied", []));
    let first = fixture.open_in(&layers, std::slice::from_ref(&emptied));
    let refused = first.read(0..10).await.unwrap_err();
    assert!(matches!(refused.kind(), ReadError::Source(error) if error.trouble == Trouble::Gone));
    let second = fixture.open_in(&layers, &[fixture.memory()]);
    assert_eq!(first.read(0..10).await.unwrap(), fixture.tar[..10]);
    assert!(second.read_local(&(0..10)).is_some());
    // The last to go takes the layer with it, and what it knew.
    drop((first, second));
    assert!(fixture.open_in(&layers, &[emptied]).read(SPAN as u64..SPAN as u64 + 1).await.is_err());
}

#[tokio::test]
async fn the_second_miss_nearby_brings_its_neighbours() {
    let fixture = Fixture::new(8);
    let layer = fixture.open_with(Settings::default(), &[fixture.memory()]);
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

/// A few kilobytes of a blob may be gigabytes of tar.
#[tokio::test]
async fn what_compresses_a_thousandfold_is_fetched_in_pieces() {
    let fixture = Fixture::of_zeros(600);
    let (inner, spans) = (fixture.memory(), fixture.layer.spans.clone());
    let largest = Arc::new(AtomicU64::new(0));
    let noted = largest.clone();
    let source = FnSource::source("noting", move |blob, range| {
        let covered = spans.iter().filter(|span| range.contains(&span.blob_offset.0));
        noted.fetch_max(covered.map(|span| u64::from(span.tar_len)).sum(), Ordering::Relaxed);
        inner.fetch(blob, range)
    });
    let layer = fixture.open_with(Settings::default(), &[source]);
    let middle = (fixture.tar.len() / 2) as u64;
    for at in [middle, middle + 4 * SPAN as u64] {
        layer.read(at..at + 1).await.unwrap();
    }
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let present = layer.file().present_bytes();
    assert!((4 * SPAN as u64..=(8 << 20) + 8 * SPAN as u64).contains(&present), "{present}");
    assert!(largest.load(Ordering::Relaxed) <= 16 << 20);
    assert_eq!(layer.read(0..fixture.tar.len() as u64).await.unwrap(), fixture.tar);
    assert!(largest.load(Ordering::Relaxed) <= 16 << 20);
}

/// B1: A reader is given bytes that were verified against the launch index, or an error.
#[tokio::test]
async fn a_fault_heals_or_is_an_error_to_that_read_alone() {
    let fixture = Fixture::new(7);
    let at = |span: usize| fixture.layer.spans[span].blob_offset.0 + 5;
    let faults = Arc::new(Mutex::new(HashMap::from([
        (at(0), (1, Fault::Flip)),
        (at(2), (9, Fault::Flip)),
        (at(4), (1, Fault::Truncate)),
        (at(5), (1, Fault::Fail)),
        (at(6), (9, Fault::Refuse)),
    ])));
    let layer = fixture.open(spoiler(&fixture, &faults));
    let span = |at: usize| fixture.tar_range(at..at + 1);

    assert_eq!(layer.read(span(0)).await.unwrap(), fixture.bytes(span(0)), "one flipped bit heals");
    let wrong = layer.read(span(1).start..span(3).end).await.unwrap_err();
    let digest = |e: &ReadError| matches!(e, ReadError::Wrong { source: VerifyError::Digest(_), .. });
    assert!(digest(wrong.kind()), "{wrong}");
    assert_eq!(faults.lock().unwrap()[&at(2)].0, 7, "doc/SEMANTICS.md B2: it was fetched once more");
    assert_eq!(layer.read(span(1)).await.unwrap(), fixture.bytes(span(1)), "its neighbours are not harmed");
    assert_eq!(layer.read(span(3)).await.unwrap(), fixture.bytes(span(3)));
    assert!(layer.read_local(&span(2)).is_none(), "wrong bytes are not kept");
    assert_eq!(layer.read(span(4)).await.unwrap(), fixture.bytes(span(4)), "a short answer heals");
    assert_eq!(layer.read(span(5)).await.unwrap(), fixture.bytes(span(5)), "a failed request is made again");
    let refused = layer.read(span(6)).await.unwrap_err();
    assert!(matches!(refused.kind(), ReadError::Source(error) if error.trouble == Trouble::Refused));
    faults.lock().unwrap().clear();
    assert_eq!(layer.read(0..fixture.tar.len() as u64).await.unwrap(), fixture.tar);
}

/// The kernel follows a failed read-ahead by a read of one page.
/// B6: A read whose registry is gone, silent or dripping is tried with the other repositories that have the layer,
/// round after round with growing pauses, for 30 seconds; then it is an error (EIO).
#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_once_and_not_for_ever() {
    let fixture = Fixture::new(3);
    let silent = Arc::new(AtomicBool::new(true));
    let (inner, told) = (fixture.memory(), silent.clone());
    let source = FnSource::source("silent", move |blob, range| match told.load(Ordering::Relaxed) {
        true => stream::pending().boxed(),
        false => inner.fetch(blob, range),
    });
    let layer = fixture.open(source);
    let begun = Instant::now();
    let error = layer.read(0..2 * SPAN as u64).await.unwrap_err();
    assert!(matches!(error.kind(), ReadError::Deadline { last: Some(_), .. }), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 30, "doc/SEMANTICS.md B6");
    let begun = Instant::now();
    layer.read(0..4096).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(500), "waited again: {:?}", begun.elapsed());
    silent.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(layer.read(0..4096).await.unwrap(), fixture.tar[..4096], "and no remount");
}

#[tokio::test]
async fn what_was_fetched_outlives_the_daemon_and_what_the_disk_loses_is_fetched_again() {
    let fixture = Fixture::new(4);
    fixture.open(fixture.memory()).read(fixture.tar_range(0..3)).await.unwrap();
    let source = fixture.memory();
    let layer = fixture.open(source.clone());
    let has = |at: usize| layer.file().has(&fixture.tar_range(at..at + 1));
    assert!(has(0) && has(2) && !has(3));
    flip_on_disk(&fixture, SPAN as u64 + 100);
    assert_eq!(layer.read(fixture.tar_range(0..3)).await.unwrap(), fixture.bytes(fixture.tar_range(0..3)));
    assert_eq!(source.fetches(), 1, "the one span that was damaged");
    assert_eq!(fixture.store.counters().damaged_units.load(Ordering::Relaxed), 1);
    let healed = layer.read_local(&fixture.tar_range(1..2)).unwrap();
    assert_eq!(healed, fixture.tar[SPAN..2 * SPAN], "it is healed on disk");
}

/// Changes a bit of the layer's file behind the store's back.
fn flip_on_disk(fixture: &Fixture, at: u64) {
    let diff_id = fixture.store.root().join(fixture.layer.diff_id.0.hex());
    let cut = std::fs::read_dir(diff_id).unwrap().next().unwrap().unwrap().path();
    let data = std::fs::File::options().read(true).write(true).open(cut.join("data")).unwrap();
    let mut byte = [0];
    data.read_exact_at(&mut byte, at).unwrap();
    data.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn a_layer_is_removed_only_when_nobody_holds_it() {
    let fixture = Fixture::new(1);
    let layer = fixture.open(fixture.memory());
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
/// B7: What one repository says of a layer never changes what another repository's images read, even where both claim
/// the same diffID.
#[tokio::test]
async fn bytes_are_shared_only_where_the_digests_agree() {
    let fixture = Fixture::new(2);
    fixture.open(fixture.memory()).read(0..10).await.unwrap();
    assert!(fixture.open(fixture.memory()).file().has(&(0..10)), "the same layer of another image");

    let forged = crate::decode::tests::frames(&[b'!'; SPAN], SPAN);
    let mut claimed = fixture.layer.clone();
    claimed.spans[0].compressed_len = forged.len().try_into().unwrap();
    claimed.spans[0].digest = SpanDigest(*blake3::hash(&forged).as_bytes());
    let source = Arc::new(MemorySource::new([(claimed.converted.digest, forged.into())]));
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let liar = layers.open(&claimed, &LargeFiles::default(), &[source]);
    let honest = fixture.open_in(&layers, &[fixture.memory()]);
    assert_eq!(liar.read(0..10).await.unwrap(), b"!!!!!!!!!!");
    assert_eq!(honest.read_local(&(0..10)).unwrap(), fixture.tar[..10]);
}

/// doc/SEMANTICS.md B4, from the first read on: here the layer's directory cannot even be made.
#[tokio::test]
async fn a_layer_without_a_place_on_disk_is_served_and_kept_as_soon_as_it_can_be() {
    let fixture = Fixture::new(2);
    let place = fixture.store.root().join(fixture.layer.diff_id.0.hex());
    std::fs::write(&place, "in the way").unwrap();
    let layer = fixture.open(fixture.memory());
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
    let layer = fixture.open(fixture.memory());
    for at in [0, SPAN, 2 * SPAN] {
        let read = layer.read(at as u64..at as u64 + 60_000).await.unwrap();
        assert!(read == fixture.tar[at..at + 60_000]);
    }
    for range in [SPAN as u64 - 101..SPAN as u64 - 99, SPAN as u64 - 50..SPAN as u64 - 40] {
        assert!(matches!(layer.read(range).await.unwrap_err().kind(), ReadError::OutOfRange { .. }));
    }
}
