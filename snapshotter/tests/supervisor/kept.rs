//! What outlives a supervisor, where a service manager keeps its descriptors.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::daemon::{Daemon, Place, is_alive};
use crate::gated_fs::content;
use crate::guards::{Point, can_mount, eventually};
use crate::keeper::Keeper;
use crate::read_at;

/// A place for daemons, and the service manager that they have one after the other.
struct Bed {
    place: Place,
    keeper: Keeper,
    dir: tempfile::TempDir,
}

impl Bed {
    /// None where nothing can be mounted.
    fn new() -> Option<Self> {
        can_mount().then(|| {
            let dir = tempfile::tempdir().unwrap();
            Self { place: Place::in_directory(dir.path()), keeper: Keeper::start(dir.path()), dir }
        })
    }

    /// The next daemon, with what was kept of those before.
    fn start(&self) -> Daemon {
        Daemon::start_kept(&self.place, &self.keeper)
    }

    /// An open file of a mount. The kernel has learnt by then that closing is no request: the next daemon's process begins
    /// with copies of what is open here.
    fn open(&self, key: &str) -> File {
        let path = self.place.mount_point(key).join("data");
        drop(File::open(&path).unwrap());
        File::open(&path).unwrap()
    }
}

#[test]
fn the_death_of_a_supervisor_costs_no_byte_where_its_descriptors_are_kept() {
    let Some(bed) = Bed::new() else { return };
    let Bed { place, keeper, .. } = &bed;
    let mut first = bed.start();
    eventually("ready", || keeper.heard("READY=1"));
    eventually("the watchdog is fed", || keeper.all("WATCHDOG=1").len() > 2);
    first.ask("mount 1");
    first.ask("mount 2");
    let open = bed.open("1");
    let gated = place.mount_point("1").join("gated");
    let read = thread::spawn(move || read_at(&gated, 5));
    let worker = first.worker();
    first.signal(Signal::KILL);
    first.wait_for_exit();
    eventually("the worker dies with its supervisor", || !is_alive(worker));
    assert!(!read.is_finished(), "lost, not failed");

    let second = bed.start();
    File::create(place.gate()).unwrap();
    assert!(read.join().unwrap() == content(5, 1 << 20), "a read that was in flight");
    let mut bytes = vec![0; 4096];
    open.read_exact_at(&mut bytes, 77).unwrap();
    assert!(bytes == content(77, 4096), "a file that was open");
    assert_eq!(second.ask("mounts"), "1:true 2:true");
    assert_eq!(second.ask("unmount 2"), "Done");
    drop(open);
    eventually("free", || second.ask("unmount 1") == "Done");
    eventually("nothing is kept of what is gone", || keeper.names() == ["listener", "memory"]);
    assert!(!place.log().contains("of no use") && !place.log().contains("dead mount"), "{}", place.log());
}

#[test]
fn the_table_of_requests_is_kept_with_its_mount() {
    let Some(bed) = Bed::new() else { return };
    let Bed { place, keeper, .. } = &bed;
    let mut first = Daemon::start_kept_without_resend(place, keeper);
    first.ask("mount 1");
    drop(bed.open("1"));
    let gated = place.mount_point("1").join("gated");
    let read = thread::spawn(move || File::open(gated).unwrap().read_at(&mut [0; 4096], 0).is_err());
    thread::sleep(Duration::from_millis(100));
    first.signal(Signal::KILL);
    first.wait_for_exit();
    let second = Daemon::start_kept_without_resend(place, keeper);
    assert!(read.join().unwrap(), "failed, not for ever");
    assert_eq!(second.ask("unmount 1"), "Done");
    eventually("nothing is kept of what is gone", || keeper.names() == ["listener", "memory"]);
}

#[test]
fn a_supervisor_that_hands_over_unmounts_nothing_and_keeps_calls_waiting() {
    let Some(bed) = Bed::new() else { return };
    let place = &bed.place;
    let mut first = bed.start();
    first.ask("mount 1");
    first.signal(Signal::USR1);
    assert!(first.wait_for_exit().success(), "{}", place.log());
    assert!(place.socket().exists(), "who calls meanwhile waits in its queue");
    let calling = {
        let place = place.clone();
        thread::spawn(move || Daemon::ask_at(&place, "mounts"))
    };
    let second = bed.start();
    assert_eq!(calling.join().unwrap().unwrap(), "1:true", "{}", place.log());
    assert!(read_at(&place.mount_point("1").join("data"), 9) == content(9, 1 << 20));
    drop(second);
}

#[test]
fn logins_outlive_a_supervisor_and_are_forgotten_with_a_stop() {
    let Some(bed) = Bed::new() else { return };
    let mut first = bed.start();
    assert_eq!(first.ask("logins"), "");
    first.ask("login one");
    first.kill_worker();
    assert_eq!(first.ask("logins"), "one");
    first.signal(Signal::KILL);
    first.wait_for_exit();
    let mut second = bed.start();
    assert_eq!(second.ask("logins"), "one");
    second.ask("login two");
    second.signal(Signal::USR1);
    assert!(second.wait_for_exit().success(), "{}", bed.place.log());
    let mut third = bed.start();
    assert_eq!(third.ask("logins"), "two one");
    third.signal(Signal::TERM);
    assert!(third.wait_for_exit().success(), "{}", bed.place.log());
    bed.keeper.until_empty();
    assert_eq!(bed.start().ask("logins"), "");
    assert!(!bed.place.log().contains("of no use"), "{}", bed.place.log());
}

#[test]
fn memory_that_is_not_as_it_was_left_is_taken_anew() {
    let Some(bed) = Bed::new() else { return };
    let mut first = bed.start();
    first.ask("login one");
    first.signal(Signal::KILL);
    first.wait_for_exit();
    bed.keeper.lose("memory");
    bed.keeper.slip_in("memory", File::open("/dev/null").unwrap().into());
    let mut second = bed.start();
    assert_eq!(second.ask("logins"), "");
    assert!(bed.place.log().contains("no memory of ours"), "{}", bed.place.log());
    second.ask("login two");
    second.signal(Signal::KILL);
    second.wait_for_exit();
    assert_eq!(bed.start().ask("logins"), "two");
}

#[test]
fn told_to_hand_over_to_nobody_it_goes_on() {
    let Some(bed) = Bed::new() else { return };
    let place = &bed.place;
    let mut daemon = Daemon::start(place);
    daemon.ask("mount 1");
    daemon.signal(Signal::USR1);
    eventually("says so", || place.log().contains("no service manager keeps the mounts"));
    assert_eq!(daemon.ask("mounts"), "1:true");
    assert!(daemon.has_exited().is_none());
}

#[test]
fn a_daemon_that_serves_on_after_a_stop_hands_over_to_the_next_start() {
    let Some(bed) = Bed::new() else { return };
    let Bed { place, keeper, .. } = &bed;
    let mut first = bed.start();
    first.ask("mount 1");
    let file = bed.open("1");
    first.signal(Signal::TERM);
    eventually("says so", || place.log().contains("in_use=1"));
    eventually("tells the manager", || keeper.all("STATUS=stopping: 1 mounts are in use").len() == 1);
    first.signal(Signal::TERM);
    eventually("told twice, it serves on", || place.log().contains("told to stop again"));
    // The second finds the directory locked, and fails; the manager starts it again, with what it has by then.
    let mut second = Daemon::launch_kept(place, keeper);
    assert_eq!(second.wait_for_exit().code(), Some(1));
    std::mem::forget(second);
    assert!(first.wait_for_exit().success(), "{}", place.log());
    let third = bed.start();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 99).unwrap();
    assert!(bytes == content(99, 4096));
    assert_eq!(third.ask("mounts"), "1:true");
}

#[test]
fn whatever_was_kept_or_lost_meanwhile_the_rest_is_served() {
    let Some(bed) = Bed::new() else { return };
    let Bed { place, keeper, .. } = &bed;
    let mut first = bed.start();
    for key in 1..=5 {
        first.ask(&format!("mount {key}"));
    }
    let merged = Point::new(bed.dir.path(), "merged");
    let empty = bed.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let lower = format!("lowerdir={}:{}", place.mount_point("4").display(), empty.display());
    let lower = std::ffi::CString::new(lower).unwrap();
    rustix::mount::mount("overlay", &merged.0, "overlay", MountFlags::RDONLY, lower.as_c_str()).unwrap();
    first.signal(Signal::KILL);
    first.wait_for_exit();

    // 2: no descriptor. 3: no mount. 4: no mount, but a container. 5: under a key that is taken, and kept twice.
    keeper.lose("mount/2/");
    for key in ["3", "4"] {
        rustix::mount::unmount(place.mount_point(key), UnmountFlags::DETACH).unwrap();
    }
    let (name, device) = keeper.copy("mount/1/");
    keeper.slip_in(&name, device);
    let (name, device) = keeper.copy("mount/5/");
    keeper.lose("mount/5/");
    keeper.slip_in(&name.replace("mount/5/", "mount/1/"), device);
    keeper.slip_in("rubbish", File::open("/dev/null").unwrap().into());
    keeper.slip_in("mount/9/3/00", File::open("/dev/null").unwrap().into());
    let daemon = bed.start();
    eventually("nobody uses the stray", || daemon.ask("mounts") == "1:true 4:false");
    assert!(read_at(&place.mount_point("1").join("data"), 0) == content(0, 1 << 20));
    assert!(std::fs::read(merged.join("data")).unwrap() == content(0, 8 << 20));
    assert!(!place.mount_point("2").exists() && !place.mount_point("5").exists());
    let log = place.log();
    for said in [
        "of no use",
        "was kept twice",
        "kept under one key",
        "detached a dead mount",
        "held for its last user",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    rustix::mount::unmount(&merged.0, UnmountFlags::empty()).unwrap();
    eventually("let go of with its last user", || !daemon.ask("mounts").contains("4:"));
    eventually("and forgotten", || keeper.names().iter().all(|name| !name.starts_with("mount/4/")));
    assert!(Path::new(&place.socket()).exists());
}
