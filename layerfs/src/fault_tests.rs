//! Faults: every one either heals or is an error to that read alone, and none is ever wrong bytes.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use crate::layer::ReadError;
use crate::source::{Faulty, Source};
use crate::testing::{Chance, Fixture, NOT_AHEAD};

/// Two sources with the layer, of which all but one in `one_in` requests go wrong in some way.
fn sources(fixture: &Fixture, seed: u64, one_in: u64) -> [Arc<dyn Source>; 2] {
    ["first", "second"].map(|name| {
        let seed = seed * 2 + name.len() as u64;
        let faulty = Faulty::new(name, fixture.memory(), fixture.blob.len() as u64, seed, one_in);
        Arc::new(faulty) as Arc<dyn Source>
    })
}

/// Reads at random from sources in trouble: what is given is right, what fails does so in time.
async fn read_at_random(fixture: &Fixture, seed: u64, one_in: u64) -> (u32, u32) {
    let layer = fixture.open_with(NOT_AHEAD(), &sources(fixture, seed, one_in));
    let mut chance = Chance(seed);
    let (mut right, mut failed) = (0, 0);
    for _ in 0..12 {
        let start = chance.below(fixture.tar.len() as u64);
        let end = (start + chance.below(200_000)).min(fixture.tar.len() as u64);
        let begun = Instant::now();
        match layer.read(start..end).await {
            Ok(bytes) => {
                assert!(bytes == fixture.bytes(start..end), "wrong bytes with seed {seed}");
                right += 1;
            }
            Err(error) => {
                let expected = [
                    matches!(error.kind(), ReadError::Deadline { .. }),
                    matches!(error.kind(), ReadError::Source(_)),
                    matches!(error.kind(), ReadError::Wrong { .. }),
                ];
                assert!(expected.contains(&true), "seed {seed}: {error}");
                failed += 1;
            }
        }
        assert!(begun.elapsed() <= Duration::from_secs(31), "seed {seed}: {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_secs(chance.below(3))).await;
    }
    (right, failed)
}

/// doc/SEMANTICS.md B1 and B6, whatever the sources do.
#[tokio::test(start_paused = true)]
async fn no_seed_gives_wrong_bytes_or_a_read_that_hangs() {
    let (mut right, mut failed) = (0, 0);
    let mut fixture = Fixture::new(12);
    for seed in 0..150 {
        fixture = fixture.anew();
        let outcome = read_at_random(&fixture, seed, 3).await;
        (right, failed) = (right + outcome.0, failed + outcome.1);
        // Once the sources are well again, everything is.
        let healthy = fixture.open(fixture.memory());
        assert!(healthy.read(0..fixture.tar.len() as u64).await.unwrap() == fixture.tar, "seed {seed}");
    }
    assert!(right > failed && failed > 0, "{right} reads right, {failed} failed");
}
