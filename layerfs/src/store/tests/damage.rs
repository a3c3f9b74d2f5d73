//! Bits that flip anywhere below the state directory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::chance::Chance;

const SEEDS: u64 = 60;
const FLIPS: u64 = 6;

/// Every file below a directory, in an order that is always the same.
fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// doc/SEMANTICS.md B5.
#[test]
fn a_bit_that_flips_anywhere_is_never_served_and_the_bytes_come_back() {
    let large = [20_000..60_000, 100_000..140_000];
    let directory = Arc::new(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
    let whole = Fixture::new_in(directory.clone(), &[(0, 50_000), (100, 30_001), (0, 90_000)], &large);
    let partial = Fixture::new_in(directory.clone(), &[(0, 40_000), (0, 40_000), (0, 777)], &[]);
    let mut found = 0;
    for seed in 0..SEEDS {
        let store = Store::open(directory.path()).unwrap();
        for (fixture, spans) in [(&whole, 0..3), (&partial, 0..2)] {
            let file = store.layer(&fixture.layer, &fixture.large);
            spans.for_each(|span| fixture.keep(&file, span));
        }
        let file = store.layer(&whole.layer, &whole.large);
        file.mark_complete().unwrap();
        store.note_checked(&Digest::of(b"index"), 2).unwrap();
        store.maintain(std::time::SystemTime::now()).unwrap();
        drop((file, store));

        let mut chance = Chance(seed);
        let files = files(directory.path());
        for _ in 0..FLIPS {
            let path = &files[chance.below(files.len() as u64) as usize];
            let mut bytes = fs::read(path).unwrap();
            if !bytes.is_empty() {
                let at = chance.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << chance.below(8);
                fs::write(path, bytes).unwrap();
            }
        }

        let store = Store::open(directory.path()).unwrap();
        for fixture in [&whole, &partial] {
            let file = store.layer(&fixture.layer, &fixture.large);
            for range in fixture.units() {
                let read = file.read(&range);
                assert!(read.is_none_or(|bytes| bytes == fixture.slice(&range)), "wrong bytes, seed {seed}");
            }
            assert!(!file.is_complete() || file.present_bytes() == file.total_bytes(), "seed {seed}");
            for span in 0..fixture.layer.spans.len() {
                fixture.keep(&file, span);
                let range = fixture.layer.spans[span].tar_range();
                assert!(file.read(&range).unwrap() == fixture.slice(&range), "seed {seed}");
            }
        }
        found += store.counters().damaged_units.load(std::sync::atomic::Ordering::Relaxed);
    }
    assert!(found > SEEDS, "{found} flips found: nothing was put to the test");
}

#[test]
fn a_bit_that_flips_where_only_the_kernel_reads_is_found_by_the_scrub() {
    let large = 100_000..150_000u64;
    let fixture = Fixture::new(&[(0, 70_000), (0, 90_000)], std::slice::from_ref(&large));
    let store = Store::open(fixture.directory.path()).unwrap();
    let file = store.layer(&fixture.layer, &fixture.large);
    let scrub = || {
        let mut due = store.due(Duration::ZERO);
        due.iter_mut().map(|due| std::iter::from_fn(|| due.go_on()).sum::<u64>()).sum::<u64>()
    };
    assert_eq!(scrub(), 0, "it is not complete");
    for flipped in [3, 69_999, 120_000] {
        (0..2).for_each(|span| fixture.keep(&file, span));
        file.mark_complete().unwrap();
        let held = file.hold_complete().unwrap();
        assert_eq!((scrub(), held.is_sound()), (160_000, true));
        assert!(fixture.flip(flipped));
        scrub();
        assert!(!file.is_complete() && !held.is_sound(), "{flipped}");
        let unit = fixture.units().into_iter().find(|unit| unit.contains(&flipped)).unwrap();
        assert!(!file.has(&unit) && file.present_bytes() == 160_000 - (unit.end - unit.start));
        (0..2).for_each(|span| fixture.keep(&file, span));
        file.mark_complete().unwrap();
        assert!(!held.is_sound(), "who has it mounted may have read the wrong bytes");
    }
    let counters = store.counters();
    assert_eq!(counters.damaged_units.load(Ordering::Relaxed), 3);
    assert!(store.due(Duration::from_secs(3600)).is_empty(), "it was looked at just now");
    drop(file);
    assert!(store.due(Duration::ZERO).is_empty(), "nobody has it open");
}

#[test]
fn a_scrub_goes_on_by_itself_and_ends_with_its_owner() {
    let fixture = Fixture::new(&[(0, 70_000)], &[]);
    let store = Arc::new(Store::open(fixture.directory.path()).unwrap());
    let file = store.layer(&fixture.layer, &fixture.large);
    fixture.keep(&file, 0);
    file.mark_complete().unwrap();
    assert!(fixture.flip(5));
    let rate = std::num::NonZeroU64::new(10_000_000).unwrap();
    let scrub = Scrub::start(&store, ScrubSettings { rate, interval: Duration::ZERO }).unwrap();
    while file.is_complete() {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(scrub);
    assert!(!file.has(&(0..10)));
}
