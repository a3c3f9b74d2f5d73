//! Many readers of more layers than the cap has room for.
//!
//! The model of a layer is its tar: whatever is given must be that, whoever takes what away meanwhile; and a file that
//! somebody was handed must stay what it is, for as long as he has it.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::chance::Chance;

const SPAN: u64 = 60_000;
const SPANS: u64 = 8;
const LAYERS: u64 = 6;
const THREADS: u64 = 6;
const STEPS: u64 = 400;
/// About three of the layers.
const CAP: Cap = Cap { high: Some(1_500_000), low: 1_100_000 };

struct Crowd {
    store: Store,
    layers: Vec<Fixture>,
    large: Range<u64>,
    clock: AtomicU64,
    complete: AtomicU64,
}

impl Crowd {
    fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        let store = Store::open(directory.path()).unwrap().with_cap(CAP);
        let large = SPAN..3 * SPAN;
        let spans = |number| [[(0, SPAN); SPANS as usize - 1].as_slice(), &[(0, SPAN - number)]].concat();
        let fixture =
            |number| Fixture::new_in(directory.clone(), &spans(number), std::slice::from_ref(&large));
        let layers = (0..LAYERS).map(fixture).collect();
        Self { store, layers, large, clock: AtomicU64::new(100), complete: AtomicU64::new(0) }
    }

    /// Time goes on with what is done, so that everything grows old.
    fn maintain(&self) {
        let now = self.clock.fetch_add(7, Ordering::Relaxed);
        self.store.maintain(SystemTime::UNIX_EPOCH + Duration::from_secs(now)).unwrap();
    }

    fn read(&self, layer: &Fixture, chance: &mut Chance) {
        let file = self.store.layer(&layer.layer, &layer.large);
        let start = chance.below(SPAN * SPANS - 9000);
        let range = start..start + 1 + chance.below(8000);
        match file.read(&range) {
            Some(bytes) => assert!(bytes == layer.slice(&range), "wrong bytes at {range:?}"),
            None => (start / SPAN..=(range.end - 1) / SPAN)
                .for_each(|span| drop(layer.try_keep(&file, span as usize))),
        }
    }

    /// As a complete mount does: fills it, holds it, has the kernel read a large file for a while.
    fn complete(&self, layer: &Fixture, chance: &mut Chance) {
        let file = self.store.layer(&layer.layer, &layer.large);
        (0..SPANS).for_each(|span| drop(layer.try_keep(&file, span as usize)));
        drop(file.mark_complete());
        let Some(held) = file.hold_complete() else { return };
        let backing = held.backing(&self.large).unwrap().expect("complete, and held");
        self.complete.fetch_add(1, Ordering::Relaxed);
        let look = |chance: &mut Chance| {
            let (mut bytes, at) = ([0; 4096], chance.below(2 * SPAN - 4096));
            backing.read_exact_at(&mut bytes, at).unwrap();
            let start = self.large.start + at;
            assert!(bytes == layer.slice(&(start..start + 4096)), "the kernel reads wrong bytes at {start}");
        };
        for _ in 0..3 {
            self.maintain();
            look(chance);
        }
        assert!(file.is_complete() && file.present_bytes() == file.total_bytes(), "it was held");
        drop((held, file));
        // Open still, though nobody holds the layer any more.
        self.maintain();
        look(chance);
    }
}

#[test]
fn a_crowd_in_a_small_store_reads_right_bytes_and_nothing_in_use_is_taken_away() {
    let crowd = Crowd::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let crowd = &crowd;
            scope.spawn(move || {
                let mut chance = Chance(thread + 1);
                for _ in 0..STEPS {
                    let layer = &crowd.layers[chance.below(LAYERS) as usize];
                    match chance.below(20) {
                        0 => crowd.complete(layer, &mut chance),
                        1 => crowd.maintain(),
                        _ => crowd.read(layer, &mut chance),
                    }
                }
            });
        }
    });
    let counters = crowd.store.counters();
    assert_eq!(counters.damaged_units.load(Ordering::Relaxed), 0);
    assert!(counters.evicted_bytes.load(Ordering::Relaxed) > 5_000_000, "{counters:?}");
    assert!(crowd.complete.load(Ordering::Relaxed) > 20);
    (0..3).for_each(|_| crowd.maintain());
    assert!(crowd.store.usage().bytes <= CAP.high.unwrap(), "{:?}", crowd.store.usage());
}
