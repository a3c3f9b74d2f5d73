//! kill -9 at any point of whatever the store does.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::*;
use crate::chance::Chance;

const ROLE: &str = "JAUNT_TEST_STORE_WRITER";
const ROUNDS: u64 = 20;
const SPANS: [(u64, u64); 6] = [(0, 70_000), (0, 300), (700, 16_384), (0, 50_000), (0, 16_383), (0, 90_000)];
const LARGE: [Range<u64>; 2] = [5_000..60_000, 150_000..240_000];

fn fixture(directory: Arc<tempfile::TempDir>) -> Fixture {
    Fixture::new_in(directory, &SPANS, &LARGE)
}

/// Not a test: the life of the process that is killed. Says a line for each thing it has done.
#[test]
fn writing_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (seed, root) = role.split_once(' ').unwrap();
    let directory = tempfile::Builder::new().tempdir_in(root).unwrap();
    // The fixture's own directory is not the store's: that is the parent's.
    let fixture = fixture(Arc::new(directory));
    let store = Store::open(&Path::new(root).join("store")).unwrap();
    let mut chance = Chance(seed.parse().unwrap());
    let file = store.layer(&fixture.layer, &fixture.large);
    for number in 0_u64.. {
        match chance.below(10) {
            0..6 => drop(fixture.try_keep(&file, chance.below(SPANS.len() as u64) as usize)),
            6 => {
                (0..SPANS.len()).for_each(|span| drop(fixture.try_keep(&file, span)));
                drop(file.mark_complete());
            }
            7 => {
                let present = file.evictable();
                if !present.is_empty() {
                    file.evict(present[chance.below(present.len() as u64) as usize].units.clone()).unwrap();
                }
            }
            8 => drop(store.maintain(SystemTime::UNIX_EPOCH + Duration::from_secs(number))),
            _ => drop(file.hold_complete().map(|held| held.backing(&LARGE[0]).map(drop))),
        }
        println!("did {number}");
    }
}

/// doc/SEMANTICS.md B5.
#[test]
fn whatever_a_killed_writer_leaves_is_right_or_absent() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let fixture = fixture(Arc::new(tempfile::tempdir().unwrap()));
    let mut chance = Chance(1);
    let (mut complete, mut present) = (0, 0);
    for round in 0..ROUNDS {
        let role = format!("{round} {}", root.path().display());
        let name = "store::tests::killed::writing_process";
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        // So many things done, and then any instant of the next.
        let done = lines.filter(|line| line.starts_with("did ")).nth(chance.below(60) as usize);
        std::thread::sleep(Duration::from_micros(chance.below(400)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert!(done.is_some(), "the writer ended by itself in round {round}");

        let store = Store::open(&root.path().join("store")).unwrap();
        let file = store.layer(&fixture.layer, &fixture.large);
        if file.is_complete() {
            complete += 1;
            let held = file.hold_complete().unwrap();
            for large in &LARGE {
                let end = large.end.min(fixture.tar.len() as u64);
                let mut bytes = Vec::new();
                let backing = held.backing(large).unwrap().unwrap();
                std::io::Read::read_to_end(&mut &backing, &mut bytes).unwrap();
                assert!(
                    bytes == fixture.slice(&(large.start..end)),
                    "the kernel reads wrong bytes in round {round}"
                );
            }
        }
        for range in fixture.units() {
            if let Some(bytes) = file.read(&range) {
                present += 1;
                assert!(bytes == fixture.slice(&range), "wrong bytes at {range:?} in round {round}");
            }
        }
        assert_eq!(store.counters().damaged_units.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
    assert!(
        complete > 0 && present > 0,
        "{complete} complete, {present} present: nothing was put to the test"
    );
}
