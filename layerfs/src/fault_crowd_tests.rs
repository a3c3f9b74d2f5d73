//! A crowd of readers of sources in trouble, with originals behind them, the background beside them, and a store that has
//! room for half: no wrong bytes, no read that hangs, and nothing that is not given back.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::class::Class;
use crate::layer::{Layer, ReadError, ReadErrors};
use crate::layers::{Layers, Settings};
use crate::source::{Faulty, MemorySource, Source, Trouble};
use crate::store::Cap;
use crate::testing::{Chance, Fixture, FnSource, error};

const SECOND: Duration = Duration::from_secs(1);
const READERS: u64 = 32;
const READS: u64 = 3;
const SPANS: usize = 24;
/// Half of the layer.
const CAP: Cap = Cap { high: Some(800_000), low: 500_000 };
/// What a read may take: its deadline, twenty of them where an original comes, and the clock's ticks.
const LONGEST: Duration = Duration::from_secs(601);

/// Repositories whose requests go wrong for the most part. With an odd seed there is one alone, nothing goes right but by chance, and
/// the original is gone; else the converted blob is gone from some.
fn sources(fixture: &Fixture, original: &bytes::Bytes, seed: u64) -> Vec<Arc<dyn Source>> {
    let blobs = [(fixture.layer.converted, fixture.blob.clone()), (fixture.layer.original, original.clone())];
    let hopeless = seed % 2 == 1;
    let repository = |number: u64| {
        let faulty = blobs.clone().map(|(blob, bytes)| {
            let memory = Arc::new(MemorySource::new([(blob.digest, bytes)]));
            Faulty::new(
                "any",
                memory,
                blob.len,
                seed * 8 + number * 2 + blob.len % 2,
                if hopeless { 1000 } else { 3 },
            )
        });
        let (converted, has_converted) =
            (fixture.layer.converted.digest, hopeless || (seed % 4 != number && !seed.is_multiple_of(14)));
        FnSource::source(["one", "two", "three"][number as usize], move |blob, range| {
            match (blob == converted, has_converted, hopeless) {
                (true, true, _) => faulty[0].fetch(blob, range),
                (false, _, false) => faulty[1].fetch(blob, range),
                _ => stream::iter([Err(error(blob, range, Trouble::Gone))]).boxed(),
            }
        })
    };
    (0..if hopeless { 1 } else { 3 }).map(repository).collect()
}

fn is_expected(error: &ReadErrors) -> bool {
    matches!(
        error.kind(),
        ReadError::Deadline { .. }
            | ReadError::Source(_)
            | ReadError::Wrong { .. }
            | ReadError::Original { .. }
            | ReadError::Store { .. }
    )
}

/// One reader: reads whole, gives up, has things fetched ahead, comes back.
async fn reader(fixture: &Fixture, layer: &Layer, seed: u64, number: u64) -> (u32, u32) {
    let mut chance = Chance(seed << 8 | number);
    let (mut right, mut failed) = (0, 0);
    for _ in 0..READS {
        sleep(Duration::from_millis(chance.below(5000))).await;
        let start = chance.below(fixture.tar.len() as u64 - 1);
        let range = start..(start + 1 + chance.below(300_000)).min(fixture.tar.len() as u64);
        match chance.below(5) {
            0 => drop(timeout(Duration::from_millis(chance.below(9000)), layer.read(range)).await),
            1 => {
                if let Some(ahead) = layer.ahead(&range) {
                    ahead.await;
                }
            }
            _ => match timed(layer, range.clone()).await {
                Ok(bytes) => {
                    assert!(bytes == fixture.bytes(range), "wrong bytes with seed {seed}");
                    right += 1;
                }
                Err(error) => {
                    assert!(is_expected(&error), "seed {seed}: {error}");
                    failed += 1;
                }
            },
        }
    }
    (right, failed)
}

async fn timed(layer: &Layer, range: Range<u64>) -> Result<Vec<u8>, ReadErrors> {
    let begun = Instant::now();
    let read = layer.read(range).await;
    assert!(begun.elapsed() <= LONGEST, "{:?}", begun.elapsed());
    read
}

/// What is done beside the readers, until it is dropped: the rest is fetched, and things are taken away.
async fn beside(fixture: &Fixture, layer: &Layer) {
    let filling = async {
        loop {
            drop(timeout(40 * SECOND, layer.fetch(0..SPANS, Class::Background)).await);
            sleep(SECOND).await;
        }
    };
    let evicting = async {
        for now in 0.. {
            sleep(2 * SECOND).await;
            let store = fixture.store.clone();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + now * 7);
            tokio::task::spawn_blocking(move || store.maintain(now)).await.unwrap().unwrap();
        }
    };
    tokio::join!(filling, evicting);
}

async fn a_crowd(fixture: &Fixture, original: &bytes::Bytes, seed: u64) -> (u32, u32) {
    let layers = Layers::new(fixture.store.clone(), Settings::default());
    let layer = fixture.open_in(&layers, &sources(fixture, original, seed));
    // Of the memory, 2 MiB are left: a little more than what fetching the layer at once takes.
    let pool = &layer.fetcher().node.pool;
    let others = (pool.hold(Class::Demand, 10 << 20).await, pool.hold(Class::Background, 4 << 20).await);
    let readers = join_all((0..READERS).map(|number| reader(fixture, &layer, seed, number)));
    let ended = tokio::select! {
        ended = timeout(4 * LONGEST, readers) => ended,
        () = beside(fixture, &layer) => unreachable!("it goes on"),
    };
    let ended = ended.unwrap_or_else(|_| panic!("readers hang with seed {seed}"));
    drop(others);
    // Once a source is well, everything is: an original that failed rests for as long as it took.
    layer.learn(&[fixture.memory()]);
    sleep(310 * SECOND).await;
    assert!(layer.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar, "seed {seed}");
    let fetcher = layer.fetcher().clone();
    drop((layer, layers));
    sleep(20 * SECOND).await;
    assert_eq!(fetcher.flights.most_urgent(), None, "seed {seed}");
    assert!(fetcher.node.pool.is_whole().await, "something is not given back with seed {seed}");
    ended.into_iter().fold((0, 0), |sum, (right, failed)| (sum.0 + right, sum.1 + failed))
}

/// doc/SEMANTICS.md B1 and B6, whatever the sources do, and however many read.
#[tokio::test(start_paused = true)]
async fn no_seed_gives_a_crowd_wrong_bytes_or_leaves_anything_behind() {
    let (mut right, mut failed) = (0, 0);
    let (mut fixture, original) = Fixture::new(SPANS).with_original();
    for seed in 0..24 {
        fixture = fixture.capped(CAP);
        let outcome = a_crowd(&fixture, &original, seed).await;
        (right, failed) = (right + outcome.0, failed + outcome.1);
    }
    assert!(right > failed && failed > 0, "{right} reads right, {failed} failed");
}
