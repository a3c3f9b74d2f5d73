//! A layer whose converted blob is of no use comes from its original, or not at all, and never half believed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use jaunt_formats::Digest;
use tokio::time::{Instant, sleep};

use crate::class::Class;
use crate::layer::{Layer, OriginalError, ReadError};
use crate::layers::Layers;
use crate::source::{MemorySource, Source, Trouble};
use crate::testing::{Fixture, FnSource, Line, NOT_AHEAD, error};

const MS: Duration = Duration::from_millis(1);

fn fixture(spans: usize) -> (Fixture, Bytes) {
    Fixture::new(spans).with_original()
}

/// A source that has the original alone.
fn only(fixture: &Fixture, original: &Bytes) -> Arc<MemorySource> {
    Arc::new(MemorySource::new([(fixture.layer.original.digest, original.clone())]))
}

/// A source that has not the converted blob, and of the original what `original` gives.
fn original_by(
    fixture: &Fixture,
    name: &str,
    original: impl Fn(Range<u64>) -> crate::source::ByteStream + Send + Sync + 'static,
) -> Arc<dyn Source> {
    let wanted = fixture.layer.original.digest;
    FnSource::source(name, move |blob, range| match blob == wanted {
        true => original(range),
        false => stream::iter([Err(error(blob, range, Trouble::Gone))]).boxed(),
    })
}

/// The same over a simulated line.
fn over(fixture: &Fixture, line: &Line) -> Arc<dyn Source> {
    let (line, blob) = (line.source(), fixture.layer.original.digest);
    original_by(fixture, "line", move |range| line.fetch(blob, range))
}

async fn until_all_is_kept(fixture: &Fixture, layer: &Layer) {
    for _ in 0..1000 {
        if layer.file().has(&(0..fixture.tar.len() as u64)) {
            return;
        }
        sleep(10 * MS).await;
    }
    panic!("the layer is not kept");
}

#[tokio::test]
async fn a_layer_whose_converted_blob_is_gone_is_streamed_once_for_all_readers() {
    let (fixture, original) = fixture(40);
    let streams = Arc::new(AtomicU64::new(0));
    let (asked, given) = (streams.clone(), original.clone());
    let source = original_by(&fixture, "own", move |range| {
        asked.fetch_add(1, Ordering::Relaxed);
        stream::iter([Ok(given.slice(range.start as usize..range.end as usize))]).boxed()
    });
    let layer = fixture.open(source);
    let reads = (0..40).map(|at| layer.read(fixture.tar_range(at..at + 1)));
    for (at, read) in join_all(reads).await.into_iter().enumerate() {
        assert!(read.unwrap() == fixture.bytes(fixture.tar_range(at..at + 1)));
    }
    assert_eq!(streams.load(Ordering::Relaxed), 1);
    until_all_is_kept(&fixture, &layer).await;
    assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
    // Another daemon over the same store needs nobody.
    let nobody = fixture.open(Arc::new(MemorySource::new([])));
    assert!(nobody.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
    assert_eq!(streams.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn spans_that_are_wrong_everywhere_come_from_the_original() {
    let (fixture, original) = fixture(6);
    let mut spoilt = fixture.blob.to_vec();
    spoilt[fixture.layer.spans[2].blob_offset.0 as usize + 9] ^= 1;
    let blobs =
        [(fixture.layer.converted.digest, spoilt.into()), (fixture.layer.original.digest, original.clone())];
    let layer = fixture.open(Arc::new(MemorySource::new(blobs)));
    assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
}

#[tokio::test]
async fn a_converted_blob_in_quarantine_is_not_asked_for_and_its_layer_is_kept_from_the_original() {
    let (fixture, original) = fixture(6);
    let (converted, asked) = (fixture.layer.converted.digest, Arc::new(Mutex::new(Vec::new())));
    let (both, noted) = (
        MemorySource::new([(converted, fixture.blob.clone()), (fixture.layer.original.digest, original)]),
        asked.clone(),
    );
    let layer = fixture.open(FnSource::source("both", move |blob, range| {
        noted.lock().unwrap().push(blob);
        both.fetch(blob, range)
    }));
    layer.file().quarantine("its tar is another").unwrap();
    assert!(layer.read(fixture.tar_range(3..5)).await.unwrap() == fixture.bytes(fixture.tar_range(3..5)));
    assert_eq!(*asked.lock().unwrap(), [fixture.layer.original.digest]);
    until_all_is_kept(&fixture, &layer).await;
}

/// doc/SEMANTICS.md B1: nothing is believed of a tar that is not the layer's.
#[tokio::test]
async fn an_original_that_is_another_tar_is_an_error_and_none_of_it_is_kept() {
    let (fixture, _) = fixture(6);
    let (mut other, blob) = Fixture::new(6).with_original();
    other.tar[99] ^= 1;
    let (_, lie) = Fixture::of(other.tar).with_original();
    for spoilt in [lie, blob.slice(..blob.len() / 2), Bytes::from_static(b"no gzip"), Bytes::new()] {
        let source = only(&fixture, &spoilt);
        let streams = Arc::new(AtomicU64::new(0));
        let counted = streams.clone();
        let len = fixture.layer.original.len;
        let layer = fixture.open(original_by(&fixture, "liar", move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut bytes = spoilt.to_vec();
            bytes.resize(len as usize, 0);
            stream::iter([Ok(bytes.into())]).boxed()
        }));
        for _ in 0..3 {
            let refused = layer.read(0..10).await.unwrap_err();
            let wrong = |error: &OriginalError| matches!(error, OriginalError::Source(error) if error.trouble == Trouble::Wrong);
            assert!(
                matches!(refused.kind(), ReadError::Original { source, .. } if wrong(source)),
                "{refused}"
            );
        }
        assert_eq!(streams.load(Ordering::Relaxed), 1, "not again for a while");
        assert_eq!(layer.file().present_bytes(), 0);
        drop(source);
    }
}

#[tokio::test]
async fn a_second_repository_gives_what_the_first_has_not_or_spoils() {
    let (fixture, original) = fixture(6);
    let spoilt = original_by(&fixture, "spoilt", |range| {
        stream::iter([Ok(Bytes::from(vec![0; (range.end - range.start) as usize]))]).boxed()
    });
    let nothing: Arc<dyn Source> = Arc::new(MemorySource::named("nothing", []));
    let layer = fixture.open_with(NOT_AHEAD(), &[nothing, spoilt, only(&fixture, &original)]);
    assert!(layer.read(0..10).await.unwrap() == fixture.tar[..10]);
}

/// doc/SEMANTICS.md B8: it takes eighty seconds, and a read waits for thirty where nothing comes.
#[tokio::test(start_paused = true)]
async fn a_read_waits_for_an_original_as_long_as_it_comes() {
    let (fixture, original) = fixture(40);
    let line = Line::to(original.clone(), 10 * MS, original.len() as f64 / 80.0);
    let layer = fixture.open(over(&fixture, &line));
    let begun = Instant::now();
    assert!(layer.read(0..10).await.unwrap() == fixture.tar[..10]);
    assert_eq!(begun.elapsed().as_secs(), 80);
}

/// doc/SEMANTICS.md B8: and not for ever.
#[tokio::test(start_paused = true)]
async fn a_read_waits_ten_minutes_at_most_and_who_asks_again_finds_the_stream_further_on() {
    let (fixture, original) = fixture(400);
    let line = Line::to(original.clone(), 10 * MS, original.len() as f64 / 700.0);
    let layer = fixture.open(over(&fixture, &line));
    let begun = Instant::now();
    let late = layer.read(0..10).await.unwrap_err();
    assert!(matches!(late.kind(), ReadError::Deadline { .. }), "{late}");
    assert_eq!(begun.elapsed().as_secs(), 600);
    sleep(2000 * MS).await;
    assert!(layer.read(0..10).await.unwrap() == fixture.tar[..10]);
    assert_eq!(begun.elapsed().as_secs(), 700);
}

#[tokio::test(start_paused = true)]
async fn an_original_that_falls_silent_is_an_outage_like_any_other() {
    let (fixture, _) = fixture(4);
    let layer = fixture.open(original_by(&fixture, "silent", |_| stream::pending().boxed()));
    let begun = Instant::now();
    let late = layer.read(0..10).await.unwrap_err();
    assert!(matches!(late.kind(), ReadError::Deadline { .. }), "{late}");
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn an_original_that_breaks_off_is_asked_for_the_rest() {
    let (fixture, original) = fixture(40);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let layer = fixture.open(original_by(&fixture, "broken", move |range| {
        noted.lock().unwrap().push(range.start);
        let end = (range.start + 700_000).min(range.end);
        let bytes = Ok(original.slice(range.start as usize..end as usize));
        let broken = Err(error(Digest::of(b""), range, Trouble::Broken));
        stream::iter([bytes, broken]).boxed()
    }));
    assert!(layer.read(0..10).await.unwrap() == fixture.tar[..10]);
    assert_eq!(*asked.lock().unwrap(), [0, 700_000, 1_400_000, 2_100_000]);
}

#[tokio::test(start_paused = true)]
async fn where_one_has_lost_the_converted_blob_and_another_is_silent_the_original_is_not_waited_for() {
    let (fixture, original) = fixture(4);
    let silent = FnSource::source("silent", |_, _| stream::pending().boxed());
    let layer = fixture.open_with(NOT_AHEAD(), &[silent, only(&fixture, &original)]);
    let begun = Instant::now();
    assert!(layer.read(0..10).await.unwrap() == fixture.tar[..10]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_disk_without_room_for_the_tar_is_told_and_fails_those_reads_alone() {
    let (mut fixture, original) = fixture(4);
    let kept = fixture.open(fixture.memory());
    kept.read(fixture.tar_range(0..1)).await.unwrap();
    drop(kept);
    fixture.layer.tar_len = 1 << 60;
    let streams = Arc::new(AtomicU64::new(0));
    let counted = streams.clone();
    let layer = fixture.open(original_by(&fixture, "own", move |range| {
        counted.fetch_add(1, Ordering::Relaxed);
        stream::iter([Ok(original.slice(range.start as usize..range.end as usize))]).boxed()
    }));
    let refused = layer.read(fixture.tar_range(1..2)).await.unwrap_err();
    let ReadError::Original { source, .. } = refused.kind() else { panic!("{refused}") };
    assert!(matches!(**source, OriginalError::Store(_)), "{source}");
    assert_eq!(streams.load(Ordering::Relaxed), 0, "before anything was asked for");
}

#[tokio::test(start_paused = true)]
async fn a_stream_stands_back_for_readers_unless_one_waits_for_it_and_ends_with_the_layer() {
    let (fixture, original) = fixture(100);
    let other = Fixture::new(50);
    let own = Line::to(original.clone(), 10 * MS, original.len() as f64 / 4.0);
    let busy = Line::new(&other, 10 * MS, other.blob.len() as f64 / 2.0);
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let layer = fixture.open_in(&layers, &[over(&fixture, &own)]);
    let reader = other.open_in(
        &layers,
        &[FnSource::source("other", {
            let busy = busy.source();
            move |blob, range| busy.fetch(blob, range)
        })],
    );
    let filling = {
        let layer = layer.clone();
        tokio::spawn(async move { layer.fetch(0..100, Class::Background).await })
    };
    sleep(1000 * MS).await;
    let begun = Instant::now();
    let (whole, urgent) = (0..other.tar.len() as u64, fixture.tar_range(7..8));
    let (read, wanted) = tokio::join!(reader.read(whole), async {
        sleep(1000 * MS).await;
        let wanted = layer.read(urgent.clone()).await;
        (wanted, begun.elapsed())
    });
    read.unwrap();
    assert!(wanted.0.unwrap() == fixture.bytes(urgent));
    // Three quarters were left, and nothing came in the first second.
    assert!((4000..4400).contains(&wanted.1.as_millis()), "{:?}", wanted.1);
    filling.await.unwrap().unwrap();

    let fixture = fixture.anew();
    let layer = fixture.open_in(&Layers::new(fixture.store.clone(), NOT_AHEAD()), &[over(&fixture, &own)]);
    assert!(tokio::time::timeout(1000 * MS, layer.read(0..10)).await.is_err());
    assert_eq!(own.under_way().0, 1, "it goes on when the reader has gone");
    drop(layer);
    sleep(MS).await;
    assert_eq!(own.under_way().0, 0, "and not without the layer");
}
