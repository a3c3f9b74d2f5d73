//! Registries that are gone, silent or dripping: who else is asked, how often, and for how long. With the clock paused, but where
//! there are sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jaunt_formats::Digest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::layer::ReadError;
use crate::layers::{Layers, Settings};
use crate::slow_registry::{self, SlowRegistry};
use crate::source::{ByteStream, Source, Trouble};
use crate::testing::{Fixture, FnSource, Line, NOT_AHEAD, error};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What may be the matter with a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Gone,
    Silent,
    Dripping,
}

const OUTAGES: [Outage; 3] = [Outage::Gone, Outage::Silent, Outage::Dripping];

/// A repository on a host of its own, which is well or not.
struct Repository {
    source: Arc<dyn Source>,
    is_well: Arc<AtomicBool>,
    /// When it was asked.
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Repository {
    fn new(name: &str, fixture: &Fixture, outage: Outage) -> Self {
        let (line, blob_bytes) = (Line::new(fixture, MS, 125e6).source(), fixture.blob.clone());
        let (is_well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (told, noted) = (is_well.clone(), asked.clone());
        let source = FnSource::source(name, move |blob, range| -> ByteStream {
            noted.lock().unwrap().push(Instant::now());
            match outage {
                _ if told.load(Ordering::Relaxed) => line.fetch(blob, range),
                Outage::Gone => stream::iter([Err(error(blob, range, Trouble::Broken))]).boxed(),
                Outage::Silent => stream::pending().boxed(),
                Outage::Dripping => {
                    let rest = blob_bytes.slice(range.start as usize..range.end as usize);
                    stream::unfold(rest, |mut rest| async move {
                        sleep(900 * MS).await;
                        Some((Ok(rest.split_to(10)), rest))
                    })
                    .boxed()
                }
            }
        });
        Self { source, is_well, asked }
    }

    fn is(&self, well: bool) {
        self.is_well.store(well, Ordering::Relaxed);
    }

    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().unwrap().clone()
    }
}

/// The kernel's next read, after which it would have asked once more by itself.
const LATER: Duration = Duration::from_millis(1100);

/// B6: A read whose registry is gone, silent or dripping is tried with the other repositories that have the layer,
/// round after round with growing pauses, for 30 seconds; then it is an error (EIO).
#[tokio::test(start_paused = true)]
async fn all_repositories_are_asked_again_and_again_until_the_time_is_up() {
    for outage in OUTAGES {
        let fixture = Fixture::new(4);
        let [one, two] = ["one", "two"].map(|name| Repository::new(name, &fixture, outage));
        let layer = fixture.open_with(NOT_AHEAD(), &[one.source.clone(), two.source.clone()]);
        let begun = Instant::now();
        let failed = layer.read(fixture.tar_range(1..3)).await.unwrap_err();
        assert!(matches!(failed.kind(), ReadError::Deadline { last: Some(_), .. }), "{outage:?}: {failed}");
        assert_eq!(begun.elapsed().as_secs(), 30, "{outage:?}");
        sleep(MS).await;
        let asked = [one.asked(), two.asked()];
        let often = [asked[0].len(), asked[1].len()];
        assert!(often[1] >= 2 && often[0].abs_diff(often[1]) <= 1, "{outage:?}: {often:?}");
        match outage {
            Outage::Gone => {
                assert!(often[1] < 30, "{often:?}");
                let pauses: Vec<_> = asked[0].windows(2).map(|pair| pair[1] - pair[0]).collect();
                assert!(pauses[..4].is_sorted() && pauses[0] * 9 < pauses[3], "{pauses:?}");
            }
            _ => assert_eq!((asked[1][0] - asked[0][0]).as_secs(), 8, "{outage:?}: of silence"),
        }

        one.is(true);
        two.is(true);
        sleep(LATER).await;
        let begun = Instant::now();
        assert!(layer.read(fixture.tar_range(0..4)).await.unwrap() == fixture.tar);
        assert!(begun.elapsed() < SECOND, "{outage:?}: the same layer, once they are back");
    }
}

/// doc/SEMANTICS.md B6: one repository is given up for the next.
#[tokio::test(start_paused = true)]
async fn what_one_repository_does_not_give_the_next_one_does() {
    for outage in OUTAGES {
        let fixture = Fixture::new(4);
        let [first, next] = ["first", "next"].map(|name| Repository::new(name, &fixture, outage));
        next.is(true);
        let layer = fixture.open_with(NOT_AHEAD(), &[first.source.clone(), next.source.clone()]);
        let begun = Instant::now();
        assert!(layer.read(fixture.tar_range(0..4)).await.unwrap() == fixture.tar);
        let expected = if outage == Outage::Gone { 0 } else { 8 };
        assert_eq!(begun.elapsed().as_secs(), expected, "{outage:?}");
        assert_eq!((first.asked().len(), next.asked().len()), (1, 1), "{outage:?}");
    }
}

/// doc/SEMANTICS.md B6: what is local is not affected, nor are the reads of other layers from other registries.
#[tokio::test(start_paused = true)]
async fn an_outage_is_nothing_to_what_is_local_or_elsewhere() {
    for outage in OUTAGES {
        let (fixture, other) = (Fixture::new(4), Fixture::new(5));
        let (sick, well) = (Repository::new("sick", &fixture, outage), Line::new(&other, MS, 125e6));
        let layers = Layers::new(fixture.store.clone(), NOT_AHEAD());
        let layer = fixture.open_in(&layers, std::slice::from_ref(&sick.source));
        let elsewhere = other.open_in(&layers, &[well.source()]);
        sick.is(true);
        layer.read(fixture.tar_range(0..2)).await.unwrap();
        sick.is(false);
        let waits = layer.read(fixture.tar_range(3..4));
        let reads = async {
            sleep(10 * SECOND).await;
            let begun = Instant::now();
            assert!(
                layer.read(fixture.tar_range(0..2)).await.unwrap() == fixture.bytes(fixture.tar_range(0..2))
            );
            assert_eq!(begun.elapsed(), Duration::ZERO, "{outage:?}");
            assert!(elsewhere.read(other.tar_range(0..5)).await.unwrap() == other.tar);
            assert!(begun.elapsed() < SECOND, "{outage:?}: {:?}", begun.elapsed());
        };
        let (waited, ()) = tokio::join!(waits, reads);
        assert!(matches!(waited.unwrap_err().kind(), ReadError::Deadline { .. }), "{outage:?}");
    }
}

/// doc/SEMANTICS.md B6: where all say for certain that they will not give it, and there is no other original.
#[tokio::test(start_paused = true)]
async fn what_nobody_will_give_is_an_error_at_once() {
    for trouble in [Trouble::Refused, Trouble::Gone] {
        let fixture = Fixture::new(4);
        let refusing = ["one", "two"].map(|name| {
            FnSource::source(name, move |blob, range| {
                stream::iter([Err(error(blob, range, trouble))]).boxed()
            })
        });
        let layer = fixture.open_with(NOT_AHEAD(), &refusing);
        let begun = Instant::now();
        layer.read(fixture.tar_range(0..1)).await.unwrap_err();
        assert!(begun.elapsed() < SECOND, "{trouble:?}: {:?}", begun.elapsed());
    }
}

/// A mirror that begins every answer with its head and a byte, and sends no more; and how many it has begun.
async fn stalling_mirror(len: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, begun) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = begun.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let Ok(Some((_, range))) = slow_registry::request(&mut socket).await else { continue };
            let (start, last, of) = (range.start, range.end - 1, range.len());
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {of}\r\ncontent-range: bytes {start}-{last}/{len}\r\n\r\nx"
            );
            count.fetch_add(1, Ordering::Relaxed);
            let _ = socket.write_all(head.as_bytes()).await;
            open.push(socket);
        }
    });
    (address, begun)
}

/// doc/SEMANTICS.md B6: nor does a mirror, which the client alone knows of.
#[tokio::test]
async fn a_mirror_that_answers_and_then_keeps_silent_costs_one_wait() {
    let fixture = Fixture::new(40);
    let blob = (fixture.layer.converted.digest, fixture.blob.clone());
    let (mirror, begun) = stalling_mirror(blob.1.len()).await;
    let registry = SlowRegistry::new([blob], 1 << 30, Digest::of(b"none"));
    let settings = Settings { silence: 2 * SECOND, ..NOT_AHEAD() };
    let layer = fixture.open_with(settings, &[registry.source_behind(mirror)]);
    for at in [0, 10, 20, 30] {
        let range = fixture.tar_range(at..at + 1);
        assert!(layer.read(range.clone()).await.unwrap() == fixture.bytes(range));
    }
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}
