//! A layer's units under shuttle: written, read, taken away and found damaged at once, in thousands of interleavings.
//!
//! The code is the same files, with shuttle's locks and atomics in place of the standard library's.

use std::ops::Range;

use shuttle::sync::Arc;
use shuttle::thread;

#[path = "../bitmap.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod bitmap;
#[path = "../files.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod files;
#[path = "../on_disk.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod on_disk;
#[path = "../record.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod record;
mod sync {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use shuttle::sync::{Mutex, RwLock};
}

use super::super::{StoreError, complete, cut, direct, disk, large, regions, shared, soon};
use super::Fixture;
use direct::ReadFrom;
use on_disk::{Damaged, OnDisk};

const ITERATIONS: usize = 700;
const SPAN: u64 = 20_000;
/// Of each thread: hashing and file names take more than shuttle gives.
const STACK: usize = 1 << 20;

/// A layer of two spans, two units each, with a large file across both.
struct Layer {
    fixture: Fixture,
    cut: cut::Cut,
    disk: OnDisk,
}

impl Layer {
    fn new() -> Arc<Self> {
        let fixture = Fixture::new(&[(0, SPAN), (0, SPAN)], std::slice::from_ref(&(10_000..35_000)));
        let cut = cut::Cut::of(&fixture.layer, &fixture.large);
        let now = shared::Moment::default();
        let disk = OnDisk::open(&fixture.place(), &cut, fixture.large.clone(), now).unwrap();
        Arc::new(Self { fixture, cut, disk })
    }

    fn units(&self, range: Range<u64>) -> Range<usize> {
        self.cut.units_of(&range).unwrap()
    }

    fn write(&self, span: usize) {
        let _gate = self.disk.gate.read().unwrap();
        let bytes = self.fixture.tar_bytes(span);
        self.disk.write_held(&self.cut, self.units(bytes.range()), &bytes).unwrap();
    }

    /// As eviction takes units away.
    fn evict(&self, range: Range<u64>) {
        let _changing = self.disk.changing.lock().unwrap();
        self.disk.unmark().unwrap();
        let _gate = self.disk.gate.write().unwrap();
        self.disk.record.disclaim(self.units(range.clone())).unwrap();
        self.disk.files.punch(&range).unwrap();
    }

    /// Whether it is there; what is given must be right.
    fn read(&self, range: Range<u64>) -> bool {
        match self.disk.read(&self.cut, self.units(range), ReadFrom::Cache) {
            Ok(None) => false,
            Ok(Some((start, bytes))) => {
                let given = start..start + bytes.len() as u64;
                assert!(bytes == self.fixture.slice(&given), "wrong bytes at {given:?}");
                true
            }
            Err(Damaged) => panic!("claimed, and not there"),
        }
    }
}

fn spawn(layer: &Arc<Layer>, work: impl FnOnce(&Layer) + Send + 'static) -> thread::JoinHandle<()> {
    let layer = layer.clone();
    thread::spawn(move || work(&layer))
}

fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK;
    let scheduler = shuttle::scheduler::RandomScheduler::new(ITERATIONS);
    shuttle::Runner::new(scheduler, config).run(scenario);
}

#[test]
fn readers_beside_writers_and_eviction_find_right_bytes_or_none() {
    explore(|| {
        let layer = Layer::new();
        let all = [
            spawn(&layer, |layer| layer.write(0)),
            spawn(&layer, |layer| layer.write(1)),
            spawn(&layer, |layer| layer.evict(0..2 * SPAN)),
            spawn(&layer, |layer| {
                layer.read(5..2 * SPAN - 5);
            }),
            spawn(&layer, |layer| {
                layer.read(SPAN - 1..SPAN);
            }),
        ];
        all.into_iter().for_each(|thread| thread.join().unwrap());
        layer.write(0);
        assert!(layer.read(0..SPAN), "what comes after eviction stays");
    });
}

#[test]
fn what_is_damaged_is_taken_away_once_and_what_replaces_it_stays() {
    explore(|| {
        let layer = Layer::new();
        layer.write(0);
        layer.write(1);
        assert!(layer.fixture.flip(3));
        let fix = |layer: &Layer| {
            let range = 0..100;
            if let Err(Damaged) = layer.disk.read(&layer.cut, layer.units(range.clone()), ReadFrom::Cache) {
                let units = layer.units(range);
                assert!(layer.disk.take_damaged(&layer.cut, units, ReadFrom::Cache).is_ok());
                layer.write(0);
            }
        };
        let all = [
            spawn(&layer, fix),
            spawn(&layer, fix),
            spawn(&layer, |layer| {
                layer.read(SPAN..SPAN + 9);
            }),
        ];
        all.into_iter().for_each(|thread| thread.join().unwrap());
        layer.write(0);
        assert!(layer.read(0..2 * SPAN));
    });
}
