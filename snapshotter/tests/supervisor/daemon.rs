//! The daemon of these tests: a real supervisor with a small worker, both this test program again.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use jaunt_distribution::{Credential, GivenLogin, Secret};
use jaunt_layerfs::fuse::mount::abort;
use jaunt_snapshotter::credentials::KeptLogins;
use jaunt_snapshotter::supervisor::{
    Backoff, Handle, HandleError, HeldMount, MountKey, MountNeeds, Options, SUPERVISOR_FD, WorkerCommand, run,
};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::gated_fs::GatedFs;
use crate::guards::eventually;
use crate::keeper::Keeper;

const ROOT: &str = "TEST_ROOT";
const RUN_DIR: &str = "TEST_RUN_DIR";
const GARBAGE: &str = "TEST_GARBAGE";
const NO_RESEND: &str = "TEST_NO_RESEND";

/// Where a daemon lives.
#[derive(Clone)]
pub struct Place {
    pub root: PathBuf,
    pub run_dir: PathBuf,
}

impl Place {
    pub fn in_directory(directory: &Path) -> Self {
        Self { root: directory.join("root"), run_dir: directory.join("run") }
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("jaunt.sock")
    }

    pub fn mount_point(&self, key: &str) -> PathBuf {
        self.run_dir.join("mnt").join(key)
    }

    /// Reads of `gated` wait for this file.
    pub fn gate(&self) -> PathBuf {
        self.root.join("gate")
    }

    /// What this daemon's processes have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.with_extension("log")).unwrap_or_default()
    }
}

/// A running supervisor. Killed at the end, its worker with it, its mounts aborted.
pub struct Daemon {
    pub place: Place,
    supervisor: Child,
}

impl Daemon {
    /// Starts one and waits until a worker answers.
    pub fn start(place: &Place) -> Self {
        let daemon = Self::launch(place, &[]);
        eventually("the daemon answers", || daemon.try_ask("pid").is_some());
        daemon
    }

    /// The same, with a worker that first says what no worker should.
    pub fn start_with_garbage(place: &Place) -> Self {
        let daemon = Self::launch(place, &[(GARBAGE, "1")]);
        eventually("the daemon answers", || daemon.try_ask("pid").is_some());
        daemon
    }

    /// The same on a kernel that does not send requests again.
    pub fn start_without_resend(place: &Place) -> Self {
        let daemon = Self::launch(place, &[(NO_RESEND, "1")]);
        eventually("the daemon answers", || daemon.try_ask("pid").is_some());
        daemon
    }

    /// The same as a service of a manager, with what that has kept.
    pub fn start_kept(place: &Place, keeper: &Keeper) -> Self {
        let daemon = Self::launch_kept(place, keeper);
        eventually("the daemon answers", || daemon.try_ask("pid").is_some());
        daemon
    }

    /// The same on a kernel that does not send requests again.
    pub fn start_kept_without_resend(place: &Place, keeper: &Keeper) -> Self {
        let mut command = Self::command(place);
        command.env(NO_RESEND, "1");
        let daemon = Self::spawn(place, keeper.adopt(&command));
        eventually("the daemon answers", || daemon.try_ask("pid").is_some());
        daemon
    }

    /// Starts one.
    pub fn launch(place: &Place, env: &[(&str, &str)]) -> Self {
        let mut command = Self::command(place);
        command.envs(env.iter().copied());
        Self::spawn(place, command)
    }

    /// The same as a service of a manager.
    pub fn launch_kept(place: &Place, keeper: &Keeper) -> Self {
        Self::spawn(place, keeper.adopt(&Self::command(place)))
    }

    fn command(place: &Place) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["supervisor_process", "--exact", "--nocapture"]);
        command.env(ROOT, &place.root).env(RUN_DIR, &place.run_dir);
        command
    }

    fn spawn(place: &Place, mut command: Command) -> Self {
        let log = place.root.with_extension("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let supervisor = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { place: place.clone(), supervisor }
    }

    /// Has the worker do something; `None` when it died over it.
    pub fn try_ask(&self, command: &str) -> Option<String> {
        Self::ask_at(&self.place, command)
    }

    /// The same of whoever comes to answer.
    pub fn ask_at(place: &Place, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(place.socket()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        writeln!(stream, "{command}").ok()?;
        let mut line = String::new();
        let len = BufReader::new(stream).read_line(&mut line).ok()?;
        (len > 0).then(|| line.trim_end().to_owned())
    }

    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|| panic!("no answer to {command}; log:\n{}", self.place.log()))
    }

    pub fn worker(&self) -> Pid {
        Pid::from_raw(self.ask("pid").parse().unwrap()).unwrap()
    }

    /// `kill -9`, and gone: what it had accepted is lost, what comes now waits for the next one.
    pub fn kill_worker(&self) {
        let worker = self.worker();
        kill_process(worker, Signal::KILL).unwrap();
        eventually("the worker is gone", || !is_alive(worker));
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.supervisor), signal).unwrap();
    }

    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        self.supervisor.try_wait().unwrap()
    }

    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the supervisor ends", || {
            status = self.supervisor.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.place.log());
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        for entry in std::fs::read_dir(self.place.run_dir.join("mnt")).into_iter().flatten().flatten() {
            while abort(&entry.path()).is_ok() {}
        }
    }
}

pub fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// The life of a supervisor, in a process that was started as one.
pub fn supervisor_process() {
    let (Some(root), Some(run_dir)) = (std::env::var_os(ROOT), std::env::var_os(RUN_DIR)) else { return };
    if std::env::var_os(SUPERVISOR_FD).is_some() {
        return;
    }
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let place = Place { root: root.into(), run_dir: run_dir.into() };
    let socket = place.socket();
    let args = ["worker_process", "--exact", "--nocapture"].map(Into::into).to_vec();
    let mut options = Options::new(place.root, place.run_dir, socket, args);
    options.worker = WorkerCommand { program: std::env::current_exe().unwrap(), ..options.worker };
    // Workers are killed young here; the usual pauses would be all that these tests do.
    options.backoff = Backoff { longest: Duration::from_millis(5), ..Backoff::default() };
    options.backoff.first = Duration::from_millis(1);
    if std::env::var_os(NO_RESEND).is_some() {
        options.mount.features = options.mount.features.without_resend();
    }
    if let Err(error) = run(options) {
        eprintln!("supervisor failed: {error}");
        std::process::exit(1);
    }
}

/// The life of a worker, in a process that was started as one: serves every mount, and takes commands
/// on the daemon's socket, one a connection.
pub fn worker_process() {
    if std::env::var_os(SUPERVISOR_FD).is_none() {
        return;
    }
    if std::env::var_os(GARBAGE).is_some() {
        talk_garbage();
    }
    let gate = PathBuf::from(std::env::var_os(ROOT).unwrap()).join("gate");
    let handle = Handle::from_env().unwrap();
    let serve_one = |mount: HeldMount| -> String {
        let connection = mount.connection.unwrap();
        let fs = GatedFs { gate: gate.clone(), in_flight: connection.in_flight.clone() };
        connection.serve(fs, 4).unwrap();
        mount.path.display().to_string()
    };
    for mount in handle.mounts().unwrap() {
        serve_one(mount);
    }
    handle.serving().unwrap();
    let logins = KeptLogins::open(Handle::memory().as_deref());
    for stream in handle.listener().unwrap().incoming() {
        let mut stream = stream.unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let (command, key) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "0"));
        let (name, key) = (key, MountKey::try_from(key.to_owned()).unwrap());
        let answer: Result<String, HandleError> = match command {
            "pid" => Ok(std::process::id().to_string()),
            "mount" => handle.mount(&key, MountNeeds::default()).map(serve_one),
            "unmount" => handle.unmount(&key).map(|outcome| format!("{outcome:?}")),
            "mounts" => handle.mounts().map(|mounts| {
                let keys: Vec<_> = mounts.iter().map(|m| format!("{}:{}", m.key, m.attached)).collect();
                keys.join(" ")
            }),
            "login" => {
                let credential = Credential::RegistryToken(Secret::new("s".to_owned()));
                let repository = format!("r.example/{name}").parse().unwrap();
                logins.remember(GivenLogin { repository, credential });
                Ok(String::new())
            }
            "logins" => {
                let all = logins.logins().all();
                Ok(all.iter().map(|login| login.repository.name()).collect::<Vec<_>>().join(" "))
            }
            other => panic!("unknown command {other}"),
        };
        let _ = writeln!(stream, "{}", answer.unwrap_or_else(|error| format!("error: {error}")));
    }
}

/// Everything here must get an error in reply, and the supervisor must live.
fn talk_garbage() {
    let stdin = std::io::stdin();
    let long = vec![b' '; 20_000];
    let messages: [&[u8]; 7] = [
        b"garbage",
        b"{\"op\":\"hello\",\"version\":99}",
        b"{\"op\":\"mount\",\"key\":\"../../etc\"}",
        b"{\"op\":\"mount\",\"key\":\"\"}",
        b"{\"op\":\"explode\"}",
        b"\xff\x00",
        &long,
    ];
    for message in messages {
        rustix::net::send(stdin.as_fd(), message, SendFlags::empty()).unwrap();
        let mut reply = [0; 1024];
        let (len, _) = rustix::net::recv(stdin.as_fd(), &mut reply, RecvFlags::empty()).unwrap();
        let reply = String::from_utf8_lossy(&reply[..len]);
        assert!(reply.contains("\"reply\":\"error\""), "{reply}");
    }
}
