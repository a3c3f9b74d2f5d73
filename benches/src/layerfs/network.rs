//! Reading what is not there yet, over a line with a round trip.
//!
//! A sequential read is compared with what nobody could do better: the slower one of the line itself and the same
//! mount with the compressed spans in memory. A miss of 4 KiB is compared with asking for the same span's bytes
//! with nothing around it, on a connection that is open, and decoding them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jaunt_distribution::{Client, ClientConfig, Repository};
use jaunt_formats::Span;
use jaunt_formats::launch::LaunchLayer;
use jaunt_layerfs::layers::Settings;
use jaunt_layerfs::source::{MemorySource, RegistrySource, Source};
use jaunt_layerfs::verify::verify;
use jaunt_tests::Dice;
use jaunt_tests::error::{At as _, Error, Result};
use rustix::fs::Advice;
use tokio::runtime::Runtime;

use super::figure::{Bar, Figure};
use super::served::{self, Served, wrong};
use crate::Stat;
use crate::blob_server::{Asker, BlobServer};
use crate::delay::{DelayProxy, Length};

/// Bytes of tar a span, as the converter cuts them.
const SPAN: usize = 512 << 10;
/// Spans of the file that is read.
const SPANS: usize = 256;
/// Misses lie so many spans apart: what lies around two near ones would be fetched as well.
const APART: usize = 16;
/// 1 Gbit/s.
const RATE: u64 = 125_000_000;
const NAME: &str = "large";

/// What every measurement of the network needs.
pub struct Network {
    dir: PathBuf,
    index: PathBuf,
    runtime: Runtime,
    layer: LaunchLayer,
    blob: Bytes,
    server: BlobServer,
}

impl Network {
    /// Below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).at(dir)?;
        let tar = half_random(SPANS * SPAN);
        let (layer, blob) = served::layer(&tar, SPAN)?;
        let index = dir.join("index");
        let entries = vec![served::file(NAME, 0, tar.len() as u64)?];
        served::write_index(&index, std::slice::from_ref(&layer), vec![entries])?;
        let server = BlobServer::start(blob.clone()).at(dir)?;
        Ok(Self { dir: dir.to_owned(), index, runtime: served::runtime()?, layer, blob, server })
    }

    /// Both rows at that round trip.
    pub fn measure(&self, round_trip: Duration, rounds: usize) -> Result<Vec<Figure>> {
        let length = Length { round_trip, rate: Some(RATE) };
        let proxy = DelayProxy::start(self.server.address(), length).at(&self.dir)?;
        let (mut sequential, mut misses) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let memory: Arc<dyn Source> =
                Arc::new(MemorySource::new([(self.layer.converted.digest, self.blob.clone())]));
            let in_memory = self.read_all(memory)?;
            sequential.push((self.read_all(self.registry(&proxy)?)?, in_memory));
            misses.extend(self.misses(&proxy)?);
        }
        Ok(self.figures(round_trip, &sequential, &misses))
    }

    fn figures(&self, round_trip: Duration, sequential: &[(f64, f64)], misses: &[(f64, f64)]) -> Vec<Figure> {
        let line = self.blob.len() as f64 / RATE as f64;
        let mib = self.layer.tar_len as f64 / f64::from(1 << 20);
        let figure = |row: &str, place: String, value, unit, ratio, bar| Figure {
            table: "Cold network, 1 Gbit/s",
            row: format!("{row}, {} ms of round trip", round_trip.as_secs_f64() * 1000.0),
            place,
            value,
            unit,
            ratio,
            bar,
        };
        let rate = |seconds: &mut dyn Iterator<Item = f64>| Stat::of(seconds.map(|seconds| mib / seconds));
        let of_best = sequential.iter().map(|(read, memory)| memory.max(line) / read);
        let of_alone = misses.iter().map(|(read, alone)| read / alone);
        let ms = |seconds: &mut dyn Iterator<Item = f64>| Stat::of(seconds.map(|seconds| seconds * 1000.0));
        let read = "sequential read";
        let miss = "miss of 4 KiB";
        vec![
            figure(read, "the line".to_owned(), Stat::of([mib / line]), "MiB/s", None, None),
            figure(
                read,
                "spans in memory".to_owned(),
                rate(&mut sequential.iter().map(|(_, memory)| *memory)),
                "MiB/s",
                None,
                None,
            ),
            figure(
                read,
                "streaming".to_owned(),
                rate(&mut sequential.iter().map(|(read, _)| *read)),
                "MiB/s",
                Some(Stat::of(of_best)),
                Some(Bar::AtLeast(0.9)),
            ),
            figure(
                miss,
                "round trip, transfer and decoding alone".to_owned(),
                ms(&mut misses.iter().map(|(_, alone)| *alone)),
                "ms",
                None,
                None,
            ),
            figure(
                miss,
                "streaming".to_owned(),
                ms(&mut misses.iter().map(|(read, _)| *read)),
                "ms",
                Some(Stat::of(of_alone)),
                Some(Bar::AtMost(1.3)),
            ),
        ]
    }

    fn registry(&self, proxy: &DelayProxy) -> Result<Arc<dyn Source>> {
        let name = format!("{}/bench", proxy.address());
        let repository: Repository = name.parse().map_err(|error| wrong(Path::new(&name), &error))?;
        let client = Client::new(ClientConfig::default()).map_err(|error| wrong(Path::new(&name), &error))?;
        Ok(Arc::new(RegistrySource::new(client, repository)))
    }

    /// Mounts with nothing on disk, and does something to the one file there is.
    fn mounted<T>(&self, source: Arc<dyn Source>, work: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        let store = self.dir.join("store");
        let layers = served::node(&store, Settings::default())?;
        let mount =
            Served::new(&self.runtime, (&self.index, 1), &self.dir.join("mount"), &layers, &[source])?;
        let path = mount.root().join(NAME);
        let done = File::open(&path).at(&path).and_then(|file| work(&file));
        drop((mount, layers));
        fs::remove_dir_all(&store).at(&store)?;
        done
    }

    /// The seconds it takes from the first byte to the last.
    fn read_all(&self, source: Arc<dyn Source>) -> Result<f64> {
        self.mounted(source, |file| {
            let (mut buffer, mut at, begun) = (vec![0; 1 << 20], 0, Instant::now());
            while at < self.layer.tar_len {
                match file.read_at(&mut buffer, at).at(NAME)? {
                    0 => return Err(Error::unexpected(NAME, "ends early")),
                    len => at += len as u64,
                }
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }

    /// The seconds of each miss, and those of the same span with nothing around it.
    fn misses(&self, proxy: &DelayProxy) -> Result<Vec<(f64, f64)>> {
        let mut asker = Asker::connect(proxy.address()).at(NAME)?;
        self.mounted(self.registry(proxy)?, |file| {
            rustix::fs::fadvise(file, 0, None, Advice::Random).at(NAME)?;
            let mut pairs = Vec::new();
            for span in self.layer.spans.iter().step_by(APART) {
                let alone = self.alone(&mut asker, span)?;
                let (mut page, begun) = ([0; 4096], Instant::now());
                file.read_exact_at(&mut page, span.tar_offset.0 + SPAN as u64 / 2).at(NAME)?;
                pairs.push((begun.elapsed().as_secs_f64(), alone));
            }
            // The first opens the connection, which the comparison has open.
            Ok(pairs.split_off(1))
        })
    }

    fn alone(&self, asker: &mut Asker, span: &Span) -> Result<f64> {
        let begun = Instant::now();
        let compressed = asker.get(&span.blob_range()).at(NAME)?;
        verify(span, self.layer.scope, &compressed).map_err(|error| wrong(Path::new(NAME), &error))?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// Bytes of which half is chance: they compress to half.
fn half_random(len: usize) -> Vec<u8> {
    let mut dice = Dice::new(1);
    (0..len / 8).flat_map(|_| (dice.roll() & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes()).collect()
}
