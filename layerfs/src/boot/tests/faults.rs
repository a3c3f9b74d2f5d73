//! Packs from a source in trouble: what has come is right or is not given, and no reader waits long for the rest.

use tokio::time::{Duration, Instant, sleep, timeout};

use super::*;
use crate::source::Faulty;
use crate::testing::Chance;

/// How long a source may hang before the node gives a pack up, whoever notices.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// Reads here and there while the pack comes, or does not.
async fn read_at_random(bed: &Bed, mut chance: Chance, seed: u64) {
    for _ in 0..12 {
        let start = chance.below(bed.fixture.tar.len() as u64);
        let end = (start + chance.below(60_000)).min(bed.fixture.tar.len() as u64);
        let begun = Instant::now();
        assert!(bed.read(start..end).await == bed.right(start..end), "wrong bytes with seed {seed}");
        // The layer's own source answers at once.
        let most = PATIENCE + STALL;
        assert!(begun.elapsed() <= most, "seed {seed}: {:?} for {start}..{end}", begun.elapsed());
        sleep(Duration::from_millis(chance.below(2000))).await;
    }
}

/// doc/SEMANTICS.md B1: A pack that is damaged, cut short or of another image is used as far as it is right, or not at all.
#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_pack_no_reader_gets_wrong_bytes_or_waits_for_long() {
    let mut fixture = Fixture::new(10);
    let (blob, named) = packed(&fixture, index());
    let (mut whole, mut failed, mut hung, mut served) = (0, 0, 0, 0);
    for seed in 0..150 {
        let bed = Bed::with(fixture, blob.clone(), named);
        let pack = Arc::new(MemorySource::new([(named.digest, blob.clone())]));
        let faulty = Faulty::new("faulty", pack, named.len, seed, 5);
        let loading = timeout(GIVEN_UP, bed.load(Arc::new(faulty)));
        let (loaded, ()) = tokio::join!(loading, read_at_random(&bed, Chance(seed), seed));
        match loaded {
            Ok(Ok(Loaded::Whole)) => whole += 1,
            // It was so late that readers had fetched most of it by themselves.
            Ok(Ok(Loaded::NotNeeded)) => {}
            Ok(Err(_)) => {
                assert!(bed.boot.has_ended(), "seed {seed}: readers would still wait");
                failed += 1;
            }
            Err(_) => hung += 1,
        }
        let has_all = bed.boot.figures().present_bytes == TOUCHED.end - TOUCHED.start;
        for range in [FIRST, SECOND, TOUCHED] {
            // With nothing of the layer's own.
            let brought = bed.boot.shelf.get().and_then(|shelf| shelf.peek(0, &range, |_| None));
            assert!(brought.is_some() || !has_all, "seed {seed}");
            if let Some(brought) = brought {
                assert!(brought == bed.right(range), "seed {seed}");
                served += 1;
            }
        }
        fixture = bed.fixture.anew();
    }
    assert!(whole > 30 && failed > 30 && hung > 5, "{whole} whole, {failed} failed, {hung} hung");
    assert!(served > 3 * whole, "of what was cut short, something was of use: {served}");
}
