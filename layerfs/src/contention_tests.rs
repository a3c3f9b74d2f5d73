//! Who waits for whom, where many want more than there is: passages, memory, and turns. With the clock paused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::class::Class;
use crate::layer::Layer;
use crate::layers::{Layers, Settings};
use crate::source::Source;
use crate::testing::{Fixture, FnSource, Line, NOT_AHEAD};

const MS: Duration = Duration::from_millis(1);
/// More than there is of anything.
const ALL: u64 = 1 << 40;

/// A host that answers as fast as can be, until it falls silent.
fn silent_from(fixture: &Fixture, silence: Instant) -> Arc<dyn Source> {
    let line = Line::new(fixture, 50 * MS, 1e9).source();
    FnSource::source("falls silent", move |blob, range| match Instant::now() < silence {
        true => line.fetch(blob, range),
        false => Box::pin(futures_util::stream::pending()),
    })
}

#[tokio::test(start_paused = true)]
async fn runs_that_leave_a_silent_host_for_a_crowded_one_all_end() {
    // Stretches of a request each, too far apart to be one.
    const READERS: usize = 16;
    const WARM: usize = 180;
    let stretch = |at: usize| WARM + 66 * at..WARM + 66 * at + 62;
    let fixture = Fixture::new(stretch(READERS).start);
    let begun = Instant::now();
    let (sick, well) = (silent_from(&fixture, begun + 1000 * MS), Line::new(&fixture, MS, 125e6).source());
    let layer = fixture.open_with(NOT_AHEAD(), &[sick, well]);
    for warm in [0..60, 60..WARM] {
        layer.read(fixture.tar_range(warm)).await.unwrap();
    }
    assert!(layer.fetcher().lane().window() > 12 << 20, "room for four requests");
    // The first gives up before the others, and is on its way elsewhere when the many come.
    let reads = (0..READERS).map(|at| {
        let wait = match at {
            0 => Duration::ZERO,
            1..4 => 20 * MS,
            _ => 8005 * MS,
        };
        let (layer, range) = (layer.clone(), fixture.tar_range(stretch(at)));
        async move {
            tokio::time::sleep_until(begun + 1000 * MS + wait).await;
            layer.read(range).await.map(|read| read.len())
        }
    });
    let ended = join_all(reads).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(layer.fetcher().node.pool.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_any_more_waits_for_nothing() {
    let fixture = Fixture::new(40);
    let layer = fixture.open(Line::new(&fixture, MS, 125e6).source());
    let (background, demand) = {
        let pool = &layer.fetcher().node.pool;
        (pool.hold(Class::Background, ALL).await, pool.hold(Class::Demand, ALL).await)
    };
    let read = tokio::time::timeout(100 * MS, layer.read(fixture.tar_range(0..40))).await;
    assert!(read.is_err(), "there is no memory");
    sleep(MS).await;
    let lane = layer.fetcher().lane();
    let passage = tokio::time::timeout(MS, lane.enter(Class::Background, 1)).await;
    assert!(passage.is_ok(), "its passage is free again");
    drop((background, demand));
    layer.read(fixture.tar_range(0..40)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_joins_what_waits_for_its_memory_does_not_wait_as_one_of_the_background() {
    let fixture = Fixture::new(40);
    let layer = fixture.open(Line::new(&fixture, MS, 125e6).source());
    let others = layer.fetcher().node.pool.hold(Class::Background, ALL).await;
    let filling = layer.clone();
    let background = tokio::spawn(async move { filling.fetch(0..20, Class::Background).await });
    sleep(20 * MS).await;
    let begun = Instant::now();
    layer.read(fixture.tar_range(3..4)).await.unwrap();
    assert!(begun.elapsed() < 50 * MS, "{:?}", begun.elapsed());
    drop(others);
    background.await.unwrap().unwrap();
}

/// Reads one span after the other, two readers at a time, so that one waits at any time.
async fn read_on_and_on(fixture: &Fixture, layer: &Layer) {
    let reader = |from: usize| async move {
        for at in (from..40).step_by(2) {
            layer.read(fixture.tar_range(at..at + 1)).await.unwrap();
        }
    };
    let later = async {
        sleep(150 * MS).await;
        reader(1).await;
    };
    tokio::join!(reader(0), later);
}

#[tokio::test(start_paused = true)]
async fn who_joins_what_has_stood_back_for_long_waits_for_no_other_reader() {
    let (slow, fixture) = (Fixture::new(40), Fixture::new(61));
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let (far, near) = (Line::new(&slow, 300 * MS, 125e6), Line::new(&fixture, MS, 12.5e6));
    let far = FnSource::source("far", move |blob, range| far.source().fetch(blob, range));
    let (busy, layer) = (slow.open_in(&layers, &[far]), fixture.open_in(&layers, &[near.source()]));
    let filling = layer.clone();
    let background = tokio::spawn(async move { filling.fetch(0..60, Class::Background).await });
    sleep(20 * MS).await;
    let reads = async {
        // Its answer has been abandoned by then, and the others go on for as long again.
        sleep(3000 * MS).await;
        assert_eq!(near.under_way().0, 0);
        let begun = Instant::now();
        layer.read(fixture.tar_range(50..51)).await.unwrap();
        assert!(begun.elapsed() < 500 * MS, "{:?}", begun.elapsed());
        assert!(!busy.fetcher().node.pool.urgency.is_quiet());
    };
    tokio::join!(read_on_and_on(&slow, &busy), reads);
    background.await.unwrap().unwrap();
}

/// A host that answers small requests alone.
fn silent_if_large(fixture: &Fixture) -> Arc<dyn Source> {
    let line = Line::new(fixture, MS, 125e6).source();
    FnSource::source("silent if large", move |blob, range| match range.end - range.start < 100_000 {
        true => line.fetch(blob, range),
        false => Box::pin(futures_util::stream::pending()),
    })
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_does_not_stop_what_is_fetched_around_misses_elsewhere() {
    let (silent, well) = (Fixture::new(40), Fixture::new(41));
    let layers = Layers::new(well.store.clone(), Settings::default());
    let hung = silent.open_in(&layers, &[silent_if_large(&silent)]);
    let healthy = well.open_in(&layers, &[Line::new(&well, MS, 125e6).source()]);
    for (fixture, layer) in [(&silent, &hung), (&well, &healthy)] {
        for at in [20, 21] {
            layer.read(fixture.tar_range(at..at + 1)).await.unwrap();
        }
        sleep(100 * MS).await;
    }
    sleep(20_000 * MS).await;
    assert!(healthy.read_local(&well.tar_range(15..27)).is_some());
    assert_eq!(hung.fetcher().flights.most_urgent(), None, "and the others are given up");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_ahead_of_a_reader_is_given_up_when_nothing_comes() {
    let fixture = Fixture::new(40);
    let layer = fixture.open_with(Settings::default(), &[silent_if_large(&fixture)]);
    let ahead = layer.ahead(&fixture.tar_range(0..30)).unwrap();
    assert!(tokio::time::timeout(10_000 * MS, ahead).await.is_ok());
}
