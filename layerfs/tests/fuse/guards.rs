//! What tests leave behind is taken away also when they panic.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jaunt_layerfs::fuse::mount;

/// Whether FUSE can be used; says so if not.
pub fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = Path::new("/dev/fuse").exists();
    if !root || !device {
        eprintln!("skipped: root: {root}, /dev/fuse: {device}");
    }
    root && device
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
