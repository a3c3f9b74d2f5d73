//! A daemon that cannot use its state says what is wrong, and where.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

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

#[test]
fn a_state_directory_that_cannot_be_used_is_a_clear_error_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let in_the_way = directory.path().join("file");
    File::create(&in_the_way).unwrap();
    let read_only = directory.path().join("read-only");
    fs::create_dir(&read_only).unwrap();
    let mounted = rustix::mount::mount("jaunt-test", &read_only, "tmpfs", MountFlags::RDONLY, c"size=1m");
    let mut cases = vec![(in_the_way.join("root"), "Not a directory")];
    match mounted {
        Ok(()) => cases.push((read_only.join("root"), "Read-only file system")),
        Err(error) => println!("not tried read-only: mounting: {error}"),
    }
    let said = cases.into_iter().map(|(root, cause)| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.arg("serve").arg("--root").arg(&root).arg("--run-dir").arg(directory.path().join("run"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), root, cause)
    });
    let said: Vec<_> = said.collect();
    if mounted.is_ok() {
        rustix::mount::unmount(&read_only, UnmountFlags::DETACH).unwrap();
    }
    for (code, said, root, cause) in said {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(cause) && said.contains(root.to_str().unwrap()), "{said}");
    }
}
