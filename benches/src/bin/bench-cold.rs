//! `make bench-cold`: real images started from nothing, beside what else starts them, over networks that are near or far.
//!
//! Everything runs in a scratch directory and network namespaces of its own, which go again however this ends. Figures are
//! kept after each image and network, so that a run for all of them may be done in pieces.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jaunt_benches::cold::trace::Account;
use jaunt_benches::cold::{Below, Bench, Case, Figure, Line, Machine, Report, Variant, Workshop, waterfall};
use jaunt_benches::revision::revision;
use jaunt_benches::{Progress, files, program};
use jaunt_tests::error::{At as _, Result};
use jaunt_tests::{Binaries, Network, Pod, Registry, Scratch};

/// Whose starts are told of as well.
const TOLD: [Below; 3] = [Below::Jaunt, Below::JauntConverted, Below::JauntPacked];

/// Measures starts.
#[derive(Debug, Parser)]
struct Options {
    /// Images, by their names in tests/images; NAME@64 cuts one into 64 layers, NAME@1+5g puts 5 GB of files on top that
    /// nobody touches. All of tests/images when there is none.
    #[arg(long = "image", value_name = "NAME")]
    images: Vec<Variant>,
    /// Networks: the link's speed each way and, behind a dash, a round trip on top of it.
    #[arg(long = "network", value_name = "SPEED[-ROUND TRIP]", default_values = ["1g", "10g-0.5ms", "1g-10ms"])]
    networks: Vec<Line>,
    /// Snapshotters; all when there is none.
    #[arg(long = "below", value_enum)]
    below: Vec<Below>,
    /// Measure each start this often and report medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: u8,
    /// Where the images' builds are kept.
    #[arg(long, default_value = "target/images")]
    cache: PathBuf,
    /// Where figures are kept, as `cold.json`, `cold.md` and `cold.svg`, and `waterfall-NETWORK-IMAGE.svg`.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    report: PathBuf,
}

impl Options {
    fn measures(&self, below: Below) -> bool {
        self.below.is_empty() || self.below.contains(&below)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::run("bench-cold", &[], || run(&options))
}

fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    let mut report = Report::kept(&options.report)?.unwrap_or_default();
    let (scratch, binaries) = (Scratch::new()?, Binaries::find()?);
    let network = Network::new(&scratch, Line::WORKSHOP.bits())?;
    let registry = Registry::remote(&scratch, &network)?;
    let (pod, runtime) = (Pod::new(&scratch)?, tokio::runtime::Runtime::new().at("the runtime")?);
    report.machine = Machine::this(&scratch)?;
    report.commit = revision();
    let workshop = Workshop {
        scratch: &scratch,
        binaries: &binaries,
        registry: &registry,
        cache: &options.cache,
        progress: &progress,
    };
    let images = if options.images.is_empty() { Variant::all()? } else { options.images.clone() };
    let mut cases = workshop.cases(&images)?;
    let bench = Bench {
        scratch: &scratch,
        binaries: &binaries,
        network: &network,
        registry: &registry,
        pod: &pod,
        runtime: &runtime,
        progress: &progress,
    };
    if options.measures(Below::JauntPacked) {
        let laid = Line::WORKSHOP.lay(&scratch, &network, &registry)?;
        cases.iter_mut().try_for_each(|case| bench.pack(case, &laid))?;
    }
    let groups = Case::grouped(cases);
    for line in &options.networks {
        for group in &groups {
            report.add(measure(options, &bench, line, group)?);
            report.write(&options.report)?;
            for (case, below) in group.iter().flat_map(|case| TOLD.map(|below| (case, below))) {
                if options.measures(below) {
                    report.add_account(tell(options, &bench, line, case, below)?);
                }
            }
            report.write(&options.report)?;
        }
    }
    println!("\n{report}\nThe same as Markdown, JSON and a chart in {}", options.report.display());
    progress.say("cleaning up");
    Ok(())
}

/// All rounds of an image's variants over a line. Whoever begins one round ends the next, and variants follow one another, so that what
/// they are set in relation by is of the same minutes.
fn measure(options: &Options, bench: &Bench<'_>, line: &Line, group: &[Case]) -> Result<Vec<Figure>> {
    let laid = line.lay(bench.scratch, bench.network, bench.registry)?;
    let mut below = Below::ALL.to_vec();
    below.retain(|below| options.measures(*below));
    let mut order: Vec<usize> = (0..group.len()).collect();
    let mut rounds = vec![Vec::new(); group.len()];
    for number in 1..=options.runs {
        let recipe = group.first().map_or("", |case| &case.recipe);
        bench.progress.say(&format!("{recipe}, {line}: round {number} of {}", options.runs));
        let mut round = vec![Vec::new(); group.len()];
        for &below in &below {
            for &case in &order {
                round[case].extend(bench.starts(&group[case], &laid, below)?);
            }
        }
        rounds.iter_mut().zip(round).for_each(|(rounds, round)| rounds.push(round));
        below.rotate_left(1);
        order.rotate_left(1);
    }
    let plain = group.iter().position(|case| case.is_plain);
    let figures = group.iter().zip(&rounds).flat_map(|(case, own)| {
        let plain = plain.filter(|_| !case.is_plain).map(|plain| &*rounds[plain]);
        Figure::all(case, &line.to_string(), own, plain)
    });
    Ok(figures.collect())
}

/// One more start, as a picture and an account.
fn tell(options: &Options, bench: &Bench<'_>, line: &Line, case: &Case, below: Below) -> Result<Account> {
    let repository = case.repository(below);
    let with = below.systems().first().map_or("", |system| system.title());
    let (name, line_name) = (format!("{}: {with}", case.subject.name), line.to_string());
    bench.progress.say(&format!("{name}, {line}: a start that tells what happens"));
    let laid = line.lay(bench.scratch, bench.network, bench.registry)?;
    let story = bench.story(case, &laid, below)?;
    let file = options.report.join(format!("waterfall-{line_name}-{repository}.svg"));
    files::write(&file, waterfall::draw(&format!("{name} over {line_name}, cold"), &story).as_bytes())?;
    Ok(story.account(&name, &line_name))
}
