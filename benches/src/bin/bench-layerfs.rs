//! `make bench-layerfs`: what the file system costs, beside ext4 below overlayfs and beside what a line could do.
//!
//! Rows that are compared run in turn, in the same rounds; the ratios are taken round by round. The machine's page cache
//! is dropped for the rows with a cold one. Fails where a row misses its bar.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use jaunt_benches::layerfs::memory::Watch;
use jaunt_benches::layerfs::network::{Cut, Network};
use jaunt_benches::layerfs::paired::{Paired, Place};
use jaunt_benches::layerfs::roots::{Root, STREAMING};
use jaunt_benches::layerfs::work::{Cache, Paths, Row};
use jaunt_benches::layerfs::{Bar, Figure, Report, chain, many, split};
use jaunt_benches::revision::revision;
use jaunt_benches::{Progress, Stat, Subject, files, program};
use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::{Binaries, Recipe, Registry, Scratch};

/// Round trips that are measured, in microseconds.
const ROUND_TRIPS: [u64; 2] = [500, 10_000];
/// Layers that the same content is cut into.
const MANY: u16 = 64;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// With a warm page cache.
    Warm,
    /// With a cold one.
    Cold,
    /// Over a network.
    Network,
    /// One mount.
    Chain,
    /// The worker's memory.
    Memory,
    /// One layer against many.
    Layers,
}

/// Measures the file system.
#[derive(Debug, Parser)]
struct Options {
    /// Only these parts, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only these rows of warm, cold and layers, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Measure everything this often.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// The image, a name of a file in tests/images.
    #[arg(long, default_value = Recipe::DEMO)]
    image: String,
    /// What of the image's content stays together in one of many layers.
    #[arg(long, value_enum, default_value_t)]
    split_by: split::By,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Where the images' builds are kept.
    #[arg(long, default_value = "target/images")]
    cache: PathBuf,
    /// Where the result goes, as `layerfs.json` and `layerfs.md`.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    report: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // As the daemon does, whose mounts this process imitates.
    jaunt_layerfs::fuse::spare_buffers();
    program::run("bench-layerfs", &[], || run(&options))
}

fn run(options: &Options) -> Result<()> {
    let progress = if options.json { Progress::to_stderr() } else { Progress::start() };
    let bench = Bench { options, progress: &progress };
    let report = Report {
        rounds: options.rounds.into(),
        cores: thread::available_parallelism().at("the number of processors")?.get(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        commit: revision(),
        figures: bench.measure()?,
    };
    files::write(&options.report.join("layerfs.md"), report.to_string().as_bytes())?;
    files::write_json(&options.report.join("layerfs.json"), &report)?;
    if options.json {
        println!("{}", files::json(&report)?);
    } else {
        println!("\n{report}\nThe same as Markdown and JSON in {}", options.report.display());
    }
    match report.missed() {
        0 => Ok(()),
        missed => Err(Error::unexpected("the file system", format!("{missed} rows miss their bar"))),
    }
}

struct Bench<'b> {
    options: &'b Options,
    progress: &'b Progress,
}

impl Bench<'_> {
    fn measure(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        let scratch = Scratch::new()?;
        if self.wants(Part::Chain) {
            self.progress.say("mounting a chain of 50,000 entries");
            figures.extend(chain::measure(&scratch.dir("chain")?)?);
        }
        if self.wants(Part::Network) {
            let network = Network::new(&scratch.dir("network")?, Cut { files: 1, layers: 1 })?;
            for micros in ROUND_TRIPS {
                self.progress.say(&format!("cold network, {} ms", micros as f64 / 1000.0));
                figures.extend(network.measure(Duration::from_micros(micros), self.rounds())?);
            }
        }
        // They are none of the rows that can be chosen.
        if self.wants(Part::Layers) && self.options.rows.is_empty() {
            figures.extend(self.layers_taken_apart(&scratch)?);
        }
        if [Part::Warm, Part::Cold, Part::Memory, Part::Layers].into_iter().any(|part| self.wants(part)) {
            figures.extend(self.of_an_image(&scratch)?);
        }
        Ok(figures)
    }

    /// One layer against many, of what runs in this process: a mount, and reads over a network.
    fn layers_taken_apart(&self, scratch: &Scratch) -> Result<Vec<Figure>> {
        self.progress.say(&format!("mounting 50,000 entries in 1 and {MANY} layers"));
        let mut figures = chain::beside_one(&scratch.dir("chains")?, MANY)?;
        let network = |name, layers| Network::new(&scratch.dir(name)?, Cut { files: MANY, layers });
        let (one, many) = (network("network-one", 1)?, network("network-many", MANY)?);
        for micros in ROUND_TRIPS {
            let millis = micros as f64 / 1000.0;
            self.progress.say(&format!("cold network, {millis} ms, 1 and {MANY} layers"));
            figures.extend(one.beside(&many, Duration::from_micros(micros), self.rounds())?);
        }
        Ok(figures)
    }

    /// What is measured of a real image, beside what containerd unpacks on the disk of the scratch directory.
    fn of_an_image(&self, scratch: &Scratch) -> Result<Vec<Figure>> {
        let (binaries, registry) = (Binaries::find()?, Registry::local(scratch)?);
        let recipe = Recipe::named(&self.options.image)?;
        let subject = Subject::build(scratch, &registry, &recipe, &self.options.cache, self.progress)?;
        self.progress.say("converting it, and unpacking it with overlayfs");
        binaries.convert(scratch, &subject.reference)?;
        let image = subject.repository();
        let unpacked = Root::unpacked(scratch, &registry, image)?;
        let paths = Paths::below(unpacked.path())?;
        let ext4 = Place { name: "ext4".to_owned(), root: unpacked.path().to_owned() };
        let mut figures = Vec::new();
        if self.wants(Part::Memory) {
            figures.push(self.memory(&binaries, &registry, image, &paths)?);
        }
        if self.wants(Part::Warm) || self.wants(Part::Cold) {
            let (lazy_scratch, complete_scratch) = (Scratch::new()?, Scratch::new()?);
            let lazy = Root::lazy(&lazy_scratch, &binaries, &registry, image, STREAMING)?;
            let streaming = Place { name: "streaming".to_owned(), root: lazy.path().to_owned() };
            self.progress.say("completing it");
            let whole = Root::complete(&complete_scratch, &binaries, &registry, image)?;
            let complete = Place { name: "complete".to_owned(), root: whole.path().to_owned() };
            figures.extend(self.beside(&[ext4, streaming, complete], &paths)?);
        }
        if self.wants(Part::Layers) {
            figures.extend(self.layers((scratch, &binaries), &registry, unpacked.path(), &paths)?);
        }
        Ok(figures)
    }

    fn beside(&self, places: &[Place], paths: &Paths) -> Result<Vec<Figure>> {
        self.progress.say("having everything fetched");
        places.iter().try_for_each(|place| Row::Tar.run(&place.root, paths, Cache::Warm).map(drop))?;
        let mut figures = Vec::new();
        if self.wants(Part::Warm) {
            let table = "Warm: speed beside ext4's";
            figures.extend(self.paired(table, places, paths, Cache::Warm, Bar::AtLeast(0.95))?);
        }
        if self.wants(Part::Cold) {
            let table = "Cold page cache, spans local: time beside ext4's";
            figures.extend(self.paired(table, places, paths, Cache::Cold, Bar::AtMost(1.25))?);
        }
        Ok(figures)
    }

    /// One layer against many, both warm and cold.
    fn layers(
        &self,
        (scratch, binaries): (&Scratch, &Binaries),
        registry: &Registry,
        tree: &Path,
        paths: &Paths,
    ) -> Result<Vec<Figure>> {
        self.progress.say(&format!("cutting its content into 1 and {MANY} layers"));
        for (name, layers) in [("one", 1), ("many", u64::from(MANY))] {
            split::push((scratch, registry), tree, (layers, self.options.split_by), name)?;
            binaries.convert(scratch, &format!("{}/{name}:latest", registry.host()))?;
        }
        let lazy_scratch = Scratch::new()?;
        let one = Root::lazy(&lazy_scratch, binaries, registry, "one", STREAMING)?;
        let many = one.beside(registry, "many")?;
        let places = [
            Place { name: many::place(1), root: one.path().to_owned() },
            Place { name: many::place(MANY), root: many.point().to_owned() },
        ];
        let tables = [
            "Many layers, warm: time beside one layer's",
            "Many layers, cold page cache: time beside one layer's",
        ];
        let mut figures = self.one_and_many(tables, &places, paths)?;
        drop((places, many, one));
        self.progress.say("completing both");
        let scratches = [Scratch::new()?, Scratch::new()?];
        let whole = |scratch, name| Root::complete(scratch, binaries, registry, name);
        let (one, many) = (whole(&scratches[0], "one")?, whole(&scratches[1], "many")?);
        let places = [
            Place { name: many::place(1), root: one.path().to_owned() },
            Place { name: many::place(MANY), root: many.path().to_owned() },
        ];
        let tables = [
            "Many layers, complete, warm: time beside one layer's",
            "Many layers, complete, cold page cache: time beside one layer's",
        ];
        figures.extend(self.one_and_many(tables, &places, paths)?);
        Ok(figures)
    }

    fn one_and_many(
        &self,
        [warm, cold]: [&'static str; 2],
        places: &[Place],
        paths: &Paths,
    ) -> Result<Vec<Figure>> {
        places.iter().try_for_each(|place| Row::Tar.run(&place.root, paths, Cache::Warm).map(drop))?;
        let mut figures = self.paired(warm, places, paths, Cache::Warm, many::BAR)?;
        figures.extend(self.paired(cold, places, paths, Cache::Cold, many::BAR)?);
        Ok(figures)
    }

    fn paired(
        &self,
        table: &'static str,
        places: &[Place],
        paths: &Paths,
        cache: Cache,
        bar: Bar,
    ) -> Result<Vec<Figure>> {
        let mut rows = paths.rows();
        rows.retain(|row| self.options.rows.is_empty() || self.options.rows.contains(row));
        let (rounds, progress) = (self.rounds(), self.progress);
        Paired { table, places, paths, rows: &rows, rounds, cache, bar, progress }.measure()
    }

    /// The most that a worker holds while everything is fetched by several readers.
    fn memory(&self, binaries: &Binaries, registry: &Registry, image: &str, paths: &Paths) -> Result<Figure> {
        self.progress.say("watching the worker's memory while everything is fetched");
        let scratch = Scratch::new()?;
        let root = Root::lazy(&scratch, binaries, registry, image, STREAMING)?;
        let worker = root.node.jaunt.as_ref().and_then(|jaunt| jaunt.worker());
        let watch = Watch::on(worker.ok_or_else(|| Error::unexpected("the daemon", "has no worker"))?);
        let path = root.path();
        thread::scope(|scope| {
            let rows = [Row::Tar, Row::Sequential, Row::Random, Row::Mmap, Row::Find];
            let run = |row: Row| scope.spawn(move || row.run(path, paths, Cache::Warm).map(drop));
            let all: Vec<_> = rows.into_iter().map(run).collect();
            all.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::unexpected("a reader", "panicked")))
            })
        })?;
        Ok(Figure {
            table: "The worker's memory",
            row: "everything fetched by five readers at once".to_owned(),
            place: "one mount".to_owned(),
            value: Stat::of([watch.most().resident as f64 / f64::from(1 << 20)]),
            unit: "MiB",
            ratio: None,
            bar: Some(Bar::AtMost(68.0)),
        })
    }

    fn wants(&self, part: Part) -> bool {
        self.options.parts.is_empty() || self.options.parts.contains(&part)
    }

    fn rounds(&self) -> usize {
        self.options.rounds.into()
    }
}
