//! `make bench-node`: calls and containers, many at once, on one node. Fails where calls take longer than they may.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use jaunt_benches::layerfs::roots::STREAMING;
use jaunt_benches::node::calls::Calls;
use jaunt_benches::node::{Containers, Crowd, Report, containers};
use jaunt_benches::{Progress, Subject, files, program};
use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::{Binaries, Node, Recipe, Registry, Scratch};

/// Measures a node with many calls, and with many containers, at once.
#[derive(Debug, Parser)]
struct Options {
    /// Prepare and Mounts at once; 0 measures none.
    #[arg(long, default_value_t = 200)]
    calls: usize,
    /// Containers at once; 0 measures none.
    #[arg(long, default_value_t = 100)]
    containers: usize,
    /// How often the calls are made.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the image's build is kept.
    #[arg(long, default_value = "target/images")]
    cache: PathBuf,
    /// Where the result goes, as `node.json` and `node.md`.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    report: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::run("bench-node", &[], || run(&options))
}

fn run(options: &Options) -> Result<()> {
    let (progress, binaries, scratch) = (Progress::start(), Binaries::find()?, Scratch::new()?);
    let registry = Registry::local(&scratch)?;
    let recipe = Recipe::named(Recipe::DEMO)?;
    let subject = Subject::build(&scratch, &registry, &recipe, &options.cache, &progress)?;
    progress.say("converting it");
    binaries.convert(&scratch, &subject.reference)?;
    let bench = Bench { options, progress: &progress, binaries, scratch: &scratch, registry, subject };
    let report = Report {
        image: bench.subject.name.clone(),
        layers: bench.subject.layers,
        cores: thread::available_parallelism().at("the number of processors")?.get(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        load: load()?,
        crowds: bench.calls()?,
        overlayfs: bench.containers(Node::overlayfs)?,
        jaunt: bench.containers(|scratch, registries| {
            Node::configured(scratch, &bench.binaries, registries, STREAMING)
        })?,
    };
    files::write(&options.report.join("node.md"), report.to_string().as_bytes())?;
    files::write_json(&options.report.join("node.json"), &report)?;
    println!("\n{report}\nThe same as Markdown and JSON in {}\n", options.report.display());
    progress.say("cleaning up");
    if report.is_within_bar() {
        return Ok(());
    }
    Err(Error::unexpected("calls at once", "they take longer than the bar allows"))
}

struct Bench<'b> {
    options: &'b Options,
    progress: &'b Progress,
    binaries: Binaries,
    scratch: &'b Scratch,
    registry: Registry,
    subject: Subject,
}

impl<'b> Bench<'b> {
    /// Rounds of calls to a node that has pulled the image and knows all of its index.
    fn calls(&self) -> Result<Vec<Crowd>> {
        if self.options.calls == 0 {
            return Ok(Vec::new());
        }
        let registries = [self.registry.host()];
        let node = Node::configured(self.scratch, &self.binaries, &registries, STREAMING)?;
        node.pull(&self.subject.reference)?;
        let runtime = tokio::runtime::Runtime::new().at("the runtime")?;
        let socket = node.jaunt.as_ref().map(jaunt_tests::Jaunt::socket);
        let socket = socket.ok_or_else(|| Error::unexpected("the node", "has no snapshotter"))?;
        let calls = Calls::connect(&runtime, &socket)?;
        let top = calls.top()?;
        let mut crowds = Vec::new();
        for round in 1..=self.options.rounds {
            let crowd = calls.crowd(&top, self.options.calls)?;
            self.progress.say(&format!("round {round}: Prepare {}", crowd.prepare));
            self.progress.say(&format!("round {round}: Mounts {}", crowd.mounts));
            crowds.push(crowd);
        }
        drop(calls);
        node.wipe()?;
        Ok(crowds)
    }

    /// Containers on a node that has just pulled the image.
    fn containers(
        &self,
        node: impl FnOnce(&'b Scratch, &[String]) -> Result<Node<'b>>,
    ) -> Result<Option<Containers>> {
        let count = self.options.containers;
        if count == 0 {
            return Ok(None);
        }
        let node = node(self.scratch, &[self.registry.host()])?;
        node.pull(&self.subject.reference)?;
        let name = if node.jaunt.is_some() { "jaunt" } else { "overlayfs" };
        self.progress.say(&format!("{name}: {count} containers at once"));
        let reference = &self.subject.reference;
        let containers = containers::start(self.scratch, &self.binaries, &node, reference, count)?;
        self.progress.say(&format!("{name}: ready {}", containers.ready));
        node.wipe()?;
        Ok(Some(containers))
    }
}

/// Processes that want a processor, over the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").at("/proc/loadavg")?;
    let load = text.split_whitespace().next().and_then(|load| load.parse().ok());
    load.ok_or_else(|| Error::unexpected("/proc/loadavg", text))
}
