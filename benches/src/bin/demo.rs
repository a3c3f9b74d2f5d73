//! `make demo`: a real image started cold and warm, with overlayfs and with Jaunt, over a shaped link.
//!
//! Everything runs in a scratch directory and a network namespace of its own, which go again however
//! this ends. The image's build is kept below `--cache`, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use jaunt_benches::start::Bench;
use jaunt_benches::{Conversion, Progress, Report, Starts, Subject, program};
use jaunt_tests::error::Result;
use jaunt_tests::{Binaries, Network, Recipe, Registry, Scratch, network};

/// Starts an image cold and warm, with overlayfs and with Jaunt, and says how long each took.
#[derive(Debug, Parser)]
struct Options {
    /// Any image this machine can reach, instead of one that is built.
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// Which image to build: the name of a file in tests/images.
    #[arg(long, value_name = "NAME", default_value = Recipe::DEMO)]
    recipe: String,
    /// Measure each start this often and report medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: u8,
    /// Measure one of the two only.
    #[arg(long)]
    only: Option<Only>,
    /// Speed of the link to the registry, each way.
    #[arg(long, value_name = "MBIT", default_value_t = network::GIGABIT / 1_000_000)]
    link: u64,
    /// Where the image's build is kept.
    #[arg(long, default_value = "target/images")]
    cache: PathBuf,
    /// Where the result goes as JSON.
    #[arg(long, default_value = "target/demo/report.json")]
    report: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Overlayfs,
    Jaunt,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    options.image = options.image.filter(|image| !image.is_empty());
    program::run("demo", &[], || run(&options))
}

fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    let binaries = if options.only == Some(Only::Overlayfs) { None } else { Some(Binaries::find()?) };
    let scratch = Scratch::new()?;
    let link = options.link * 1_000_000;
    progress.say(&format!("starting a registry behind a link of {} Mbit/s", options.link));
    let network = Network::new(&scratch, link)?;
    let registry = Registry::remote(&scratch, &network)?;
    let subject = match &options.image {
        Some(image) => Subject::copy(&scratch, &registry, image, &progress)?,
        None => {
            let recipe = Recipe::named(&options.recipe)?;
            Subject::build(&scratch, &registry, &recipe, &options.cache, &progress)?
        }
    };
    let mut report = Report::new(&subject, link, usize::from(options.runs));
    let bench = Bench {
        scratch: &scratch,
        network: &network,
        registry: &registry,
        subject: &subject,
        progress: &progress,
    };
    let measure = |binaries: Option<&Binaries>| -> Result<Option<Starts>> {
        let runs = (0..options.runs).map(|_| bench.starts(binaries)).collect::<Result<Vec<_>>>()?;
        Ok(Starts::medians(&runs))
    };
    if options.only != Some(Only::Jaunt) {
        report.overlayfs = measure(None)?;
    }
    if let Some(binaries) = &binaries {
        progress.say("converting the image: jaunt-proxy convert");
        let conversion = Conversion::run(&scratch, binaries, &registry, &subject.reference, None)?;
        report.conversion = Some(conversion.into());
        report.jaunt = measure(Some(binaries))?;
        progress.say("having a node note a start, and making a boot pack of it: jaunt-proxy optimize");
        bench.learn(binaries)?;
        report.jaunt_learnt = measure(Some(binaries))?;
    }
    report.write(&options.report)?;
    println!("\n{report}\nThe same as JSON: {}\n", options.report.display());
    progress.say("cleaning up");
    Ok(())
}
