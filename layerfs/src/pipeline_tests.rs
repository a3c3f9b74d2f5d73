//! The pipeline on a simulated line, with the clock paused: what is asked for, in which order, and how long it takes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::class::Class;
use crate::fs::Streams;
use crate::layer::Layer;
use crate::layers::{Layers, Settings};
use crate::testing::{Chance, Fixture, FnSource, Line, NOT_AHEAD, SPAN};

const MS: Duration = Duration::from_millis(1);
/// 100 Mbit/s: a span takes five milliseconds.
const RATE: f64 = 12.5e6;

fn open(fixture: &Fixture, line: &Line) -> Layer {
    fixture.open_with(NOT_AHEAD(), &[line.source()])
}

#[tokio::test(start_paused = true)]
async fn a_large_read_has_several_ranges_in_flight_and_asks_for_nothing_twice() {
    let fixture = Fixture::new(400);
    let line = Line::new(&fixture, 100 * MS, RATE);
    let layer = open(&fixture, &line);
    let begun = Instant::now();
    assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
    let least = Duration::from_secs_f64(fixture.blob.len() as f64 / RATE) + 100 * MS;
    assert!(begun.elapsed() < least + 20 * MS, "{:?} for what takes {least:?}", begun.elapsed());
    assert!(line.under_way().1 > 1);
    let mut runs = line.runs(&fixture);
    runs.sort_by_key(|run| run.start);
    assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start), "{runs:?}");
    assert_eq!((runs[0].start, runs[runs.len() - 1].end), (0, 400));
}

/// doc/SEMANTICS.md B3: what lies between wanted spans, too.
#[tokio::test(start_paused = true)]
async fn short_spans_between_wanted_ones_are_kept_and_local_ones_are_not_fetched_along() {
    let fixture = Fixture::cut(100, 10_000);
    let len = fixture.blob.len() as u64;
    let line = Line::new(&fixture, MS, RATE);
    let layer = open(&fixture, &line);
    let odd = (1..100).step_by(2).map(|at| layer.read(fixture.tar_range(at..at + 1)));
    assert!(join_all(odd).await.into_iter().all(|read| read.is_ok()));
    assert_eq!((line.asked().len(), line.runs(&fixture).pop()), (1, Some(1..100)));
    assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
    assert_eq!((line.runs(&fixture), line.asked_once()), (vec![1..100, 0..1], len));

    let fixture = fixture.anew();
    let line = Line::new(&fixture, MS, RATE);
    let layer = open(&fixture, &line);
    for at in (1..100).step_by(2) {
        layer.read(fixture.tar_range(at..at + 1)).await.unwrap();
    }
    assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
    assert_eq!((line.asked().len(), line.asked_once()), (100, len));
}

/// doc/SEMANTICS.md B3: whoever reads what, at whatever time.
#[tokio::test(start_paused = true)]
async fn no_byte_is_asked_for_twice_however_readers_meet() {
    for seed in 0..20 {
        let fixture = Fixture::cut(400, 10_000);
        let line = Line::new(&fixture, MS, RATE);
        let layer = open(&fixture, &line);
        let mut chance = Chance(seed);
        let readers = (0..150).map(|_| {
            let (first, len) = (chance.below(400) as usize, 1 + chance.below(3) as usize);
            let (range, after) = (fixture.tar_range(first..400.min(first + len)), chance.below(300));
            let (layer, fixture, guessed) = (&layer, &fixture, chance.below(4) == 0);
            async move {
                sleep(Duration::from_millis(after)).await;
                if guessed {
                    return layer.fetch(first..400.min(first + len), Class::Background).await.unwrap();
                }
                assert!(layer.read(range.clone()).await.unwrap() == fixture.bytes(range));
            }
        });
        join_all(readers).await;
        assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
        assert_eq!(line.asked_once(), fixture.blob.len() as u64, "seed {seed}");
    }
}

/// As the kernel reads a file: 128 KiB at a time, each once the one before is there, all that it takes ahead being ours.
async fn read_in_sequence(fixture: &Fixture, layer: &Layer) -> Duration {
    let (streams, begun) = (Streams::default(), Instant::now());
    let len = fixture.tar.len() as u64;
    for at in (0..len).step_by(128 << 10) {
        let range = at..len.min(at + (128 << 10));
        if let Some(ahead) = streams.note(1, range.clone()) {
            streams.set_most(layer.worth_ahead());
            if let Some(fetch) = layer.ahead(&(ahead.start..ahead.end.min(len))) {
                tokio::spawn(fetch);
            }
        }
        assert!(layer.read_alone(range.clone()).await.unwrap() == fixture.bytes(range));
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_reads_in_sequence_is_kept_waiting_by_the_line_and_hardly_by_round_trips() {
    for (round_trip, rate) in [(MS, 125e6), (10 * MS, 125e6), (50 * MS, 12.5e6)] {
        let fixture = Fixture::new(1200);
        let line = Line::new(&fixture, round_trip, rate);
        let layer = fixture.open_with(Settings::default(), &[line.source()]);
        let took = read_in_sequence(&fixture, &layer).await;
        let least = Duration::from_secs_f64(fixture.blob.len() as f64 / rate);
        // Of a short file, a part is read before the line is full.
        assert!(took.mul_f64(0.8) <= least, "{took:?} for what takes {least:?} at {round_trip:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_a_large_file_here_and_there_fetches_what_he_reads_alone() {
    let fixture = Fixture::new(400);
    let line = Line::new(&fixture, 10 * MS, RATE);
    let layer = fixture.open_with(Settings::default(), &[line.source()]);
    let (streams, mut chance, mut read) = (Streams::default(), Chance(7), std::collections::BTreeSet::new());
    for _ in 0..100 {
        let at = chance.below(fixture.tar.len() as u64 / 4096 - 1) * 4096;
        assert_eq!(streams.note(1, at..at + 4096), None);
        layer.read_alone(at..at + 4096).await.unwrap();
        read.insert(at / SPAN as u64);
    }
    sleep(1000 * MS).await;
    assert_eq!(line.asked().len(), read.len(), "one request of one span for each");
    assert!(line.runs(&fixture).iter().all(|run| run.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn what_several_readers_want_side_by_side_is_one_request() {
    let fixture = Fixture::new(60);
    let line = Line::new(&fixture, 10 * MS, RATE);
    let layer = open(&fixture, &line);
    // The first reader has the lane to himself, with more than a window.
    let first = layer.read(fixture.tar_range(0..30));
    let others = async {
        sleep(MS).await;
        join_all((40..50).map(|at| layer.read(fixture.tar_range(at..at + 1)))).await
    };
    let (_, others) = tokio::join!(first, others);
    assert!(others.into_iter().all(|read| read.is_ok()));
    assert_eq!(line.runs(&fixture), [0..30, 40..50]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_for_the_background_which_starts_nothing_meanwhile() {
    let fixture = Fixture::new(400);
    let line = Line::new(&fixture, MS, RATE);
    let alone = {
        let line = Line::new(&fixture, MS, RATE);
        let begun = Instant::now();
        open(&fixture, &line).read(fixture.tar_range(399..400)).await.unwrap();
        begun.elapsed()
    };
    let fixture = fixture.anew();
    let layer = fixture.open_with(NOT_AHEAD(), &[line.source()]);
    let filling = layer.clone();
    let background = tokio::spawn(async move { filling.fetch(0..390, Class::Background).await });
    sleep(30 * MS).await;
    let asked = line.asked().len();
    assert!(asked > 0 && line.under_way().0 > 0);
    for at in (392..400).rev() {
        let begun = Instant::now();
        layer.read(fixture.tar_range(at..at + 1)).await.unwrap();
        // What had been on the line when the reader came is a piece of each request.
        assert!(begun.elapsed() <= alone + 4 * MS, "{:?} instead of {alone:?}", begun.elapsed());
    }
    assert_eq!(line.asked().len(), asked + 8, "one for each read");
    background.await.unwrap().unwrap();
    assert!(layer.read_local(&fixture.tar_range(0..390)).is_some());
}

#[tokio::test(start_paused = true)]
async fn classes_have_their_turn_in_strict_order() {
    let fixture = Fixture::new(400);
    let line = Line::new(&fixture, MS, RATE);
    let layer = open(&fixture, &line);
    let reader = layer.read(fixture.tar_range(0..60));
    let wanted = async {
        sleep(MS / 2).await;
        let order = [(300, Class::Background), (200, Class::Boot), (100, Class::Demand), (160, Class::Ahead)];
        join_all(order.map(|(at, class)| layer.fetch(at..at + 40, class))).await
    };
    let _ = tokio::join!(reader, wanted);
    assert_eq!(line.runs(&fixture), [0..60, 100..140, 160..200, 200..240, 300..340]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_takes_over_what_the_background_wants_or_fetches() {
    let fixture = Fixture::new(100);
    let line = Line::new(&fixture, MS, RATE / 10.0);
    let layer = open(&fixture, &line);
    let _others: Vec<_> = [0..50, 50..100]
        .map(|spans| {
            let layer = layer.clone();
            tokio::spawn(async move { layer.fetch(spans, Class::Background).await })
        })
        .into();
    sleep(20 * MS).await;
    // Under way, and paused by another reader: now it must go on.
    let other = layer.fetch(0..0, Class::Background);
    let begun = Instant::now();
    layer.read(fixture.tar_range(3..4)).await.unwrap();
    assert!(begun.elapsed() < 1000 * MS, "{:?}", begun.elapsed());
    other.await.unwrap();
    assert!(line.runs(&fixture).iter().filter(|run| run.contains(&3)).count() == 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_any_more_is_not_fetched_to_its_end() {
    let fixture = Fixture::new(300);
    let line = Line::new(&fixture, 10 * MS, RATE / 10.0);
    let layer = open(&fixture, &line);
    let mut reader = layer.read(fixture.tar_range(0..300)).boxed();
    let mut other = layer.read(fixture.tar_range(0..1)).boxed();
    assert!(tokio::time::timeout(50 * MS, &mut reader).await.is_err());
    assert!(futures_util::poll!(&mut other).is_pending());
    let queued = line.asked().len();
    assert!(line.under_way().0 > 0);
    drop(reader);
    other.await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(line.under_way().0, 0, "what the other needed had come");
    sleep(5000 * MS).await;
    assert_eq!(line.asked().len(), queued, "and nothing else was asked for");
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_let_go_stops_its_background() {
    let fixture = Fixture::new(300);
    let line = Line::new(&fixture, MS, RATE / 10.0);
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let layer = fixture.open_in(&layers, &[line.source()]);
    let filling = {
        let layer = layer.clone();
        tokio::spawn(async move { layer.fetch(0..300, Class::Background).await })
    };
    sleep(20 * MS).await;
    assert_eq!(line.under_way().0, 1);
    filling.abort();
    drop(layer);
    sleep(MS).await;
    assert_eq!(line.under_way().0, 0);
    assert!(Arc::strong_count(&fixture.store) <= 2);
}

/// doc/SEMANTICS.md B6: one host that is silent holds up neither the readers of another nor its background for long.
#[tokio::test(start_paused = true)]
async fn a_silent_host_is_nobody_elses_trouble() {
    let (silent, well) = (Fixture::new(40), Fixture::new(41));
    let never = FnSource::source("never", |_, _| Box::pin(futures_util::stream::pending()));
    let line = Line::new(&well, MS, RATE);
    let layers = Layers::new(well.store.clone(), NOT_AHEAD());
    let (hung, healthy) = (silent.open_in(&layers, &[never]), well.open_in(&layers, &[line.source()]));
    let readers = join_all((0..40).map(|at| hung.read(silent.tar_range(at..at + 1))));
    let others = async {
        sleep(MS).await;
        let begun = Instant::now();
        healthy.read(well.tar_range(0..20)).await.unwrap();
        assert!(begun.elapsed() < 120 * MS, "{:?}", begun.elapsed());
        healthy.fetch(20..41, Class::Background).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    };
    let (failed, ()) = tokio::join!(readers, others);
    assert!(failed.into_iter().all(|read| read.is_err()));
}
