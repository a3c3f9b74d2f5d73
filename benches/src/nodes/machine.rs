//! One of many nodes: from nothing until the image's program is ready.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::process::Daemon;
use jaunt_tests::{Binaries, Container, Node, Readiness, Recipe, Scratch, mounts};
use tokio::runtime::Runtime;

use crate::cold::cri;
use crate::layerfs::roots::STREAMING;
use crate::learning::NEVER_TRACED;

/// A start that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// What a node consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// containerd with its overlayfs: PullImage, then `ctr run`.
    Overlayfs,
    /// containerd with our snapshotter: the same commands.
    Jaunt,
    /// No containerd: `jaunt-snapshotter mount`, then the image's program, with its root there (chroot).
    Mount,
}

/// Whom a node asks.
#[derive(Clone, Debug)]
pub struct Image {
    /// The registry.
    pub registry: SocketAddr,
    /// What is asked before it.
    pub tier: Option<SocketAddr>,
    /// The image there.
    pub reference: String,
    /// Whether it has a boot pack that was learnt.
    pub learnt: bool,
    /// What it is made of.
    pub recipe: Recipe,
}

/// A namespace with a directory.
#[derive(Debug)]
pub struct Machine {
    /// Both.
    pub scratch: Scratch,
}

/// A machine with its programs, and nothing of the image.
#[derive(Debug)]
pub enum Prepared<'m> {
    /// With containerd.
    Node(Box<Node<'m>>),
    /// Without.
    Bare(&'m Machine),
}

/// A program that has become ready, and runs until it is dropped.
#[derive(Debug)]
pub struct Running {
    /// When it was ready.
    pub ready: Instant,
    /// Ended in this order.
    _program: Program,
    _mount: Option<Daemon>,
}

#[derive(Debug)]
enum Program {
    Container(#[allow(dead_code, reason = "held until it may end")] Box<Container>),
    Process(Child),
}

impl Machine {
    /// Starts what is there before the image is asked for.
    pub fn prepare(&self, kind: Kind, binaries: &Binaries, image: &Image) -> Result<Prepared<'_>> {
        let registries = [image.registry.to_string()];
        let node = match kind {
            Kind::Overlayfs => Node::overlayfs(&self.scratch, &registries)?,
            Kind::Jaunt => Node::configured(&self.scratch, binaries, &registries, &self.config(image))?,
            Kind::Mount => {
                self.ask(image)?;
                return Ok(Prepared::Bare(self));
            }
        };
        self.ask(image)?;
        Ok(Prepared::Node(Box::new(node)))
    }

    /// Where containerd and our daemon both look whom to ask.
    fn hosts(&self) -> PathBuf {
        self.scratch.path().join("containerd/hosts")
    }

    fn config(&self, image: &Image) -> String {
        let boot = if image.learnt { NEVER_TRACED } else { "" };
        format!("{STREAMING}{boot}[registries]\ncerts_dirs = [{:?}]\n", self.hosts())
    }

    fn ask(&self, Image { registry, tier, .. }: &Image) -> Result<()> {
        let file = self.hosts().join(registry.to_string()).join("hosts.toml");
        let first = tier.unwrap_or(*registry);
        let text = format!(
            "server = 'http://{registry}'\n[host.'http://{first}']\ncapabilities = ['pull', 'resolve']\n"
        );
        crate::files::write(&file, text.as_bytes())
    }

    fn mount(&self, binaries: &Binaries, image: &Image) -> Result<(Daemon, PathBuf)> {
        let (point, config) = (self.scratch.dir("point")?, self.scratch.path().join("mount.toml"));
        fs::write(&config, self.config(image)).at(&config)?;
        let mut command = binaries.snapshotter(&self.scratch, &["mount", "--config"]);
        command.arg(&config).arg("--root").arg(self.scratch.dir("content")?);
        command.args(["--plain-http", &image.registry.to_string(), &image.reference]).arg(&point);
        let mut mount = Daemon::spawn("mount", &mut command, &self.scratch.logs())?;
        mount.wait_until("the image mounted", LIMIT, || !mounts::below(&point).is_empty())?;
        Ok((mount, point))
    }
}

impl Prepared<'_> {
    /// The image pulled or mounted, and its program started, until that is ready.
    pub fn start(&self, runtime: &Runtime, binaries: &Binaries, image: &Image) -> Result<Running> {
        match self {
            Self::Node(node) => {
                cri::pull(runtime, &node.containerd.socket(), &image.reference)?;
                let mut container = node.containerd.run(&image.reference)?;
                let ready = container.wait_ready(&image.recipe.readiness(), LIMIT)?;
                Ok(Running { ready, _program: Program::Container(Box::new(container)), _mount: None })
            }
            Self::Bare(machine) => {
                let (mount, point) = machine.mount(binaries, image)?;
                let mut command = machine.scratch.command("chroot");
                command.arg(&point).args(&image.recipe.command).env("PYTHONDONTWRITEBYTECODE", "1");
                let program = command.stdout(Stdio::piped()).spawn().at("chroot")?;
                let mut program = Program::Process(program);
                let ready = program.wait_ready(&image.recipe.readiness())?;
                Ok(Running { ready, _program: program, _mount: Some(mount) })
            }
        }
    }

    /// Removes all that the machine had, but itself.
    pub fn wipe(self) -> Result<()> {
        match self {
            Self::Node(node) => node.wipe(),
            Self::Bare(machine) => ["content", "containerd"]
                .map(|name| machine.scratch.path().join(name))
                .iter()
                .filter(|dir| dir.exists())
                .try_for_each(|dir| fs::remove_dir_all(dir).at(dir)),
        }
    }
}

impl Program {
    /// Reads what a process prints until it is ready.
    fn wait_ready(&mut self, readiness: &Readiness) -> Result<Instant> {
        let Self::Process(child) = self else { return Ok(Instant::now()) };
        let ended = || Error::unexpected("the image's program", "ended before it was ready");
        let output = BufReader::new(child.stdout.take().ok_or_else(ended)?);
        let is_ready = |line: &str| match readiness {
            Readiness::Line(wanted) => line == wanted,
            Readiness::LineWith(part) => line.contains(part),
            Readiness::FirstOutput => true,
        };
        for line in output.lines() {
            if is_ready(&line.at("the image's program")?) {
                return Ok(Instant::now());
            }
        }
        Err(ended())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Self::Process(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
