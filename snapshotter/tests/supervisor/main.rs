//! The supervisor with real processes, mounts and signals.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, dead_code, missing_docs)]

mod daemon;
#[path = "../../../layerfs/tests/fuse/gated_fs.rs"]
mod gated_fs;
#[path = "../../../layerfs/tests/fuse/guards.rs"]
mod guards;
mod keeper;
mod kept;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use daemon::{Daemon, Place, is_alive};
use gated_fs::{FILE_LEN, content};
use guards::{Point, can_mount, eventually};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

/// Not a test: the life of a supervisor, when started by one.
#[test]
fn supervisor_process() {
    daemon::supervisor_process();
}

/// Not a test: the life of a worker, when started by a supervisor.
#[test]
fn worker_process() {
    daemon::worker_process();
}

#[test]
fn reads_and_calls_survive_the_death_of_the_worker() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&Place::in_directory(dir.path()));
    let point = daemon.ask("mount 7");
    assert_eq!(Path::new(&point), daemon.place.mount_point("7"));
    daemon.ask("mount 10");
    assert!(daemon.ask("mount 7").contains("held already"));
    let gated = daemon.place.mount_point("7").join("gated");
    let read = thread::spawn(move || read_at(&gated, 5));
    thread::sleep(Duration::from_millis(100));
    let first = daemon.worker();
    daemon.kill_worker();
    let killed = Instant::now();
    // Waits in the socket's queue for the next worker.
    let second = daemon.worker();
    eprintln!("from kill to the next worker's first answer: {:?}", killed.elapsed());
    assert_ne!(first, second);
    assert!(!read.is_finished(), "lost, not failed");
    File::create(daemon.place.gate()).unwrap();
    assert!(read.join().unwrap() == content(5, 1 << 20));
    assert_eq!(daemon.ask("mounts"), "10:true 7:true");
}

#[test]
fn where_the_kernel_sends_nothing_again_a_read_in_flight_fails_and_the_next_one_is_right() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_without_resend(&Place::in_directory(dir.path()));
    daemon.ask("mount 7");
    let path = daemon.place.mount_point("7").join("gated");
    for round in 0..10 {
        let (file, before) = (File::open(&path).unwrap(), daemon.worker());
        let reads: Vec<_> = (0..5)
            .map(|n| {
                let file = file.try_clone().unwrap();
                thread::spawn(move || {
                    file.read_at(&mut [0; 4096], n * 4096).map_err(|error| error.raw_os_error())
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(50));
        daemon.kill_worker();
        for read in reads {
            assert_eq!(read.join().unwrap(), Err(Some(5)), "round {round}");
        }
        assert_ne!(daemon.worker(), before);
    }
    File::create(daemon.place.gate()).unwrap();
    assert!(read_at(&path, 5) == content(5, 1 << 20));
}

#[test]
fn fifty_deaths_under_load_lose_no_byte() {
    if !can_mount() {
        return;
    }
    const READERS: u64 = 3;
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&Place::in_directory(dir.path()));
    File::create(daemon.place.gate()).unwrap();
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    for key in 0..READERS {
        daemon.ask(&format!("mount {key}"));
    }
    thread::scope(|scope| {
        let _end = StopOnDrop(&stop, &daemon);
        for reader in 0..READERS {
            let path = daemon.place.mount_point(&reader.to_string()).join("gated");
            let (stop, reads) = (&stop, &reads);
            scope.spawn(move || {
                let mut offset = reader * 7919;
                while !stop.load(Ordering::Relaxed) {
                    assert!(read_at(&path, offset) == content(offset, 1 << 20), "at {offset}");
                    reads.fetch_add(1, Ordering::Relaxed);
                    offset = (offset + 104_729) % (FILE_LEN - (1 << 20));
                }
            });
        }
        for _ in 0..50 {
            let before = reads.load(Ordering::Relaxed);
            eventually("readers read", || reads.load(Ordering::Relaxed) > before + READERS as usize);
            daemon.kill_worker();
        }
        let before = reads.load(Ordering::Relaxed);
        eventually("readers read on", || reads.load(Ordering::Relaxed) > before + READERS as usize);
    });
    assert_eq!(daemon.place.log().matches("worker died: signal 9").count(), 50);
}

struct StopOnDrop<'a>(&'a AtomicBool, &'a Daemon);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if thread::panicking() {
            self.1.signal(Signal::KILL);
        }
    }
}

#[test]
fn a_second_daemon_is_refused_and_harms_nothing() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = Place::in_directory(dir.path());
    let daemon = Daemon::start(&place);
    daemon.ask("mount 1");
    let other_root = Place { root: dir.path().join("other"), ..place.clone() };
    let other_run = Place { run_dir: dir.path().join("other-run"), ..place.clone() };
    for (second, contested) in
        [(&place, &place.root), (&other_run, &place.root), (&other_root, &place.run_dir)]
    {
        let mut second = Daemon::launch(second, &[]);
        assert_eq!(second.wait_for_exit().code(), Some(1));
        let log = second.place.log();
        assert!(log.contains("another daemon (pid "), "{log}");
        assert!(log.contains(&format!("uses the directory {}", contested.display())), "{log}");
        std::mem::forget(second); // it has nothing, and the mounts are the first one's
    }
    assert!(read_at(&place.mount_point("1").join("data"), 0) == content(0, 1 << 20));
}

#[test]
fn the_next_daemon_clears_what_a_killed_one_left() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = Place::in_directory(dir.path());
    let mut first = Daemon::start(&place);
    first.ask("mount 1");
    let worker = first.worker();
    first.signal(Signal::KILL);
    first.wait_for_exit();
    eventually("the worker dies with its supervisor", || !is_alive(worker));
    assert!(place.socket().exists());
    assert!(std::fs::read_dir(place.mount_point("1")).is_err(), "dead mount");

    let second = Daemon::start(&place);
    assert!(!place.mount_point("1").exists());
    assert_eq!(second.ask("mounts"), "");
    second.ask("mount 1");
    assert!(read_at(&place.mount_point("1").join("data"), 0) == content(0, 1 << 20));
    let log = place.log();
    assert!(log.contains("detached a dead mount") && log.contains("replacing a socket"), "{log}");
}

#[test]
fn told_to_stop_it_leaves_nothing() {
    if !can_mount() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::in_directory(dir.path());
        let mut daemon = Daemon::start(&place);
        daemon.ask("mount 1");
        daemon.ask("mount 2");
        // As a worker makes them for containers with a user namespace: they hold the file system, and nobody is in it.
        let clone = place.run_dir.join("mapped/9/0");
        std::fs::create_dir_all(&clone).unwrap();
        rustix::mount::mount_bind(place.mount_point("2"), &clone).unwrap();
        let worker = daemon.worker();
        daemon.signal(signal);
        assert!(daemon.wait_for_exit().success(), "{}", place.log());
        assert!(!is_alive(worker) && !place.socket().exists());
        assert_eq!(std::fs::read_dir(place.run_dir.join("mnt")).unwrap().count(), 0);
        assert!(!place.run_dir.join("mapped").exists());
    }
}

#[test]
fn told_to_stop_it_serves_what_is_in_use_to_the_end() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = Place::in_directory(dir.path());
    let mut daemon = Daemon::start(&place);
    daemon.ask("mount 1");
    daemon.ask("mount 2");
    let file = File::open(place.mount_point("2").join("data")).unwrap();
    daemon.signal(Signal::TERM);
    eventually("says so", || place.log().contains("in_use=1 mounts=\"2\""));
    assert!(daemon.ask("mount 3").contains("stopping"));
    daemon.kill_worker();
    assert_eq!(daemon.ask("mounts"), "2:true", "a worker is replaced even now");
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 99).unwrap();
    assert!(bytes == content(99, 4096));
    assert!(daemon.has_exited().is_none());
    drop(file);
    assert!(daemon.wait_for_exit().success(), "{}", place.log());
    assert!(!place.mount_point("2").exists());
}

#[test]
fn told_twice_it_ends_at_once() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = Place::in_directory(dir.path());
    let mut daemon = Daemon::start(&place);
    daemon.ask("mount 1");
    let file = File::open(place.mount_point("1").join("data")).unwrap();
    daemon.signal(Signal::TERM);
    eventually("says so", || place.log().contains("in_use=1"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(1));
    assert!(place.log().contains("1 mounts that were in use are broken"), "{}", place.log());
    assert!(file.read_at(&mut [0; 16], 0).is_err());
    assert!(!place.mount_point("1").exists());
}

#[test]
fn a_mount_in_use_is_never_taken_away() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = Place::in_directory(dir.path());
    let daemon = Daemon::start(&place);
    assert_eq!(daemon.ask("unmount 5"), "Done", "it never was");
    daemon.ask("mount 1");
    let file = File::open(place.mount_point("1").join("data")).unwrap();
    assert_eq!(daemon.ask("unmount 1"), "Busy");
    drop(file);

    let merged = Point::new(dir.path(), "merged");
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let lower = format!("lowerdir={}:{}", place.mount_point("1").display(), empty.display());
    let lower = std::ffi::CString::new(lower).unwrap();
    rustix::mount::mount("overlay", &merged.0, "overlay", MountFlags::RDONLY, lower.as_c_str()).unwrap();
    eventually("closed", || daemon.ask("unmount 1") == "Lingers");
    assert_eq!(daemon.ask("mounts"), "1:false");
    assert!(daemon.ask("mount 1").contains("still read from"));
    daemon.kill_worker();
    assert!(std::fs::read(merged.join("data")).unwrap() == content(0, FILE_LEN as usize));
    rustix::mount::unmount(&merged.0, UnmountFlags::empty()).unwrap();
    eventually("let go of, and free for another mount", || !daemon.ask("mount 1").starts_with("error"));
    assert_eq!(daemon.ask("mounts"), "1:true");
    assert_eq!(place.log().matches("still read from: kept").count(), 1);
}

#[test]
fn a_worker_that_talks_garbage_is_answered_and_outlived() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with_garbage(&Place::in_directory(dir.path()));
    daemon.ask("mount 1");
    assert_eq!(daemon.ask("mounts"), "1:true");
}

fn read_at(path: &Path, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}
