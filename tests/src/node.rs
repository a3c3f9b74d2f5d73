//! A node: a containerd with its snapshotter, and the two commands that start a container on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::containerd::{Containerd, Snapshotter};
use crate::error::{At as _, Error, Result};
use crate::jaunt::{Binaries, Jaunt};
use crate::mounts;
use crate::process::run;
use crate::scratch::Scratch;

/// The directories of a node in its scratch.
const NODE_DIRS: [&str; 2] = ["containerd", "jaunt"];

/// A node; its parts stop in the right order when it is dropped. A scratch has room for one at a time.
#[derive(Debug)]
pub struct Node<'s> {
    /// Its containerd, which stops first.
    pub containerd: Containerd<'s>,
    /// Our daemon, where the node has one.
    pub jaunt: Option<Jaunt>,
    scratch: &'s Scratch,
    binaries: Option<Binaries>,
}

impl<'s> Node<'s> {
    /// A node that unpacks with containerd's overlayfs, as nodes do.
    pub fn overlayfs(scratch: &'s Scratch, registries: &[String]) -> Result<Self> {
        let containerd = Containerd::start(scratch, NODE_DIRS[0], &Snapshotter::Overlayfs, registries)?;
        Ok(Self { containerd, jaunt: None, scratch, binaries: None })
    }

    /// A node with our snapshotter.
    pub fn jaunt(scratch: &'s Scratch, binaries: &Binaries, registries: &[String]) -> Result<Self> {
        Self::configured(scratch, binaries, registries, "")
    }

    /// The same with `config` as our snapshotter's configuration file.
    pub fn configured(
        scratch: &'s Scratch,
        binaries: &Binaries,
        registries: &[String],
        config: &str,
    ) -> Result<Self> {
        let jaunt = Jaunt::configured(binaries, scratch, NODE_DIRS[1], registries, config)?;
        let snapshotter = Snapshotter::Jaunt(jaunt.socket());
        let containerd = Containerd::start(scratch, NODE_DIRS[0], &snapshotter, registries)?;
        Ok(Self { containerd, jaunt: Some(jaunt), scratch, binaries: Some(binaries.clone()) })
    }

    /// A node with a snapshotter of somebody else's, listening on that socket, under our name.
    pub fn with_snapshotter(scratch: &'s Scratch, socket: &Path, registries: &[String]) -> Result<Self> {
        let snapshotter = Snapshotter::Jaunt(socket.to_owned());
        let containerd = Containerd::start(scratch, NODE_DIRS[0], &snapshotter, registries)?;
        Ok(Self { containerd, jaunt: None, scratch, binaries: None })
    }

    /// The pull command of this kind of node.
    pub fn pull_command(&self, reference: &str) -> Command {
        match &self.binaries {
            None => self.containerd.ctr(&[
                "images",
                "pull",
                "--plain-http",
                "--snapshotter",
                "overlayfs",
                reference,
            ]),
            Some(binaries) => {
                let mut command = binaries.snapshotter(self.scratch, &["pull", "--address"]);
                command.arg(self.containerd.socket());
                command.arg("--hosts-dir").arg(self.containerd.hosts_dir()).arg(reference);
                command
            }
        }
    }

    /// Stops everything and removes all that the node had: the next one starts from nothing.
    pub fn wipe(self) -> Result<()> {
        let scratch = self.scratch;
        drop(self);
        for dir in NODE_DIRS.map(|name| scratch.path().join(name)).iter().filter(|dir| dir.exists()) {
            if let Some(left) = mounts::below(dir).first() {
                return Err(Error::unexpected(left.display().to_string(), "still mounted on a stopped node"));
            }
            fs::remove_dir_all(dir).at(dir)?;
        }
        Ok(())
    }

    /// Pulls an image as this kind of node does, and returns what was printed.
    pub fn pull(&self, reference: &str) -> Result<String> {
        run(&mut self.pull_command(reference))
    }
}
