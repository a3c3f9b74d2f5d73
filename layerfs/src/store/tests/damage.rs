//! Bits that flip anywhere below the state directory.

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
