//! A containerd of one's own: its root, state, socket and configuration all in a scratch directory.
//!
//! The machine's containerd, if one runs, is neither used nor disturbed. CRI is on, because it is what
//! Kubernetes pulls through, and because only it names the image to a snapshotter (1.6 and 1.7).

pub mod collection;
mod config;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::container::Container;
use crate::error::{At as _, Result};
use crate::mounts::Mounted;
use crate::network::Pod;
use crate::process::{Daemon, run, wait_until};
use crate::scratch::Scratch;
pub use config::Version;

/// The namespace CRI keeps its images in.
pub const NAMESPACE: &str = "k8s.io";

/// How often a view is made anew when the garbage collector was faster.
const VIEW_ATTEMPTS: u32 = 5;
const START_LIMIT: Duration = Duration::from_secs(30);
const COLLECT_LIMIT: Duration = Duration::from_secs(30);

/// Which snapshotter CRI pulls with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshotter {
    /// containerd's own.
    Overlayfs,
    /// Ours, listening on that socket.
    Jaunt(PathBuf),
}

impl Snapshotter {
    /// Its name in containerd.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Jaunt(_) => "jaunt",
        }
    }
}

/// A running containerd, stopped when dropped; end its containers first.
#[derive(Debug)]
pub struct Containerd<'s> {
    scratch: &'s Scratch,
    dir: PathBuf,
    snapshotter: &'static str,
    daemon: Daemon,
}

impl<'s> Containerd<'s> {
    /// Starts one in the directory `name` of the scratch; `registries` are spoken to in plain HTTP.
    pub fn start(
        scratch: &'s Scratch,
        name: &str,
        snapshotter: &Snapshotter,
        registries: &[String],
    ) -> Result<Self> {
        let dir = scratch.dir(name)?;
        for registry in registries {
            let hosts = scratch.dir(&format!("{name}/hosts/{registry}"))?.join("hosts.toml");
            let host = format!(
                "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            );
            fs::write(&hosts, host).at(&hosts)?;
        }
        let config = dir.join("config.toml");
        fs::write(&config, config::text(Version::installed(scratch)?, &dir, snapshotter)).at(&config)?;
        let mut containerd =
            Self { scratch, dir, snapshotter: snapshotter.name(), daemon: launch(scratch, name, &config)? };
        containerd.await_service()?;
        Ok(containerd)
    }

    /// Stops and starts it on the same state.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon.stop()?;
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.daemon = launch(self.scratch, &name, &self.config())?;
        self.await_service()
    }

    /// Has its own commands use another snapshotter from now on, whatever its configuration says.
    pub fn use_snapshotter(&mut self, snapshotter: &Snapshotter) {
        self.snapshotter = snapshotter.name();
    }

    /// SIGKILL, and wait. Containers go on.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Its configuration file, read at each start.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Where it finds each registry's `hosts.toml`.
    pub fn hosts_dir(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Where it keeps blobs: committed in `blobs`, under way in `ingest`.
    pub fn content_root(&self) -> PathBuf {
        self.dir.join("root/io.containerd.content.v1.content")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A `ctr` command in CRI's namespace.
    pub fn ctr(&self, words: &[&str]) -> Command {
        let mut command = self.scratch.command("ctr");
        // What the daemon deprecates is no output of a container.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "true");
        command.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]).args(words);
        command
    }

    /// Pulls with `ctr`: everything is fetched and unpacked.
    pub fn pull(&self, snapshotter: &str, reference: &str) -> Result<()> {
        run(&mut self.ctr(&["images", "pull", "--plain-http", "--snapshotter", snapshotter, reference]))?;
        Ok(())
    }

    /// Runs the image's own command in a new container, with the snapshotter CRI pulls with.
    pub fn run(&self, reference: &str) -> Result<Container> {
        self.run_with(reference, &[])
    }

    /// The same, with the pod's loopback interface instead of one of its own.
    pub fn run_in(&self, pod: &Pod, reference: &str) -> Result<Container> {
        let space = format!("network:{}", pod.path().display());
        self.start_container(&["--with-ns", &space], reference, &[])
    }

    /// Runs `words` in a new container; none of them mean the image's own command.
    pub fn run_with(&self, reference: &str, words: &[&str]) -> Result<Container> {
        self.start_container(&[], reference, words)
    }

    fn start_container(&self, options: &[&str], reference: &str, words: &[&str]) -> Result<Container> {
        let id = Container::next_id(self.scratch);
        let mut command = self.ctr(&["run", "--rm", "--snapshotter", self.snapshotter]);
        command.arg("--fifo-dir").arg(self.scratch.dir("fifo")?);
        command.arg("--runc-root").arg(self.dir.join("runc")).args(options);
        command.args([reference, &id]).args(words);
        let kill = self.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]);
        Container::start(id, command, kill)
    }

    /// Lets a container go on that waits for somebody to write to its FIFO `/go`.
    pub fn wake(&self, container: &Container) -> Result<()> {
        let exec = Container::next_id(self.scratch);
        let mut command = self.ctr(&["tasks", "exec", "--exec-id", &exec, "--fifo-dir"]);
        command.arg(self.scratch.dir(&format!("fifo-{exec}"))?);
        run(command.args([container.id(), "/bin/sh", "-c", "echo > /go"]))?;
        Ok(())
    }

    /// Mounts a committed chain read-only, as containerd would below a container.
    pub fn view(&self, snapshotter: &str, chain_id: &str) -> Result<Mounted> {
        self.mounted("view", snapshotter, chain_id)
    }

    /// Mounts a root file system on a committed chain, writable, as containerd would for a container.
    pub fn root(&self, snapshotter: &str, chain_id: &str) -> Result<Mounted> {
        self.mounted("prepare", snapshotter, chain_id)
    }

    /// Makes a snapshot of that `kind`, and mounts it.
    fn mounted(&self, kind: &str, snapshotter: &str, chain_id: &str) -> Result<Mounted> {
        let key = format!("{kind}-{snapshotter}-{chain_id}");
        let point = self.scratch.dir(&format!("views/{}", key.replace(':', "-")))?;
        let target = point.display().to_string();
        let snapshots =
            |words: &[&str]| run(self.ctr(&["snapshots", "--snapshotter", snapshotter]).args(words));
        // A snapshot without this label is garbage: a collection under way may take it before it has one.
        let mut attempts = 0..VIEW_ATTEMPTS;
        loop {
            let mounts = snapshots(&[kind, "--target", &target, &key, chain_id])?;
            match snapshots(&["label", &key, "containerd.io/gc.root=test"]) {
                Err(_) if attempts.next().is_some() => {}
                labelled => return labelled.and_then(|_| Mounted::by_command(self.scratch, point, &mounts)),
            }
        }
    }

    /// Ends a view that [`Containerd::view`] began; its mount must be gone.
    pub fn end_view(&self, snapshotter: &str, chain_id: &str) -> Result<()> {
        let key = format!("view-{snapshotter}-{chain_id}");
        run(&mut self.ctr(&["snapshots", "--snapshotter", snapshotter, "rm", &key]))?;
        Ok(())
    }

    /// The names (keys and chain IDs) of a snapshotter's snapshots.
    pub fn snapshots(&self, snapshotter: &str) -> Result<Vec<String>> {
        let table = run(&mut self.ctr(&["snapshots", "--snapshotter", snapshotter, "ls"]))?;
        let names = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Removes every image, also the names CRI adds, and waits until their snapshots are collected.
    pub fn remove_images(&self) -> Result<()> {
        let names = run(&mut self.ctr(&["images", "ls", "--quiet"]))?;
        run(self.ctr(&["images", "rm", "--sync"]).args(names.lines()))?;
        wait_until("garbage collection of the image's snapshots", COLLECT_LIMIT, || {
            self.snapshots(self.snapshotter).is_ok_and(|names| names.is_empty())
        })
    }

    fn await_service(&mut self) -> Result<()> {
        let socket = self.socket();
        self.daemon.wait_until("its socket", START_LIMIT, || UnixStream::connect(&socket).is_ok())?;
        // The socket is there before its plugins are: wait for what a pull needs.
        wait_until("containerd's CRI and snapshotter plugins", START_LIMIT, || {
            let plugins = run(&mut self.ctr(&["plugins", "ls"])).unwrap_or_default();
            let ok = |id: &str| plugins.lines().any(|line| is_ok(line, id));
            ok("cri") && ok(self.snapshotter)
        })
    }
}

/// A line of `ctr plugins ls`: type, ID, platforms, status.
fn is_ok(line: &str, id: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.get(1) == Some(&id) && words.last() == Some(&"ok")
}

fn launch(scratch: &Scratch, name: &str, config: &Path) -> Result<Daemon> {
    Daemon::spawn(name, scratch.command("containerd").arg("--config").arg(config), &scratch.logs())
}
