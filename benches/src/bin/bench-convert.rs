//! `make bench-convert`: what converting real images costs, against the sum of its parts.
//!
//! Each round of an image has the parts run alone, a conversion at the default level and one at the named level,
//! one after the other, so that what else the machine does meets all three alike. Every conversion goes
//! from a repository of its own to the same one, on a registry on loopback.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use jaunt_benches::conversions::{Conversions, Figures, Round};
use jaunt_benches::parts::Layers;
use jaunt_benches::{Conversion, Progress, Subject, files, program};
use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::{Binaries, Recipe, Registry, Scratch, skopeo};

/// Programs that are needed besides those of every measurement.
const TOOLS: [&str; 5] = ["gzip", "zstd", "openssl", "skopeo", "buildah"];

/// Converts images and says what it cost.
#[derive(Debug, Parser)]
struct Options {
    /// Only these images: names of files in tests/images.
    #[arg(long, value_name = "NAME")]
    image: Vec<String>,
    /// Measure everything this often.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// The second level that is measured, for size.
    #[arg(long, default_value_t = 9)]
    level: u8,
    /// Where the images' builds are kept.
    #[arg(long, default_value = "target/images")]
    cache: PathBuf,
    /// Where the result goes, as `convert.json` and `convert.md`.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    report: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::run("bench-convert", &TOOLS, || run(&options))
}

fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    let binaries = Binaries::find()?;
    let scratch = Scratch::new()?;
    let registry = Registry::local(&scratch)?;
    let bench =
        Bench { options, progress: &progress, binaries: &binaries, scratch: &scratch, registry: &registry };
    let recipes = match options.image.as_slice() {
        [] => Recipe::all()?,
        names => names.iter().map(|name| Recipe::named(name)).collect::<Result<_>>()?,
    };
    let images = recipes.iter().map(|recipe| bench.image(recipe)).collect::<Result<_>>()?;
    let report =
        Conversions { rounds: options.rounds.into(), cores: cores()?, named_level: options.level, images };
    files::write(&options.report.join("convert.md"), report.to_string().as_bytes())?;
    files::write_json(&options.report.join("convert.json"), &report)?;
    println!("\n{report}\nThe same as Markdown and JSON in {}\n", options.report.display());
    progress.say("cleaning up");
    Ok(())
}

fn cores() -> Result<usize> {
    Ok(thread::available_parallelism().at("the number of processors")?.get())
}

struct Bench<'b> {
    options: &'b Options,
    progress: &'b Progress,
    binaries: &'b Binaries,
    scratch: &'b Scratch,
    registry: &'b Registry,
}

impl Bench<'_> {
    fn image(&self, recipe: &Recipe) -> Result<Figures> {
        let subject =
            Subject::build(self.scratch, self.registry, recipe, &self.options.cache, self.progress)?;
        let layers = Layers::of(self.scratch, self.registry, subject.repository())?;
        let mut rounds = Vec::new();
        for number in 1..=self.options.rounds {
            let round = self.round(&subject, &layers, number)?;
            self.progress.say(&format!(
                "{}: {:.2} CPU s, {:.2} s; its parts {:.2} CPU s; at level {} {:.2} CPU s",
                subject.name,
                round.default.usage.cpu_s,
                round.default.usage.wall_s,
                round.parts.sum().cpu_s,
                self.options.level,
                round.named.usage.cpu_s,
            ));
            rounds.push(round);
        }
        layers.remove()?;
        if rounds.iter().any(|round| round.default.sizes != rounds[0].default.sizes) {
            return Err(Error::unexpected(subject.name, "converts to other sizes from one time to the next"));
        }
        Ok(Figures::of(&subject.name, subject.layers, cores()?, &rounds))
    }

    fn round(&self, subject: &Subject, layers: &Layers, number: u8) -> Result<Round> {
        Ok(Round {
            default: self.convert(subject, &format!("default-{number}"), None)?,
            parts: layers.measure()?,
            named: self.convert(subject, &format!("named-{number}"), Some(self.options.level))?,
        })
    }

    /// Converts a copy of the image that nothing was converted in.
    fn convert(&self, subject: &Subject, copy: &str, level: Option<u8>) -> Result<Conversion> {
        let reference = format!("{}/{}-{copy}:latest", self.registry.host(), subject.repository());
        skopeo::copy_image(self.scratch, &subject.reference, &reference)?;
        Conversion::run(self.scratch, self.binaries, self.registry, &reference, level)
    }
}
