//! One round of an image over a line: a fresh node for each snapshotter, and the starts on it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jaunt_tests::error::{At as _, Result};
use jaunt_tests::process::{Daemon, wait_until};
use jaunt_tests::{Binaries, Container, Network, Node, Pod, Registry, Scratch, cold, host};
use tokio::runtime::Runtime;

use super::cost::{self, Cost};
use super::line::Laid;
use super::null::Null;
use super::ready::Waiting;
use super::trace::Story;
use super::{Below, Case, System, cri};
use crate::Progress;
use crate::layerfs::roots::STREAMING;
use crate::learning::NEVER_TRACED;

/// What is traced is in its file after this time, four times over.
const TOLD: Duration = Duration::from_secs(1);
/// A daemon that takes no image calls after this time has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// What starts run in.
#[derive(Debug)]
pub struct Bench<'b> {
    /// Where everything lives.
    pub scratch: &'b Scratch,
    /// Our programs.
    pub binaries: &'b Binaries,
    /// The link that is measured.
    pub network: &'b Network,
    /// The registry behind it.
    pub registry: &'b Registry,
    /// The containers' network.
    pub pod: &'b Pod,
    /// What speaks gRPC.
    pub runtime: &'b Runtime,
    /// Where progress goes.
    pub progress: &'b Progress,
}

/// The figures of one start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Start {
    /// Until the pull command ended.
    pub pull_s: f64,
    /// Until the container was ready.
    pub ready_s: f64,
    /// What the link carried to the node meanwhile.
    pub bytes: u64,
    /// Requests that the registry answered meanwhile.
    pub requests: u64,
    /// CPU time of the registry meanwhile.
    pub registry_cpu_s: f64,
    /// CPU time of what makes the line long.
    pub line_cpu_s: f64,
    /// What it cost the node.
    pub cost: Cost,
}

/// What has been counted so far.
struct Counts {
    requests: u64,
    registry_cpu_s: f64,
    line_cpu_s: f64,
    cost: Cost,
}

/// When what happened of a start.
pub(super) struct Marks {
    begun: SystemTime,
    pull_s: f64,
    ready_s: f64,
    bytes: u64,
}

impl Bench<'_> {
    /// All starts on a fresh node with the snapshotter `below`.
    pub fn starts(&self, case: &Case, laid: &Laid, below: Below) -> Result<Vec<(System, Start)>> {
        let registries = [laid.host()];
        let null = match below {
            Below::Null => Some(Null::serve(self.runtime, &self.scratch.dir("null")?, &case.tree)?),
            _ => None,
        };
        let node = match (&null, below) {
            (Some(null), _) => Node::with_snapshotter(self.scratch, null.socket(), &registries)?,
            (None, Below::Jaunt | Below::JauntConverted | Below::JauntPacked) => {
                self.node(&registries, &config(below))?
            }
            (None, _) => Node::overlayfs(self.scratch, &registries)?,
        };
        let repository = &case.repository(below);
        let mut starts = Vec::new();
        for &system in below.systems() {
            // Before the page cache is dropped: whoever is asked reads its own program.
            let before = self.counts(&node, laid)?;
            if system.is_cold() {
                self.cool()?;
            }
            if null.is_some() {
                cold::warm(&case.tree)?;
            }
            let start = self.start((&node, &before), case, laid, repository)?;
            self.say(case, system, &start);
            starts.push((system, start));
        }
        node.wipe()?;
        drop(null);
        Ok(starts)
    }

    /// A cold start of Jaunt's on a fresh node that tells what happens. It is no figure: telling takes time as well.
    pub fn story(&self, case: &Case, laid: &Laid, below: Below) -> Result<Story> {
        let trace = self.scratch.path().join("trace");
        let config = format!("{}[trace]\nfile = {trace:?}\n", config(below));
        let node = self.node(&[laid.host()], &config)?;
        let events = Daemon::spawn("events", &mut node.containerd.ctr(&["events"]), &self.scratch.logs())?;
        self.cool()?;
        let run = || self.run(&node, case, laid, &case.repository(below));
        let (ran, pusher_peak_bytes) = match &node.jaunt {
            Some(jaunt) => cost::watched(jaunt, run),
            None => (run(), 0),
        };
        let (marks, mut container) = ran?;
        thread::sleep(TOLD);
        let told = (fs::read_to_string(&trace).at(&trace)?, events.log());
        container.stop()?;
        drop((container, events));
        node.wipe()?;
        fs::remove_file(&trace).at(&trace)?;
        let story = Story::read(marks.begun, marks.pull_s, marks.ready_s, &told.0, &told.1)?;
        Ok(Story { pusher_peak_bytes, ..story })
    }

    /// Leaves nothing in the page cache but what is there whenever an image is new to a node: the registry's files, for it is another machine,
    /// and the program of the client, which stands for a kubelet that has long been running.
    fn cool(&self) -> Result<()> {
        cold::drop_caches()?;
        self.registry.warm()?;
        let client = host::find("ctr").unwrap_or_default();
        cold::warm(&fs::canonicalize(&client).at(&client)?)
    }

    /// A node of ours that takes the kubelet's image calls, as is advised for one.
    pub(super) fn node(&self, registries: &[String], config: &str) -> Result<Node<'_>> {
        let socket = self.image_socket();
        let containerd = self.scratch.path().join("containerd/containerd.sock");
        let config = format!("containerd = {containerd:?}\n{config}[credentials]\ncri_socket = {socket:?}\n");
        let node = Node::configured(self.scratch, self.binaries, registries, &config)?;
        wait_until("the socket for image calls", LIMIT, || UnixStream::connect(&socket).is_ok())?;
        Ok(node)
    }

    fn image_socket(&self) -> PathBuf {
        self.scratch.path().join("cri.sock")
    }

    /// One start on a node of which `before` was counted.
    fn start(
        &self,
        (node, before): (&Node<'_>, &Counts),
        case: &Case,
        laid: &Laid,
        repository: &str,
    ) -> Result<Start> {
        let (marks, mut container) = self.run(node, case, laid, repository)?;
        let after = self.counts(node, laid)?;
        container.stop()?;
        let Marks { pull_s, ready_s, bytes, .. } = marks;
        let requests = after.requests.saturating_sub(before.requests);
        Ok(Start {
            pull_s,
            ready_s,
            bytes,
            requests,
            registry_cpu_s: after.registry_cpu_s - before.registry_cpu_s,
            line_cpu_s: after.line_cpu_s - before.line_cpu_s,
            cost: after.cost - before.cost,
        })
    }

    fn counts(&self, node: &Node<'_>, laid: &Laid) -> Result<Counts> {
        // What goes on counting while others are asked comes first.
        Ok(Counts {
            line_cpu_s: laid.cpu_seconds(),
            registry_cpu_s: self.registry.cpu_seconds()?,
            requests: self.registry.requests()?,
            cost: Cost::of(self.scratch, self.binaries, node)?,
        })
    }

    /// The two commands, until the container is ready.
    pub(super) fn run(
        &self,
        node: &Node<'_>,
        case: &Case,
        laid: &Laid,
        repository: &str,
    ) -> Result<(Marks, Container)> {
        let reference = laid.reference(repository);
        let socket = match node.jaunt {
            Some(_) => self.image_socket(),
            None => node.containerd.socket(),
        };
        let received = self.network.received()?;
        let (begun, from) = (SystemTime::now(), Instant::now());
        cri::pull(self.runtime, &socket, &reference)?;
        let pull_s = from.elapsed().as_secs_f64();
        let waiting = Waiting::begin(self.pod, case.probe, &case.subject.readiness)?;
        let mut container = node.containerd.run_in(self.pod, &reference)?;
        let ready_s = waiting.ready(&mut container)?.duration_since(from).as_secs_f64();
        let bytes = self.network.received()? - received;
        Ok((Marks { begun, pull_s, ready_s, bytes }, container))
    }

    fn say(&self, case: &Case, system: System, start: &Start) {
        let (name, megabytes) = (&case.subject.name, start.bytes as f64 / 1e6);
        self.progress.say(&format!(
            "{name}, {}: ready after {:.3} s (pull {:.3} s), {megabytes:.1} MB in {} requests",
            system.title(),
            start.ready_s,
            start.pull_s,
            start.requests
        ));
    }
}

/// How a node of ours is set up: what is there is what starts have read, and the kubelet's image calls come through it.
fn config(below: Below) -> String {
    match below {
        Below::JauntPacked => format!("{STREAMING}{NEVER_TRACED}"),
        _ => STREAMING.to_owned(),
    }
}
