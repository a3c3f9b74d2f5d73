//! Hosts that want to be left alone for a while: they are, somebody else is asked meanwhile, and a read waits no longer than
//! it may.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use jaunt_distribution::{Client, ClientConfig};
use tokio::time::{Instant, sleep};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::layer::ReadError;
use crate::layers::Layers;
use crate::source::{RegistrySource, Source, Trouble};
use crate::testing::{Fixture, FnSource, Line, NOT_AHEAD, error};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A host that is busy until `from` begins, and says for how long; and how often it was asked by then.
fn busy(fixture: &Fixture, rest: Duration, well: Instant) -> (Arc<dyn Source>, Arc<AtomicU64>) {
    let (line, asked) = (Line::new(fixture, MS, 125e6).source(), Arc::new(AtomicU64::new(0)));
    let counted = asked.clone();
    let source = FnSource::source("busy", move |blob, range| match Instant::now() < well {
        true => {
            counted.fetch_add(1, Ordering::Relaxed);
            stream::iter([Err(error(blob, range, Trouble::Busy { rest }))]).boxed()
        }
        false => line.fetch(blob, range),
    });
    (source, asked)
}

#[tokio::test(start_paused = true)]
async fn a_host_is_left_alone_for_as_long_as_it_says_by_all_layers() {
    let (fixture, other) = (Fixture::new(60), Fixture::new(61));
    let begun = Instant::now();
    let (first, asked) = busy(&fixture, 12 * SECOND, begun + 12 * SECOND);
    let (second, asked_too) = busy(&other, 12 * SECOND, begun + 12 * SECOND);
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let (layer, neighbour) = (fixture.open_in(&layers, &[first]), other.open_in(&layers, &[second]));
    layer_reads(&fixture, &layer, 0..1, begun, 12).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    let fixture = fixture.anew();
    let begun = Instant::now();
    let (source, asked) = busy(&fixture, 12 * SECOND, begun + 12 * SECOND);
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let layer = fixture.open_in(&layers, &[source]);
    // Many readers of one layer that come one after the other.
    join_all((0..20).map(|at| {
        let (fixture, layer) = (&fixture, &layer);
        async move {
            sleep(at as u32 * 500 * MS).await;
            layer_reads(fixture, layer, 3 * at..3 * at + 1, begun, 12).await;
        }
    }))
    .await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one has found out for all");
    drop((neighbour, asked_too));
}

/// Reads, and is served at second `at`, counted from `begun`.
async fn layer_reads(
    fixture: &Fixture,
    layer: &crate::layer::Layer,
    spans: Range<usize>,
    begun: Instant,
    at: u64,
) {
    let range = fixture.tar_range(spans);
    assert!(layer.read(range.clone()).await.unwrap() == fixture.bytes(range));
    assert_eq!(begun.elapsed().as_secs(), at);
}

#[tokio::test(start_paused = true)]
async fn another_layer_of_the_host_does_not_ask_it_either() {
    let (fixture, other) = (Fixture::new(4), Fixture::new(5));
    let begun = Instant::now();
    let (first, _) = busy(&fixture, 12 * SECOND, begun + 12 * SECOND);
    let (second, asked) = busy(&other, 12 * SECOND, begun + 12 * SECOND);
    let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
    let (layer, neighbour) = (fixture.open_in(&layers, &[first]), other.open_in(&layers, &[second]));
    let later = async {
        sleep(SECOND).await;
        layer_reads(&other, &neighbour, 0..1, begun, 12).await;
    };
    tokio::join!(layer_reads(&fixture, &layer, 0..1, begun, 12), later);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn meanwhile_the_next_source_is_asked() {
    let fixture = Fixture::new(60);
    let begun = Instant::now();
    let (source, asked) = busy(&fixture, 12 * SECOND, begun + 12 * SECOND);
    let well = Line::new(&fixture, MS, 125e6).source();
    let layer = fixture.open_with(NOT_AHEAD(), &[source, well]);
    let reads = (0..20).map(|at| layer_reads(&fixture, &layer, 3 * at..3 * at + 1, begun, 0));
    join_all(reads).await;
    assert!(begun.elapsed() < 100 * MS, "{:?}", begun.elapsed());
    assert!(asked.load(Ordering::Relaxed) <= 20);
}

/// doc/SEMANTICS.md B6: as in any outage.
#[tokio::test(start_paused = true)]
async fn who_waits_for_longer_than_a_read_may_take_is_told_so_then_and_not_before() {
    let fixture = Fixture::new(4);
    let begun = Instant::now();
    let (source, asked) = busy(&fixture, 45 * SECOND, begun + 45 * SECOND);
    let layer = fixture.open(source);
    let late = layer.read(0..10).await.unwrap_err();
    assert!(
        matches!(late.kind(), ReadError::Deadline { last: Some(last), .. } if matches!(last.trouble, Trouble::Busy { .. }))
    );
    assert_eq!(begun.elapsed().as_secs(), 30);
    sleep(2 * SECOND).await;
    layer_reads(&fixture, &layer, 0..1, begun, 45).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_wants_to_be_left_alone_for_ever_is_asked_again_after_five_minutes() {
    let fixture = Fixture::new(4);
    let begun = Instant::now();
    let (source, asked) = busy(&fixture, 1_000_000 * SECOND, begun + SECOND);
    let layer = fixture.open(source);
    layer.read(0..10).await.unwrap_err();
    sleep(269 * SECOND).await;
    layer.read(0..10).await.unwrap();
    assert_eq!((begun.elapsed().as_secs(), asked.load(Ordering::Relaxed)), (300, 1));
}

/// A registry that answers its first request with `status` and Retry-After, and every other as it should.
async fn registry(fixture: &Fixture, status: u16, seconds: &str) -> (MockServer, Arc<Mutex<Vec<Instant>>>) {
    let (server, asked) = (MockServer::start().await, Arc::new(Mutex::new(Vec::new())));
    let (blob, noted) = (fixture.blob.clone(), asked.clone());
    let first = ResponseTemplate::new(status).insert_header("retry-after", seconds);
    let answer = move |request: &Request| {
        let mut asked = noted.lock().unwrap();
        asked.push(Instant::now());
        if asked.len() == 1 {
            return first.clone();
        }
        let range = request.headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (start, last) = range.split_once('-').unwrap();
        let (start, end) = (start.parse::<usize>().unwrap(), last.parse::<usize>().unwrap() + 1);
        let stated = format!("bytes {start}-{}/{}", end - 1, blob.len());
        let part = blob.slice(start..end).to_vec();
        ResponseTemplate::new(206).insert_header("content-range", stated).set_body_bytes(part)
    };
    Mock::given(method("GET")).respond_with(answer).mount(&server).await;
    (server, asked)
}

#[tokio::test]
async fn the_client_tells_how_long_a_registry_wants_to_be_left_alone() {
    for status in [429, 503] {
        let fixture = Fixture::new(4);
        let (server, asked) = registry(&fixture, status, "3").await;
        let config = ClientConfig { auth_files: Vec::new(), ..ClientConfig::default() };
        let repository = format!("{}/a/b", server.address()).parse().unwrap();
        let layer = fixture.open(Arc::new(RegistrySource::new(Client::new(config).unwrap(), repository)));
        let reads = (0..4).map(|at| {
            let range = fixture.tar_range(at..at + 1);
            let layer = &layer;
            async move { (layer.read(range.clone()).await.unwrap(), range) }
        });
        for (read, range) in join_all(reads).await {
            assert!(read == fixture.bytes(range));
        }
        let asked = asked.lock().unwrap();
        assert!(asked[1] - asked[0] >= 3 * SECOND, "{:?}", asked[1] - asked[0]);
    }
}
