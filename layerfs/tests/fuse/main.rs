//! FUSE mounts with a real kernel: made here, served by this process or by children that are killed.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod gated_fs;
mod guards;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gated_fs::{FILE_LEN, GatedFs, content};
use guards::{Point, Process, can_mount, eventually, in_own_mount_namespace};
use jaunt_layerfs::fuse::mount::{UnmountError, is_connected, mount, unmount};
use jaunt_layerfs::fuse::{KernelFeatures, MountOptions, Mounted, Negotiated, serve};
use rustix::mount::{MountFlags, UnmountFlags};

const NEGOTIATED: &str = "TEST_NEGOTIATED";
const GATE: &str = "TEST_GATE";

/// Not a test: the life of a serving process, when started by one.
#[test]
fn serving_process() {
    let (Ok(negotiated), Ok(gate)) = (std::env::var(NEGOTIATED), std::env::var(GATE)) else { return };
    let bytes: Vec<u8> = negotiated.split(' ').map(|b| b.parse().unwrap()).collect();
    let negotiated = Negotiated::from_bytes(&bytes).unwrap();
    let device = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap();
    let session = serve(GatedFs { gate: gate.into(), in_flight: None }, device, &negotiated, 4).unwrap();
    session.join().unwrap();
}

fn serving(mounted: &Mounted, gate: &Path) -> Process {
    let record: Vec<String> = mounted.negotiated.to_bytes().iter().map(u8::to_string).collect();
    let device = Stdio::from(mounted.device.try_clone().unwrap());
    let env = [(NEGOTIATED, record.join(" ")), (GATE, gate.to_str().unwrap().to_owned())];
    Process::in_role("serving_process", device, &[(env[0].0, &env[0].1), (env[1].0, &env[1].1)])
}

fn options(features: KernelFeatures) -> MountOptions {
    MountOptions { features, ..MountOptions::default() }
}

#[test]
fn a_mount_is_served_spared_while_in_use_and_ended() {
    if !can_mount() {
        return;
    }
    in_own_mount_namespace();
    let dir = tempfile::tempdir().unwrap();
    let point = Point::new(dir.path(), "mnt");
    let mounted = mount(&point.0, &MountOptions::default()).unwrap();
    let number = mounted.device_number;
    let read_ahead = format!("/sys/class/bdi/{}:{}/read_ahead_kb", number.major, number.minor);
    assert_eq!(std::fs::read_to_string(read_ahead).unwrap().trim(), "1024");
    let device = mounted.device.try_clone().unwrap();
    let fs = GatedFs { gate: dir.path().to_owned(), in_flight: None };
    let session = serve(fs, mounted.device, &mounted.negotiated, 2).unwrap();

    let file = File::open(point.join("data")).unwrap();
    let mut bytes = vec![0; 3 << 20];
    file.read_exact_at(&mut bytes, 12_345).unwrap();
    assert!(bytes == content(12_345, 3 << 20));
    assert!(std::fs::write(point.join("data"), "x").is_err(), "read-only");
    assert_eq!(std::fs::read_dir(&point.0).unwrap().count(), 3);

    assert!(matches!(unmount(&point.0), Err(UnmountError::Busy(_))));
    assert!(is_connected(&device) && !session.is_finished());
    drop(file);
    // The RELEASE of the file is answered a moment after close(2) has returned.
    eventually("unmounted", || unmount(&point.0).is_ok());
    eventually("disconnected", || !is_connected(&device));
    session.join().unwrap();
    assert!(matches!(unmount(&point.0), Err(UnmountError::NotMounted(_))));
}

#[test]
fn an_unserved_mount_blocks_nobody_who_only_mounts_and_unmounts() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let point = Point::new(dir.path(), "mnt");
    let started = Instant::now();
    let mounted = mount(&point.0, &MountOptions::default()).unwrap();
    let took = started.elapsed();
    assert!(mounted.negotiated.flags.contains(fuser::InitFlags::FUSE_MAX_PAGES));
    unmount(&point.0).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    eventually("disconnected", || !is_connected(&mounted.device));
    eprintln!("mount and handshake: {took:?}");
}

#[test]
fn a_mount_that_cannot_be_names_its_point() {
    if !can_mount() {
        return;
    }
    let message = mount(Path::new("/nowhere/at/all"), &MountOptions::default()).unwrap_err().to_string();
    assert!(message.contains("/nowhere/at/all"), "{message}");
}

#[test]
fn overlayfs_keeps_a_file_system_in_use_after_its_mount_point_is_gone() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (point, merged) = (Point::new(dir.path(), "mnt"), Point::new(dir.path(), "merged"));
    let mounted = mount(&point.0, &MountOptions::default()).unwrap();
    let device = mounted.device.try_clone().unwrap();
    let fs = GatedFs { gate: dir.path().to_owned(), in_flight: None };
    let session = serve(fs, mounted.device, &mounted.negotiated, 2).unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let lower = format!("lowerdir={}:{}", point.0.display(), empty.display());
    let lower = std::ffi::CString::new(lower).unwrap();
    rustix::mount::mount("overlay", &merged.0, "overlay", MountFlags::RDONLY, lower.as_c_str()).unwrap();

    eventually("unmounted", || unmount(&point.0).is_ok());
    assert!(is_connected(&device) && !session.is_finished());
    assert!(std::fs::read(merged.join("data")).unwrap() == content(0, FILE_LEN as usize));
    rustix::mount::unmount(&merged.0, UnmountFlags::empty()).unwrap();
    eventually("ended", || !is_connected(&device));
    session.join().unwrap();
}

#[test]
fn a_read_in_flight_survives_the_death_of_its_server() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (point, gate) = (Point::new(dir.path(), "mnt"), dir.path().join("gate"));
    let mounted = mount(&point.0, &MountOptions::default()).unwrap();
    if !mounted.negotiated.can_resend() {
        return eprintln!("skipped: this kernel does not send requests again (Linux 6.9 does)");
    }
    let mut first = serving(&mounted, &gate);
    let reads: Vec<_> = (0..4).map(|i| thread::spawn(read_of(&point.join("gated"), i * 1_000_003))).collect();
    wait_for_opens(&point);
    first.kill();
    thread::sleep(Duration::from_millis(50));
    assert!(reads.iter().all(|read| !read.is_finished()), "readers wait");
    File::create(&gate).unwrap();
    let restarted = Instant::now();
    let second = serving(&mounted, &gate);
    for (i, read) in reads.into_iter().enumerate() {
        assert!(read.join().unwrap() == content(i as u64 * 1_000_003, 1 << 20));
    }
    eprintln!("from the start of the next process to the last of 4 lost reads: {:?}", restarted.elapsed());
    assert_eq!(pid_served_by(&point), second.0.id());
}

/// What is lost on a kernel that cannot send requests again: exactly the requests of the dead process.
#[test]
fn without_resend_only_the_lost_requests_hang_and_an_abort_frees_them() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (point, gate) = (Point::new(dir.path(), "mnt"), dir.path().join("gate"));
    let mounted = mount(&point.0, &options(KernelFeatures::ALL.without_resend())).unwrap();
    assert!(!mounted.negotiated.can_resend());
    let mut first = serving(&mounted, &gate);
    let path = point.join("gated");
    let lost = thread::spawn(move || File::open(path)?.read_exact(&mut [0; 4096]));
    wait_for_opens(&point);
    first.kill();
    File::create(&gate).unwrap();
    let _second = serving(&mounted, &gate);
    assert!(read_of(&point.join("gated"), 7)() == content(7, 1 << 20), "new requests are answered");
    thread::sleep(Duration::from_millis(100));
    assert!(!lost.is_finished(), "the old one is not");
    drop(point);
    assert!(lost.join().unwrap().is_err());
}

#[test]
fn fifty_deaths_under_load_lose_no_byte() {
    if !can_mount() {
        return;
    }
    const READERS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let (point, gate) = (Point::new(dir.path(), "mnt"), dir.path().join("gate"));
    let mounted = mount(&point.0, &MountOptions::default()).unwrap();
    if !mounted.negotiated.can_resend() {
        return eprintln!("skipped: this kernel does not send requests again (Linux 6.9 does)");
    }
    File::create(&gate).unwrap();
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut server = serving(&mounted, &gate);
    let mut waits = Vec::new();
    thread::scope(|scope| {
        // Also when an assertion below fails, the readers must come to an end.
        let _end = EndOnDrop { stop: &stop, point: &point };
        for reader in 0..READERS {
            let file = if reader % 2 == 0 { "data" } else { "gated" };
            let (path, stop, reads) = (point.join(file), &stop, &reads);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let offset = (reader * 7919 + round * 104_729) % (FILE_LEN - (1 << 20));
                    assert!(read_of(&path, offset)() == content(offset, 1 << 20), "at {offset}");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..50 {
            let before = reads.load(Ordering::Relaxed);
            eventually("readers read", || reads.load(Ordering::Relaxed) > before + READERS as usize);
            server.kill();
            let (killed, before) = (Instant::now(), reads.load(Ordering::Relaxed));
            server = serving(&mounted, &gate);
            eventually("readers read again", || reads.load(Ordering::Relaxed) > before);
            waits.push(killed.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        eventually("a last time", || pid_served_by(&point) == server.0.id());
    });
    waits.sort();
    eprintln!(
        "{} reads; from kill to the next answer: median {:?}, longest {:?}",
        reads.load(Ordering::Relaxed),
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
}

struct EndOnDrop<'a> {
    stop: &'a AtomicBool,
    point: &'a Point,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if thread::panicking() {
            let _ = jaunt_layerfs::fuse::mount::abort(&self.point.0);
        }
    }
}

/// A read of 1 MiB at `offset`.
fn read_of(path: &Path, offset: u64) -> impl FnOnce() -> Vec<u8> + Send + 'static {
    let path = path.to_owned();
    move || {
        let mut bytes = vec![0; 1 << 20];
        File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

/// Readers started before this have their requests with the server when it returns.
fn wait_for_opens(point: &Point) {
    thread::sleep(Duration::from_millis(100));
    pid_served_by(point);
}

fn pid_served_by(point: &Point) -> u32 {
    std::fs::read_to_string(point.join("pid")).unwrap().parse().unwrap()
}
