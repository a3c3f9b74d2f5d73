//! A Docker of one's own: dockerd with its containerd, behind a [`Network`], all it keeps in the scratch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{At as _, Error, Result};
use crate::network::Network;
use crate::private;
use crate::process::{Daemon, run};
use crate::scratch::Scratch;

/// The first one that unpacks zstd.
pub const FIRST_VERSION: u32 = 23;
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where Docker keeps images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In its own graph driver, overlay2.
    Graph,
    /// In containerd.
    Containerd,
    /// In a containerd that others see to, unpacked by the snapshotter of this name.
    Snapshotter(&'static str, PathBuf),
}

/// A running dockerd, stopped when dropped.
#[derive(Debug)]
pub struct Docker<'s> {
    scratch: &'s Scratch,
    socket: PathBuf,
    _daemon: Daemon,
}

impl<'s> Docker<'s> {
    /// The major version of the dockerd that is installed.
    pub fn version(scratch: &Scratch) -> Result<u32> {
        let said = run(scratch.command("dockerd").arg("--version"))?;
        let version =
            said.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse().ok());
        version.ok_or_else(|| Error::unexpected("dockerd --version", said))
    }

    /// Starts one beside what else is behind `network`, with which it speaks plain HTTP.
    pub fn start(scratch: &'s Scratch, network: &Network, store: Store) -> Result<Self> {
        let name = match &store {
            Store::Graph => "docker-graph",
            Store::Containerd => "docker-containerd",
            Store::Snapshotter(..) => "docker-snapshotter",
        };
        let dir = scratch.dir(name)?;
        let config = dir.join("daemon.json");
        fs::write(&config, configuration(scratch, network, &store)).at(&config)?;
        let socket = dir.join("docker.sock");
        // It mounts what containerd's shims then run: they must see the same mounts.
        let mut command = match &store {
            Store::Snapshotter(_, containerd) => {
                let mut command = network.command(scratch, "dockerd");
                command.arg("--containerd").arg(containerd);
                command
            }
            _ => private::behind(network, scratch, "dockerd"),
        };
        command.arg("--config-file").arg(&config).arg("--host").arg(format!("unix://{}", socket.display()));
        for (flag, place) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(dir.join(place));
        }
        let mut daemon = Daemon::spawn(name, &mut command, &scratch.logs())?;
        daemon.wait_until("its API", START_LIMIT, || {
            run(&mut client(scratch, &socket, &["version"])).is_ok()
        })?;
        Ok(Self { scratch, socket, _daemon: daemon })
    }

    /// Pulls an image.
    pub fn pull(&self, reference: &str) -> Result<()> {
        run(&mut self.docker(&["pull", "--quiet", reference]))?;
        Ok(())
    }

    /// Runs an image's own command to its end; what it printed.
    pub fn run(&self, reference: &str) -> Result<String> {
        run(&mut self.docker(&["run", "--rm", "--pull", "never", "--network", "none", reference]))
    }

    /// A `docker` command.
    pub fn docker(&self, words: &[&str]) -> Command {
        client(self.scratch, &self.socket, words)
    }
}

fn client(scratch: &Scratch, socket: &Path, words: &[&str]) -> Command {
    let mut command = scratch.command("docker");
    command.env("DOCKER_CONFIG", scratch.path()).arg("--host").arg(format!("unix://{}", socket.display()));
    command.args(words);
    command
}

/// No network of its own, and control groups that go with the scratch.
fn configuration(scratch: &Scratch, network: &Network, store: &Store) -> String {
    let containerd = *store != Store::Graph;
    let driver = match store {
        Store::Snapshotter(name, _) => format!("\"storage-driver\": \"{name}\", "),
        _ => String::new(),
    };
    format!(
        r#"{{{driver}"bridge": "none", "iptables": false, "ip6tables": false, "cgroup-parent": "/{}",
        "insecure-registries": ["{}/32"], "features": {{"containerd-snapshotter": {containerd}}}}}"#,
        scratch.name(),
        network.remote(),
    )
}
