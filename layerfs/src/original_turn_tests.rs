//! Several originals at once: those whose readers have gone leave the way to those that somebody waits for, and what nobody
//! waits for keeps to its limit. With the clock paused.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use jaunt_formats::Digest;
use tokio::time::{Instant, sleep};

use crate::class::Class;
use crate::layer::Layer;
use crate::layers::{Layers, Settings};
use crate::source::{Source, Trouble};
use crate::testing::{Fixture, FnSource, Line, NOT_AHEAD, error};

const SECOND: Duration = Duration::from_secs(1);

/// Layers whose converted blobs are gone, of which a line of its own brings each original in `seconds`.
struct Gone {
    fixtures: Vec<(Fixture, Bytes)>,
    lines: Vec<Line>,
    layers: Vec<Layer>,
}

impl Gone {
    fn new(layers: &Layers, host: &str, seconds: &[f64]) -> Self {
        let fixtures: Vec<_> = (0..seconds.len()).map(|at| Fixture::new(100 + at).with_original()).collect();
        let line = |((_, original), seconds): (&(Fixture, Bytes), &f64)| {
            Line::to(original.clone(), Duration::from_millis(10), original.len() as f64 / seconds)
        };
        let lines: Vec<Line> = fixtures.iter().zip(seconds).map(line).collect();
        let open = |((fixture, _), line): (&(Fixture, Bytes), &Line)| {
            fixture.open_in(layers, &[originals(host, line, fixture.layer.original.digest)])
        };
        let layers = fixtures.iter().zip(&lines).map(open).collect();
        Self { fixtures, lines, layers }
    }

    async fn read(&self, at: usize) {
        let range = self.fixtures[at].0.tar_range(3..4);
        assert!(self.layers[at].read(range.clone()).await.unwrap() == self.fixtures[at].0.bytes(range));
    }

    /// A reader of each comes, and goes after a second.
    async fn readers_come_and_go(&self, of: std::ops::Range<usize>) {
        let readers = join_all(of.map(|at| self.read(at)));
        assert!(tokio::time::timeout(SECOND, readers).await.is_err());
    }
}

/// A source on `host` of originals alone.
fn originals(host: &str, line: &Line, original: Digest) -> Arc<dyn Source> {
    let line = line.source();
    FnSource::source(host, move |blob, range| match blob == original {
        true => line.fetch(blob, range),
        false => stream::iter([Err(error(blob, range, Trouble::Gone))]).boxed(),
    })
}

fn layers(fixture: &Fixture) -> Layers {
    Layers::new(fixture.store.clone(), NOT_AHEAD())
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_no_stream_whose_own_readers_have_gone() {
    let store = Fixture::new(1);
    let gone = Gone::new(&layers(&store), "one", &[100.0, 100.0, 3.0, 3.0]);
    gone.readers_come_and_go(0..2).await;
    let begun = Instant::now();
    gone.read(2).await;
    assert!(begun.elapsed() < 4 * SECOND, "{:?}", begun.elapsed());
    gone.read(3).await;
    assert!(begun.elapsed() < 8 * SECOND, "{:?}", begun.elapsed());
    // Both are there in the end, one after the other, and hardly anything was asked for twice.
    sleep(210 * SECOND).await;
    for at in 0..4 {
        assert_eq!(gone.layers[at].present_bytes(), gone.layers[at].total_bytes(), "{at}");
        assert!(gone.lines[at].asked().len() <= 2, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_stream_that_was_set_aside_finds_it_as_far_as_it_was() {
    let store = Fixture::new(1);
    let gone = Gone::new(&layers(&store), "one", &[100.0, 100.0]);
    let readers = join_all((0..2).map(|at| gone.read(at)));
    assert!(tokio::time::timeout(25 * SECOND, readers).await.is_err());
    sleep(5 * SECOND).await;
    let begun = Instant::now();
    // One has gone on behind all readers, the other has waited with a quarter.
    join_all((0..2).map(|at| gone.read(at))).await;
    assert!(begun.elapsed() < 76 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_there_are_places_begin_anew_when_they_are_wanted() {
    let store = Fixture::new(1);
    let gone = Gone::new(&layers(&store), "one", &[20.0; 8]);
    for pair in 0..4 {
        gone.readers_come_and_go(2 * pair..2 * pair + 2).await;
    }
    for at in 0..8 {
        gone.read(at).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_back_is_held_up_by_no_stream_that_nobody_waits_for() {
    let fixture = Fixture::new(60);
    let layers = layers(&fixture);
    let gone = Gone::new(&layers, "one", &[300.0]);
    let line = Line::new(&fixture, Duration::from_millis(1), 12.5e6).source();
    let layer =
        fixture.open_in(&layers, &[FnSource::source("one", move |blob, range| line.fetch(blob, range))]);
    gone.readers_come_and_go(0..1).await;
    let begun = Instant::now();
    layer.fetch(0..60, Class::Background).await.unwrap();
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(gone.lines[0].under_way().0, 1, "on the same host, and it goes on");
}

/// doc/SEMANTICS.md K1: at no more than the rate that is allowed.
#[tokio::test(start_paused = true)]
async fn an_original_that_nobody_waits_for_comes_no_faster_than_the_background_may() {
    let store = Fixture::new(1);
    let settings = Settings { background_limit: NonZeroU64::new(1_000_000), ..NOT_AHEAD() };
    let gone = Gone::new(&Layers::new(store.store.clone(), settings), "one", &[1.0, 1.0]);
    let bytes = gone.fixtures[0].1.len() as u64;
    assert!(bytes > 6_000_000);
    let begun = Instant::now();
    let filling = {
        let layer = gone.layers[0].clone();
        tokio::spawn(async move { layer.fetch(0..100, Class::Background).await })
    };
    gone.read(1).await;
    assert!(begun.elapsed() < 2 * SECOND, "who is waited for comes as fast as it can: {:?}", begun.elapsed());
    filling.await.unwrap().unwrap();
    let least = Duration::from_secs(bytes / 1_000_000 - 1);
    assert!((least..least + 5 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_for_the_backgrounds_limit() {
    let store = Fixture::new(1);
    let settings = Settings { background_limit: NonZeroU64::new(10_000), ..NOT_AHEAD() };
    let gone = Gone::new(&Layers::new(store.store.clone(), settings), "one", &[4.0]);
    let layer = gone.layers[0].clone();
    let filling = tokio::spawn(async move { layer.fetch(0..100, Class::Background).await });
    sleep(10 * SECOND).await;
    let begun = Instant::now();
    gone.read(0).await;
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    filling.await.unwrap().unwrap();
}
