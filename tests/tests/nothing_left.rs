//! The harness keeps its word: however a test or the demo dies, nothing of it stays.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jaunt_tests::mounts::{self, Mounted};
use jaunt_tests::network::GIGABIT;
use jaunt_tests::process::wait_until;
use jaunt_tests::{Network, Scratch, needs_root};

/// Tells the process that is to die from the one that watches.
const VICTIM: &str = "JAUNT_TEST_VICTIM";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_process_that_aborts_leaves_nothing() {
    needs_root!();
    if std::env::var_os(VICTIM).is_some() {
        make_everything_and_abort();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "a_process_that_aborts_leaves_nothing", "--nocapture"]).env(VICTIM, "1");
    let output = victim.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = said.lines().find_map(|line| line.split_once("scratch: ")).unwrap().1;
    let (path, name) = (PathBuf::from(path), path.rsplit('/').next().unwrap());
    let namespace = Path::new("/run/netns").join(name);
    let gone = wait_until("everything gone", LIMIT, || !path.exists() && !namespace.exists());
    assert!(gone.is_ok(), "{path:?}: {}, {namespace:?}: {}", path.exists(), namespace.exists());
    assert_eq!(mounts::below(&path), Vec::<PathBuf>::new());
    let sleeping = Command::new("pgrep").args(["-f", &format!("sleep 600 {name}")]).output();
    assert!(sleeping.is_ok_and(|found| found.stdout.is_empty()), "a process lives");
}

#[allow(clippy::zombie_processes, reason = "that nobody waits for them is the point")]
fn make_everything_and_abort() -> ! {
    let scratch = Scratch::new().unwrap();
    println!("\nscratch: {}", scratch.path().display());
    let network = Network::new(&scratch, GIGABIT).unwrap();
    let mount = Mounted::tmpfs(&scratch, scratch.path().join("a disk"), 1 << 20).unwrap();
    let nested = Mounted::tmpfs(&scratch, mount.point().join("nested"), 1 << 20).unwrap();
    for mut command in [scratch.command("sh"), network.command(&scratch, "sh")] {
        let script = format!("sleep 600 & : sleep 600 {}; wait", scratch.name());
        command.args(["-c", &script]).current_dir(nested.point()).spawn().unwrap();
    }
    std::process::abort()
}
