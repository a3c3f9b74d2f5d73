//! A daemon that cannot use its state says what is wrong, and where.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal};

/// Killed at the end, its worker with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A place for a daemon, with its state.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.arg(word).arg("--socket").arg(self.at("socket"));
        command
    }

    fn serve(&self) -> Daemon {
        self.serve_with("")
    }

    fn serve_with(&self, config: &str) -> Daemon {
        fs::write(self.at("config"), config).unwrap();
        let mut command = self.command("serve");
        command
            .arg("--config")
            .arg(self.at("config"))
            .arg("--root")
            .arg(self.at("root"))
            .arg("--run-dir")
            .arg(self.at("run"));
        // The worker's errors go where the supervisor's go.
        let log = File::create(self.at("log")).unwrap();
        Daemon(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// What `status` says, and whether that is good news.
    fn status(&self) -> (bool, String) {
        let output = self.command("status").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// State as a daemon leaves it.
    fn with_state() -> Self {
        let place = Self::new();
        let _daemon = place.serve();
        eventually("it serves", || place.status().0);
        place
    }
}

/// What the daemon answers over HTTP: the code, and the words.
fn ask(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut told = String::new();
    stream.read_to_string(&mut told).ok()?;
    let (head, body) = told.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.trim_end().to_owned()))
}

/// An address that nobody has.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_damaged_database_is_a_clear_error_at_start() {
    let place = Place::with_state();
    let file = place.at("root/meta.redb");
    let good = fs::read(&file).unwrap();
    let garbage = vec![0x5a; 100_000];
    let cut = &good[..good.len() / 2];
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    for bad in [&garbage[..], cut, b"", &flipped] {
        fs::write(&file, bad).unwrap();
        let mut daemon = place.serve();
        let mut status = None;
        eventually("it gives up", || {
            status = daemon.0.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(1));
        let said = place.said();
        let place_of_it = file.to_str().unwrap();
        assert!(said.contains(place_of_it) && said.contains("When something is damaged"), "{said}");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(place.at("root/snapshots/1/fs")).unwrap();
    let mut daemon = place.serve();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(1), "snapshots that nothing is known of");
    assert!(place.said().contains("meta.redb is missing"), "{}", place.said());
    assert!(place.at("root/snapshots/1/fs").exists());
}

#[test]
fn a_daemon_whose_database_breaks_says_so_to_who_asks_and_serves_again_when_it_is_back() {
    let place = Place::new();
    let address = free_address();
    let daemon = place.serve_with(&format!("[metrics]\naddress = \"{address}\"\n"));
    eventually("it serves", || place.status().0);
    let ok = || Some((200, "ok".to_owned()));
    eventually("it is ready", || ask(address, "/readyz") == ok());
    let file = place.at("root/meta.redb");
    let good = fs::read(&file).unwrap();
    fs::write(&file, [0x5a; 100_000]).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", daemon.0.id());
    let worker: i32 =
        fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    let named = |said: &str| said.contains(file.to_str().unwrap());
    eventually("it says why it does not serve", || matches!(place.status(), (false, said) if named(&said)));
    // Killing it would help nobody.
    eventually("it says that it lives", || ask(address, "/livez") == ok());
    for path in ["/readyz", "/healthz", "/metrics"] {
        let (code, why) = ask(address, path).unwrap();
        assert!(code == 503 && named(&why), "{path}: {code} {why}");
    }
    fs::write(&file, good).unwrap();
    eventually("it serves again", || place.status().0);
    eventually("it is ready again", || ask(address, "/readyz") == ok());
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
