//! What tests leave behind is taken away also when they panic.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jaunt_layerfs::fuse::mount;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// Whether FUSE can be used; says so if not.
pub fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = Path::new("/dev/fuse").exists();
    if !root || !device {
        eprintln!("skipped: root: {root}, /dev/fuse: {device}");
    }
    root && device
}

/// Has this thread, and those that it begins, in a mount namespace of its own: nobody who makes one has copies of its mounts. Nor has
/// it copies of what other tests have mounted, which is below the directory for temporary files.
#[allow(unsafe_code)]
pub fn in_own_mount_namespace() {
    // SAFETY: what is no longer shared are mounts and this thread's working directory; no file descriptor is.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let points = mounts.lines().map(|mount| Path::new(mount.split(' ').nth(4).unwrap()));
    let tests = std::env::temp_dir();
    // The last on top.
    for point in points.rev().filter(|point| point.starts_with(&tests) && **point != tests) {
        let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
    }
}

/// A mount point; aborted and detached at the end.
pub struct Point(pub PathBuf);

impl Point {
    /// The directory `name` in `parent`, made.
    pub fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A path below it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        while mount::abort(&self.0).is_ok() {}
    }
}

/// A child process; killed at the end.
pub struct Process(pub Child);

impl Process {
    /// This test program again, running nothing but the test `role`, which finds `env`.
    pub fn in_role(role: &str, stdin: Stdio, env: &[(&str, &str)]) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([role, "--exact", "--nocapture", "--test-threads=1"])
            .envs(env.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// `kill -9`, and gone.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `ready`, for a time that a loaded machine needs.
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
