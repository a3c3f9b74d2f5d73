//! Room is made by taking away what was used the longest ago, and nothing that is held.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::*;

const SPAN: u64 = 60_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Layers of eight spans, each a region, in one store.
struct Layers {
    store: Store,
    layers: Vec<Fixture>,
}

impl Layers {
    fn new(count: u64, large: &[Range<u64>]) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        // Another length, another layer.
        let spans = |number| [[(0, SPAN); 7].as_slice(), &[(0, SPAN - number)]].concat();
        let fixture = |number| Fixture::new_in(directory.clone(), &spans(number), large);
        Self { store: Store::open(directory.path()).unwrap(), layers: (0..count).map(fixture).collect() }
    }

    /// The same, as the next daemon finds it.
    fn restart(self) -> Self {
        Self { store: Store::open(self.store.root()).unwrap(), ..self }
    }

    fn open(&self, layer: usize) -> Arc<LayerFile> {
        self.store.layer(&self.layers[layer].layer, &self.layers[layer].large)
    }

    fn fill(&self, layer: usize, now: u64) -> Arc<LayerFile> {
        self.store.maintain(at(now)).unwrap();
        let file = self.open(layer);
        (0..8).for_each(|span| self.layers[layer].keep(&file, span));
        self.store.maintain(at(now)).unwrap();
        file
    }

    fn cap(self, high: u64, low: u64) -> Self {
        Self { store: self.store.with_cap(Cap { high: Some(high), low }), ..self }
    }

    fn on_disk(&self) -> u64 {
        usage::measure(self.store.root()).unwrap().iter().map(|kept| kept.bytes).sum()
    }
}

fn present(file: &LayerFile) -> Vec<bool> {
    (0..8).map(|span| file.has(&(span * SPAN..span * SPAN + SPAN - 10))).collect()
}

#[test]
fn the_least_recently_used_goes_first_until_the_low_watermark() {
    let layers = Layers::new(3, &[]).cap(1_000_000, 700_000);
    let old = layers.fill(0, 100);
    let new = layers.fill(1, 200);
    layers.store.maintain(at(300)).unwrap();
    assert!(old.read(&(2 * SPAN..2 * SPAN + 10)).is_some(), "a read is a use");
    assert_eq!((present(&old), present(&new)), (vec![true; 8], vec![true; 8]), "below the cap nothing goes");
    let newest = layers.fill(2, 400);
    let left = present(&old);
    assert!(left[2] && left.iter().filter(|there| **there).count() < 4, "{left:?}");
    assert_eq!(present(&newest), vec![true; 8], "what came just now is spared");
    assert!(layers.on_disk() <= 700_000, "{}", layers.on_disk());
    assert_eq!(layers.store.usage().bytes, layers.on_disk());
    assert!(layers.store.counters().evicted_bytes.load(Ordering::Relaxed) >= 700_000);
    for (file, fixture) in [(&old, &layers.layers[0]), (&new, &layers.layers[1])] {
        for span in 0..8 {
            let range = fixture.layer.spans[span].tar_range();
            assert!(file.read(&range).is_none_or(|bytes| bytes == fixture.slice(&range)));
            fixture.keep(file, span);
            assert_eq!(file.read(&range).unwrap(), fixture.slice(&range), "it comes back");
        }
    }
}

#[test]
fn a_layer_that_nobody_has_open_goes_whole_and_its_age_survives_the_daemon() {
    let layers = Layers::new(3, &[]);
    drop(layers.fill(0, 300));
    let used = layers.fill(1, 100);
    layers.store.maintain(at(400)).unwrap();
    assert!(used.read(&(0..10)).is_some());
    layers.store.maintain(at(400)).unwrap();
    drop(used);
    let layers = layers.restart().cap(1_200_000, 1_000_000);
    layers.fill(2, 500);
    assert!(!layers.layers[0].place().exists());
    assert_eq!(present(&layers.open(1)), vec![true; 8]);
}

#[test]
fn a_layer_that_is_held_complete_stays_and_large_files_are_never_punched_under_the_kernel() {
    let large = SPAN..5 * SPAN;
    let layers = Layers::new(2, std::slice::from_ref(&large)).cap(600_000, 100_000);
    let file = layers.fill(0, 100);
    file.mark_complete().unwrap();
    let held = file.hold_complete().unwrap();
    let mut backing = held.backing(&large).unwrap().unwrap();
    layers.fill(1, 200);
    layers.store.maintain(at(300)).unwrap();
    assert!(file.is_complete() && present(&file) == vec![true; 8]);
    assert!(held.backing(&(SPAN..2 * SPAN)).unwrap().is_none(), "only whole files are handed out");

    drop(held);
    drop(layers.fill(1, 400));
    layers.store.maintain(at(500)).unwrap();
    assert!(!file.is_complete() && file.hold_complete().is_none());
    assert!(!present(&file).contains(&true), "{:?}", present(&file));
    let mut bytes = Vec::new();
    backing.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, layers.layers[0].slice(&large), "who has it open reads what it was");
    assert_eq!(backing.metadata().unwrap().nlink(), 0);
    assert!(!layers.open(0).is_complete());
}

#[test]
fn of_what_is_held_complete_no_more_is_let_go_of_than_it_takes() {
    let layers = Layers::new(4, &[]).cap(1_700_000, 1_200_000);
    let complete = |layer, now| {
        let file = layers.fill(layer, now);
        file.mark_complete().unwrap();
        (file.hold_complete().unwrap(), file)
    };
    let (mut held, files): (Vec<_>, Vec<_>) = (0..4).map(|at| complete(at, 100 + 100 * at as u64)).unzip();
    layers.store.maintain(at(500)).unwrap();
    assert!(files.iter().all(|file| present(file) == vec![true; 8]), "all of it is held");
    assert_eq!(files[0].idle_seconds(), Some(400));
    files[3].note_use();
    assert_eq!(files[3].idle_seconds(), None);
    layers.store.maintain_with(at(500), || !held.is_empty() && held.remove(0).is_sound()).unwrap();
    assert_eq!(held.len(), 2, "two of them make room enough");
    assert!(layers.on_disk() < 1_300_000, "{}", layers.on_disk());
    assert!(files[2..].iter().all(|file| present(file) == vec![true; 8]));
}

#[test]
fn a_layer_that_the_kernel_has_mounted_goes_as_a_whole_and_not_under_the_kernel() {
    let large = SPAN..5 * SPAN - 100;
    let layers = Layers::new(2, std::slice::from_ref(&large)).cap(600_000, 100_000);
    let file = layers.fill(0, 100);
    file.mark_complete().unwrap();
    let held = file.hold_complete().unwrap();
    let (end, whole) = (large.end - large.start, (large.end - large.start).next_multiple_of(512));
    let mut files = [None, Some(&large)].map(|large| held.blocks(large, end).unwrap().unwrap());
    assert_eq!(files[1].metadata().unwrap().len(), whole, "the kernel wants whole blocks");
    assert!(held.backing(&large).unwrap().is_none(), "a file with more behind its end is not read by FUSE");
    drop((held, file));

    // The next daemon knows of it, though nobody holds it.
    let layers = layers.restart().cap(600_000, 100_000);
    let file = layers.open(0);
    drop(layers.fill(1, 400));
    layers.store.maintain(at(500)).unwrap();
    assert!(!file.is_complete() && !present(&file).contains(&true), "{:?}", present(&file));
    let mut read = files.each_mut().map(|file| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        bytes
    });
    read[1].truncate(usize::try_from(end).unwrap());
    assert!(
        read[0][..SPAN as usize] == *layers.layers[0].slice(&(0..SPAN))
            && read[1] == layers.layers[0].slice(&large)
    );
    // What comes anew comes into other files, which are punched again.
    (0..8).for_each(|span| layers.layers[0].keep(&file, span));
    assert_eq!(present(&file), vec![true; 8]);
    file.evict(file.cut.units_touching(&(0..SPAN))).unwrap();
    assert_eq!(present(&file), [vec![false], vec![true; 7]].concat());
}

#[test]
fn what_is_taken_away_under_readers_is_missing_or_right() {
    let fixture = Fixture::new(&[(0, 60_000); 6], &[70_000..200_000, 250_000..260_000]);
    let store = Store::open(fixture.directory.path()).unwrap();
    let (file, done) = (store.layer(&fixture.layer, &fixture.large), AtomicBool::new(false));
    (0..6).for_each(|span| fixture.keep(&file, span));
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (fixture, file, done) = (&fixture, &file, &done);
            scope.spawn(move || {
                for round in (0u64..).take_while(|_| !done.load(Ordering::Relaxed)) {
                    let start = (round * 7919 + reader * 31) * 613 % 350_000;
                    let range = start..(start + 9000);
                    match file.read(&range) {
                        Some(bytes) => assert!(bytes == fixture.slice(&range), "wrong bytes at {range:?}"),
                        None => fixture.keep(file, (start / 60_000) as usize),
                    }
                }
            });
        }
        let regions: Vec<_> =
            fixture.layer.spans.iter().map(|s| file.cut.units_touching(&s.tar_range())).collect();
        for round in 0..2000 {
            file.evict(regions[round % regions.len()].clone()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.counters().damaged_units.load(Ordering::Relaxed), 0);
}
