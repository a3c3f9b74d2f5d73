//! A daemon that cannot use its state says what is wrong, and where.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Killed at the end, its worker with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_damaged_database_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("root")).unwrap();
    fs::write(at("root/meta.redb"), [0x5a; 100_000]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
    command.arg("serve").arg("--root").arg(at("root")).arg("--run-dir").arg(at("run"));
    // The worker's errors go where the supervisor's go.
    let log = File::create(at("log")).unwrap();
    command.arg("--socket").arg(at("socket")).stdout(log.try_clone().unwrap()).stderr(log);
    let _daemon = Daemon(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let said = fs::read_to_string(at("log")).unwrap();
        if said.contains("meta.redb") {
            break;
        }
        assert!(Instant::now() < deadline, "no word of the database: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
