//! What a miss brings along that was near another, on a simulated line, with the clock paused.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::{Instant, sleep};

use crate::class::Class;
use crate::layer::Layer;
use crate::layers::Settings;
use crate::source::{Source as _, Trouble};
use crate::testing::{Chance, Fixture, FnSource, Line, SPAN, error};

const MS: Duration = Duration::from_millis(1);
/// 100 Mbit/s: a span takes five milliseconds.
const RATE: f64 = 12.5e6;

/// A layer of which enough was read to know the line, and whose first miss, of span 50, has been: the next is near one.
async fn opened(round_trip: Duration, rate: f64) -> (Fixture, Line, Layer) {
    let fixture = Fixture::new(200);
    let line = Line::new(&fixture, round_trip, rate);
    let layer = fixture.open_with(Settings::default(), &[line.source()]);
    layer.read_alone(fixture.tar_range(0..30)).await.unwrap();
    layer.read(fixture.tar_range(50..51)).await.unwrap();
    (fixture, line, layer)
}

/// What was asked for after that.
fn asked(fixture: &Fixture, line: &Line) -> Vec<Range<usize>> {
    line.runs(fixture).split_off(2)
}

async fn read(fixture: &Fixture, layer: &Layer, span: usize) -> Duration {
    let (begun, range) = (Instant::now(), fixture.tar_range(span..span + 1));
    assert!(layer.read(range.clone()).await.unwrap() == fixture.bytes(range));
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_near_miss_brings_its_neighbours_with_the_same_request_and_does_not_wait_for_those_behind() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    let took = read(&fixture, &layer, 60).await;
    let [run] = <[Range<usize>; 1]>::try_from(asked(&fixture, &line)).unwrap();
    let (before, behind): (usize, usize) = (60 - run.start, run.end - 61);
    assert!((1..=8).contains(&before) && behind >= 2 * before, "{run:?}");
    let until_own = 20 * MS + (before as u32 + 1) * 6 * MS;
    assert!(took <= until_own, "{took:?}, and {until_own:?} until its own had come");
    assert!(!layer.file().has(&fixture.tar_range(run.clone())), "the rest is still on the line");
    sleep(2000 * MS).await;
    assert!(layer.file().has(&fixture.tar_range(run.clone())));
    let later = asked(&fixture, &line);
    assert!(later[1..].iter().all(|other| other.end <= run.start || other.start >= run.end), "{later:?}");
    let wanted_next = read(&fixture, &layer, 61).await;
    assert_eq!((wanted_next, asked(&fixture, &line).len()), (Duration::ZERO, later.len()));
}

#[tokio::test(start_paused = true)]
async fn no_reader_waits_for_neighbours_of_another() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    read(&fixture, &layer, 60).await;
    let run = asked(&fixture, &line)[0].clone();
    for far in [150, 160, 170] {
        let took = layer.read_alone(fixture.tar_range(far..far + 1));
        let begun = Instant::now();
        took.await.unwrap();
        assert!(begun.elapsed() <= 20 * MS + 5 * MS + 4 * MS, "{:?}", begun.elapsed());
    }
    assert!(!layer.file().has(&fixture.tar_range(run.clone())), "which stood back meanwhile");
    sleep(1000 * MS).await;
    assert!(layer.file().has(&fixture.tar_range(run.clone())), "and went on");
    assert_eq!(asked(&fixture, &line).iter().filter(|other| **other == run).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn on_a_slow_line_a_reader_gets_what_he_reads_and_neighbours_come_when_nobody_waits() {
    let (fixture, line, layer) = opened(5 * MS, RATE / 20.0).await;
    let took = read(&fixture, &layer, 60).await;
    // Pieces of 16 KiB take longer than the round trip, and count as one.
    let run = asked(&fixture, &line)[0].clone();
    assert!(run.start == 60 && run.end <= 63, "{run:?}");
    assert!(took <= 5 * MS + 5 * 27 * MS, "{took:?}");
    sleep(5000 * MS).await;
    assert!(layer.file().has(&fixture.tar_range(55..66)));
}

#[tokio::test(start_paused = true)]
async fn neighbours_take_no_memory_from_readers_and_are_left_where_there_is_none() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    let pool = &layer.fetcher().node.pool;
    let others = pool.hold(Class::Background, 1 << 40).await;
    read(&fixture, &layer, 60).await;
    assert_eq!(asked(&fixture, &line)[0], 60..61);
    drop(others);
    read(&fixture, &layer, 70).await;
    let run = asked(&fixture, &line).pop().unwrap();
    assert!(run.contains(&70) && run.len() > 1, "{run:?}");
    // They stand back now, and all that is for readers is to be had.
    let other = pool.urgency.wait();
    sleep(100 * MS).await;
    assert_eq!(line.under_way().0, 1);
    let all = |class| std::iter::from_fn(move || pool.hold_now(class, 64 << 10)).collect::<Vec<_>>();
    let (background, demand) = (all(Class::Background), all(Class::Demand));
    assert!(background.len() < 63 && demand.len() == 192, "{} and {}", background.len(), demand.len());
    drop((background, demand, other));
    sleep(2000 * MS).await;
    assert!(pool.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn a_miss_that_nobody_waits_for_any_more_does_not_come_for_the_sake_of_its_neighbours() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    let gone = tokio::time::timeout(5 * MS, layer.read(fixture.tar_range(60..61))).await;
    assert!(gone.is_err() && asked(&fixture, &line)[0].len() > 1);
    sleep(5000 * MS).await;
    assert!(!layer.file().has(&fixture.tar_range(60..61)));
    assert_eq!(line.under_way().0, 0);
    assert!(layer.fetcher().node.pool.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn neighbours_that_stood_back_for_long_are_given_up_and_hold_nothing() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    read(&fixture, &layer, 60).await;
    let (run, pool) = (asked(&fixture, &line)[0].clone(), &layer.fetcher().node.pool);
    let other = pool.urgency.wait();
    sleep(3000 * MS).await;
    assert_eq!(line.under_way().0, 0);
    assert!(pool.is_whole().await);
    let missing = run.clone().rfind(|at| !layer.file().has(&fixture.tar_range(*at..at + 1)));
    // Whoever comes to want one of them is given it.
    read(&fixture, &layer, missing.unwrap()).await;
    drop(other);
    sleep(5000 * MS).await;
    assert!(pool.is_whole().await && line.under_way().0 == 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_is_repeated_without_neighbours() {
    let fixture = Fixture::new(100);
    let line = Line::new(&fixture, 20 * MS, RATE);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let source = FnSource::source("only a little", move |blob, range: Range<u64>| {
        noted.lock().unwrap().push(range.end - range.start);
        if noted.lock().unwrap().len() > 3 && range.end - range.start > 2 * SPAN as u64 {
            return stream::iter([Err(error(blob, range, Trouble::Broken))]).boxed();
        }
        line.fetch(blob, range)
    });
    let layer = fixture.open_with(Settings::default(), &[source]);
    layer.read_alone(fixture.tar_range(0..30)).await.unwrap();
    layer.read(fixture.tar_range(50..51)).await.unwrap();
    layer.read(fixture.tar_range(40..41)).await.unwrap();
    read(&fixture, &layer, 60).await;
    let lens = asked.lock().unwrap().clone();
    let (failed, after) = (lens[3], lens[4]);
    assert!(failed > 2 * SPAN as u64 && after < 2 * SPAN as u64, "{lens:?}");
}

#[tokio::test(start_paused = true)]
async fn neighbours_are_not_fetched_for_a_layer_that_is_let_go() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    read(&fixture, &layer, 60).await;
    assert!(line.under_way().0 > 0);
    drop(layer);
    sleep(MS).await;
    assert_eq!(line.under_way().0, 0);
}

/// doc/SEMANTICS.md B3: neither what comes along.
#[tokio::test(start_paused = true)]
async fn no_byte_is_asked_for_twice_where_neighbours_come_along() {
    for seed in 0..20 {
        let fixture = Fixture::cut(400, SPAN / 4);
        let line = Line::new(&fixture, 20 * MS, RATE);
        let layer = fixture.open_with(Settings::default(), &[line.source()]);
        let mut chance = Chance(seed);
        let readers = (0..100).map(|_| {
            let (first, len) = (chance.below(400) as usize, 1 + chance.below(3) as usize);
            let (range, after) = (fixture.tar_range(first..400.min(first + len)), chance.below(400));
            let (layer, fixture) = (&layer, &fixture);
            async move {
                sleep(Duration::from_millis(after)).await;
                assert!(layer.read(range.clone()).await.unwrap() == fixture.bytes(range));
            }
        });
        join_all(readers).await;
        assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar);
        assert_eq!(line.asked_once(), fixture.blob.len() as u64, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_readers_at_once_do_not_wait_for_what_comes_along() {
    let fixture = Fixture::cut(1600, SPAN);
    let line = Line::new(&fixture, 20 * MS, RATE * 10.0);
    let layer = fixture.open_with(Settings::default(), &[line.source()]);
    layer.read_alone(fixture.tar_range(0..60)).await.unwrap();
    let begun = Instant::now();
    let readers = (2..50).map(|at| {
        let (layer, fixture) = (&layer, &fixture);
        async move {
            for span in [at * 32, at * 32 + 9] {
                read(fixture, layer, span).await;
            }
        }
    });
    join_all(readers).await;
    // Whoever is in the way of a reader goes on after two seconds.
    assert!(begun.elapsed() < 1500 * MS, "{:?}", begun.elapsed());
    let brings =
        |run: &Range<usize>| run.len() > 1 && (run.start..run.end).any(|at| at >= 64 && at % 32 == 9);
    assert!(line.runs(&fixture)[1..].iter().any(brings), "some came along");
    sleep(10_000 * MS).await;
    assert!(layer.fetcher().node.pool.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn what_others_wait_for_is_left_to_them() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    // Fetched ahead of another, and queued while that one is on the line.
    let other = layer.fetch(100..180, Class::Ahead);
    let ahead = async {
        sleep(MS).await;
        layer.fetch(61..62, Class::Ahead).await
    };
    let near = async {
        sleep(2 * MS).await;
        read(&fixture, &layer, 60).await
    };
    let _ = tokio::join!(other, ahead, near);
    let run = asked(&fixture, &line).into_iter().find(|run| run.contains(&60)).unwrap();
    assert!(run.len() > 1 && run.end == 61, "{run:?}");
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_read_what_comes_along_is_not_let_down_by_the_first_reader() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    let mut first = layer.read(fixture.tar_range(60..61)).boxed();
    assert!(tokio::time::timeout(5 * MS, &mut first).await.is_err());
    let second = layer.clone();
    let range = fixture.tar_range(62..63);
    let waiting = tokio::spawn(async move { second.read(range).await });
    sleep(5 * MS).await;
    drop(first);
    assert!(waiting.await.unwrap().unwrap() == fixture.bytes(fixture.tar_range(62..63)));
    assert_eq!(asked(&fixture, &line).iter().filter(|run| run.contains(&62)).count(), 1);
    sleep(5000 * MS).await;
    assert!(layer.fetcher().node.pool.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_has_no_holes_where_others_wait_for_what_came_along() {
    let fixture = Fixture::new(100);
    let line = Line::new(&fixture, 20 * MS, RATE);
    let fails = Arc::new(AtomicBool::new(false));
    let (noted, failing) = (line.clone(), fails.clone());
    let source = FnSource::source("breaks off", move |blob, range: Range<u64>| {
        match failing.swap(false, Ordering::Relaxed) {
            true => stream::once(async move {
                sleep(20 * MS).await;
                Err(error(blob, range, Trouble::Broken))
            })
            .boxed(),
            false => noted.fetch(blob, range),
        }
    });
    let layer = fixture.open_with(Settings::default(), &[source]);
    layer.read_alone(fixture.tar_range(0..30)).await.unwrap();
    layer.read(fixture.tar_range(50..51)).await.unwrap();
    fails.store(true, Ordering::Relaxed);
    let other = async {
        sleep(5 * MS).await;
        read(&fixture, &layer, 63).await
    };
    tokio::join!(read(&fixture, &layer, 60), other);
    sleep(5000 * MS).await;
    let runs = line.runs(&fixture);
    assert!(runs.contains(&(60..64)), "{runs:?}");
    line.asked_once();
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_nothing_comes_along() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    layer.fetcher().node.cannot_keep(&fixture.layer.diff_id.0);
    read(&fixture, &layer, 60).await;
    assert_eq!(asked(&fixture, &line)[0], 60..61);
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_no_decoder_on_account_of_what_comes_before_his_span() {
    let (fixture, line, layer) = opened(20 * MS, RATE).await;
    let pool = &layer.fetcher().node.pool;
    let held = std::iter::from_fn(|| pool.decoder(Class::Background).now_or_never().flatten());
    let _held: Vec<_> = held.collect();
    read(&fixture, &layer, 60).await;
    assert!(asked(&fixture, &line)[0].start < 60);
}
