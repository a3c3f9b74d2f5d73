//! `make bench-nodes`: several nodes start the same image at once against one registry, with and without a caching tier.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use jaunt_benches::nodes::{Figure, Kind, Report, Setup, Site};
use jaunt_benches::revision::revision;
use jaunt_benches::{Progress, Subject, files, program, start};
use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::network::GIGABIT;
use jaunt_tests::process::run as run_program;
use jaunt_tests::{Binaries, Network, Recipe, Registry, Scratch};

/// Measures starts on several nodes at once.
#[derive(Debug, Parser)]
struct Options {
    /// How many nodes, separated by commas.
    #[arg(long, value_delimiter = ',', default_values = ["1", "2", "4", "8"], value_parser = clap::value_parser!(u8).range(1..=10))]
    nodes: Vec<u8>,
    /// The first so many have containerd; the others mount the image without.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=10))]
    containerd: u8,
    /// What the registry sends in all, Gbit/s, separated by commas.
    #[arg(long, value_delimiter = ',', default_values = ["1", "10"])]
    gigabits: Vec<u64>,
    /// Measure everything this often.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// The image, a name of a file in tests/images.
    #[arg(long, default_value = Recipe::DEMO)]
    image: String,
    /// Where the images' builds are kept.
    #[arg(long, default_value = "target/images")]
    cache: PathBuf,
    /// Where the result goes, as `nodes.json` and `nodes.md`.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    report: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::run("bench-nodes", &["nginx"], || run(&options))
}

fn run(options: &Options) -> Result<()> {
    let (progress, binaries, scratch) = (Progress::start(), Binaries::find()?, Scratch::new()?);
    let network = Network::new(&scratch, 10 * GIGABIT)?;
    let registry = Registry::remote(&scratch, &network)?;
    let recipe = Recipe::named(&options.image)?;
    if recipe.probe.is_some() {
        return Err(Error::unexpected(&recipe.name, "serves: take one that prints when it is ready"));
    }
    let subject = Subject::build(&scratch, &registry, &recipe, &options.cache, &progress)?;
    progress.say("converting it");
    binaries.convert(&scratch, &subject.reference)?;
    let learnt = learn(&scratch, &binaries, (&network, &registry), &subject, &progress)?;
    let most = options.nodes.iter().copied().max().unwrap_or(1);
    let site =
        Site::new(&scratch, &binaries, (&network, &registry), (&subject, &learnt.reference, recipe), most)?;
    let mut report = Report {
        image: subject.name.clone(),
        image_bytes: subject.bytes,
        cores: thread::available_parallelism().at("the number of processors")?.get(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        commit: revision(),
        figures: Vec::new(),
    };
    for &gigabits in &options.gigabits {
        site.shape(gigabits * GIGABIT)?;
        for setup in setups(options) {
            report.figures.push(measure(options, &site, gigabits, &setup, &progress)?);
            files::write(&options.report.join("nodes.md"), report.to_string().as_bytes())?;
            files::write_json(&options.report.join("nodes.json"), &report)?;
        }
    }
    println!("\n{report}\nThe same as Markdown and JSON in {}\n", options.report.display());
    progress.say("cleaning up");
    Ok(())
}

/// A copy of a converted image with a boot pack of one start, on a node of its own.
fn learn(
    scratch: &Scratch,
    binaries: &Binaries,
    (network, registry): (&Network, &Registry),
    subject: &Subject,
    progress: &Progress,
) -> Result<Subject> {
    progress.say("learning a boot pack of one start");
    let host = registry.host();
    let copy =
        Subject { reference: format!("{host}/{}-packed:latest", subject.repository()), ..subject.clone() };
    let words = ["copy", "--plain-http", &host, &subject.reference, &copy.reference];
    run_program(&mut binaries.proxy(scratch, &words))?;
    start::Bench { scratch, network, registry, subject: &copy, progress }.learn(binaries)?;
    Ok(copy)
}

/// overlayfs as far as all nodes have containerd, then Jaunt as converted and with a learnt pack, each without and with the tier.
fn setups(options: &Options) -> Vec<Setup> {
    let with_containerd = |nodes: u8| nodes.min(options.containerd);
    let overlayfs = options.nodes.iter().filter(|nodes| **nodes <= options.containerd);
    let overlayfs = overlayfs.map(|&nodes| Setup {
        kinds: vec![Kind::Overlayfs; nodes.into()],
        learnt: false,
        tier: false,
    });
    let jaunt = |(learnt, tier)| {
        options.nodes.iter().map(move |&nodes| {
            let kind = |n| if n < with_containerd(nodes) { Kind::Jaunt } else { Kind::Mount };
            Setup { kinds: (0..nodes).map(kind).collect(), learnt, tier }
        })
    };
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    overlayfs.chain(kinds.into_iter().flat_map(jaunt)).collect()
}

fn measure(
    options: &Options,
    site: &Site<'_>,
    gigabits: u64,
    setup: &Setup,
    progress: &Progress,
) -> Result<Figure> {
    let mut starts = Vec::new();
    for round in 1..=options.rounds {
        let start = site.start(setup)?;
        let seconds: Vec<String> = start.ready_s.iter().map(|(_, ready)| format!("{ready:.2}")).collect();
        progress.say(&format!(
            "{gigabits} Gbit/s, {} nodes, {:?}{}{}, round {round}: ready after {} s; registry {:.1} MB in {} requests",
            setup.kinds.len(),
            setup.kinds[0],
            if setup.learnt { ", learnt pack" } else { "" },
            if setup.tier { " behind nginx" } else { "" },
            seconds.join(", "),
            start.bytes as f64 / 1e6,
            start.requests
        ));
        starts.push(start);
    }
    Ok(Figure::of(gigabits, setup.learnt, &starts))
}
