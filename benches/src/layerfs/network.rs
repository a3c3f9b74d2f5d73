//! Reading what is not there yet, over a line with a round trip.
//!
//! A sequential read is compared with what nobody could do better: the slower one of the line itself and the same
//! mount with the compressed spans in memory. A miss of 4 KiB is compared with asking for the same span's bytes
//! with nothing around it, on a connection that is open, and decoding them. The same content in many layers is compared
//! with that in one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jaunt_distribution::{Client, ClientConfig, Repository};
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::{Digest, Entry};
use jaunt_layerfs::layers::Settings;
use jaunt_layerfs::source::{MemorySource, RegistrySource, Source};
use jaunt_layerfs::verify::verify;
use jaunt_tests::Dice;
use jaunt_tests::error::{At as _, Error, Result};
use rustix::fs::Advice;
use tokio::runtime::Runtime;

use super::figure::{Bar, Figure};
use super::many::{self, Beside};
use super::served::{self, Served, wrong};
use crate::Stat;
use crate::blob_server::{Asker, BlobServer};
use crate::delay::{DelayProxy, Length};

/// Bytes of tar a span, as the converter cuts them.
const SPAN: usize = 512 << 10;
/// Spans of all that is read.
const SPANS: usize = 256;
/// Misses lie so many spans apart: what lies around two near ones would be fetched as well.
const APART: usize = 16;
/// 1 Gbit/s.
const RATE: u64 = 125_000_000;
const NAME: &str = "large";
const READ: &str = "sequential read";
const MISS: &str = "miss of 4 KiB";

/// How the content is cut: into as many files, and these into as many layers. `SPANS` is a multiple of both, and the
/// files are a multiple of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Files.
    pub files: u16,
    /// Layers.
    pub layers: u16,
}

/// What every measurement of the network needs.
pub struct Network {
    dir: PathBuf,
    index: PathBuf,
    runtime: Runtime,
    cut: Cut,
    layers: Vec<LaunchLayer>,
    blobs: Vec<(Digest, Bytes)>,
    server: BlobServer,
}

impl Network {
    /// Below `dir`.
    pub fn new(dir: &Path, cut: Cut) -> Result<Self> {
        fs::create_dir_all(dir).at(dir)?;
        let (mut layers, mut blobs, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let tar = half_random(SPANS * SPAN);
        for (number, tar) in tar.chunks(cut.spans_of_layer() * SPAN).enumerate() {
            let (layer, blob) = served::layer(tar, SPAN)?;
            blobs.push((layer.converted.digest, blob));
            layers.push(layer);
            entries.push(cut.entries(number)?);
        }
        let index = dir.join("index");
        served::write_index(&index, &layers, entries)?;
        let server = BlobServer::start(blobs.iter().cloned()).at(dir)?;
        Ok(Self { dir: dir.to_owned(), index, runtime: served::runtime()?, cut, layers, blobs, server })
    }

    /// Both rows at that round trip.
    pub fn measure(&self, round_trip: Duration, rounds: usize) -> Result<Vec<Figure>> {
        let proxy = self.proxy(round_trip)?;
        let (mut sequential, mut misses) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let in_memory = self.read_all(Arc::new(MemorySource::new(self.blobs.iter().cloned())))?;
            sequential.push((self.read_all(self.registry(&proxy)?)?, in_memory));
            misses.extend(self.misses(&proxy)?);
        }
        Ok(self.figures(round_trip, &sequential, &misses))
    }

    /// Both rows of the same files in one layer, and in those of `many`, in turn.
    pub fn beside(&self, many: &Self, round_trip: Duration, rounds: usize) -> Result<Vec<Figure>> {
        let sides = [(self, self.proxy(round_trip)?), (many, many.proxy(round_trip)?)];
        let (mut sequential, mut misses) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (mut read, mut missed) = ([0.0; 2], [Vec::new(), Vec::new()]);
            for at in many::turn(round) {
                let (network, proxy) = &sides[at];
                read[at] = network.read_all(network.registry(proxy)?)? * 1000.0;
                missed[at] = network.misses(proxy)?;
            }
            sequential.push((read[0], read[1]));
            let [one, many] = missed.map(|misses| misses.into_iter().map(|(read, _)| read * 1000.0));
            misses.extend(one.zip(many));
        }
        let figures = |name, pairs: &[(f64, f64)]| {
            let table = "Many layers, cold network, 1 Gbit/s: time beside one layer's";
            let (row, layers) = (row(name, round_trip), many.cut.layers);
            Beside { table, row, unit: "ms", layers }.figures(pairs)
        };
        Ok([figures(READ, &sequential), figures(MISS, &misses)].into_iter().flatten().collect())
    }

    fn figures(&self, round_trip: Duration, sequential: &[(f64, f64)], misses: &[(f64, f64)]) -> Vec<Figure> {
        let compressed: usize = self.blobs.iter().map(|(_, blob)| blob.len()).sum();
        let line = compressed as f64 / RATE as f64;
        let mib = (SPANS * SPAN) as f64 / f64::from(1 << 20);
        let figure = |name: &str, place: String, value, unit, ratio, bar| Figure {
            table: "Cold network, 1 Gbit/s",
            row: row(name, round_trip),
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
        vec![
            figure(READ, "the line".to_owned(), Stat::of([mib / line]), "MiB/s", None, None),
            figure(
                READ,
                "spans in memory".to_owned(),
                rate(&mut sequential.iter().map(|(_, memory)| *memory)),
                "MiB/s",
                None,
                None,
            ),
            figure(
                READ,
                "streaming".to_owned(),
                rate(&mut sequential.iter().map(|(read, _)| *read)),
                "MiB/s",
                Some(Stat::of(of_best)),
                Some(Bar::AtLeast(0.9)),
            ),
            figure(
                MISS,
                "round trip, transfer and decoding alone".to_owned(),
                ms(&mut misses.iter().map(|(_, alone)| *alone)),
                "ms",
                None,
                None,
            ),
            figure(
                MISS,
                "streaming".to_owned(),
                ms(&mut misses.iter().map(|(read, _)| *read)),
                "ms",
                Some(Stat::of(of_alone)),
                Some(Bar::AtMost(1.3)),
            ),
        ]
    }

    fn proxy(&self, round_trip: Duration) -> Result<DelayProxy> {
        let length = Length { round_trip, rate: Some(RATE) };
        DelayProxy::start(self.server.address(), length).at(&self.dir)
    }

    fn registry(&self, proxy: &DelayProxy) -> Result<Arc<dyn Source>> {
        let name = format!("{}/bench", proxy.address());
        let repository: Repository = name.parse().map_err(|error| wrong(Path::new(&name), &error))?;
        let client = Client::new(ClientConfig::default()).map_err(|error| wrong(Path::new(&name), &error))?;
        Ok(Arc::new(RegistrySource::new(client, repository)))
    }

    /// Mounts with nothing on disk, and does something to the files there are.
    fn mounted<T>(&self, source: Arc<dyn Source>, work: impl FnOnce(&[File]) -> Result<T>) -> Result<T> {
        let store = self.dir.join("store");
        let layers = served::node(&store, Settings::default())?;
        let chain = (&*self.index, self.cut.layers);
        let mount = Served::new(&self.runtime, chain, &self.dir.join("mount"), &layers, &[source])?;
        let open = |number| {
            let path = mount.root().join(name(number));
            File::open(&path).at(&path)
        };
        let files = (0..usize::from(self.cut.files)).map(open).collect::<Result<Vec<File>>>();
        let done = files.and_then(|files| work(&files));
        drop((mount, layers));
        fs::remove_dir_all(&store).at(&store)?;
        done
    }

    /// The seconds it takes from the first byte to the last.
    fn read_all(&self, source: Arc<dyn Source>) -> Result<f64> {
        self.mounted(source, |files| {
            let (mut buffer, begun) = (vec![0; 1 << 20], Instant::now());
            for file in files {
                let mut at = 0;
                while at < self.cut.file_len() {
                    match file.read_at(&mut buffer, at).at(NAME)? {
                        0 => return Err(Error::unexpected(NAME, "ends early")),
                        len => at += len as u64,
                    }
                }
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }

    /// The seconds of each miss, and those of the same span with nothing around it.
    fn misses(&self, proxy: &DelayProxy) -> Result<Vec<(f64, f64)>> {
        let mut asker = Asker::connect(proxy.address()).at(NAME)?;
        self.mounted(self.registry(proxy)?, |files| {
            files.iter().try_for_each(|file| rustix::fs::fadvise(file, 0, None, Advice::Random)).at(NAME)?;
            let mut pairs = Vec::new();
            for number in (0..SPANS).step_by(APART) {
                let alone = self.alone(&mut asker, number)?;
                let (file, offset) = self.cut.place(number);
                let (mut page, begun) = ([0; 4096], Instant::now());
                files[file].read_exact_at(&mut page, offset + SPAN as u64 / 2).at(NAME)?;
                pairs.push((begun.elapsed().as_secs_f64(), alone));
            }
            // The first opens the connection, which the comparison has open.
            Ok(pairs.split_off(1))
        })
    }

    /// The seconds of the span of that number with nothing around it.
    fn alone(&self, asker: &mut Asker, number: usize) -> Result<f64> {
        let layer = &self.layers[number / self.cut.spans_of_layer()];
        let span = &layer.spans[number % self.cut.spans_of_layer()];
        let begun = Instant::now();
        let compressed = asker.get(&layer.converted.digest, &span.blob_range()).at(NAME)?;
        verify(span, layer.scope, &compressed).map_err(|error| wrong(Path::new(NAME), &error))?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

impl Cut {
    fn spans_of_layer(self) -> usize {
        SPANS / usize::from(self.layers)
    }

    fn spans_of_file(self) -> usize {
        SPANS / usize::from(self.files)
    }

    fn file_len(self) -> u64 {
        (self.spans_of_file() * SPAN) as u64
    }

    /// The files of a layer, one after the other.
    fn entries(self, layer: usize) -> Result<Vec<Entry>> {
        let each = usize::from(self.files / self.layers);
        let file =
            |at: usize| served::file(&name(layer * each + at), at as u64 * self.file_len(), self.file_len());
        (0..each).map(file).collect()
    }

    /// The file that a span of all lies in, and where in that it begins.
    fn place(self, span: usize) -> (usize, u64) {
        (span / self.spans_of_file(), (span % self.spans_of_file() * SPAN) as u64)
    }
}

fn name(file: usize) -> String {
    format!("{NAME}-{file:02}")
}

fn row(name: &str, round_trip: Duration) -> String {
    format!("{name}, {} ms of round trip", round_trip.as_secs_f64() * 1000.0)
}

/// Bytes of which half is chance: they compress to half.
fn half_random(len: usize) -> Vec<u8> {
    let mut dice = Dice::new(1);
    (0..len / 8).flat_map(|_| (dice.roll() & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use jaunt_formats::{Content, EntryKind};

    use super::*;

    #[test]
    fn a_span_lies_in_the_same_file_however_many_layers_there_are() {
        let (one, many) = (Cut { files: 64, layers: 1 }, Cut { files: 64, layers: 64 });
        assert_eq!((one.place(23), many.place(23)), ((5, 3 * SPAN as u64), (5, 3 * SPAN as u64)));
        assert_eq!(Cut { files: 1, layers: 1 }.place(23), (0, 23 * SPAN as u64));
        assert_eq!((one.entries(0).unwrap().len(), many.entries(63).unwrap().len()), (64, 1));
    }

    #[test]
    fn files_fill_their_layer() {
        let entries = Cut { files: 64, layers: 16 }.entries(3).unwrap();
        let ends = entries.iter().map(|entry| match &entry.kind {
            EntryKind::Regular { size, content: Content::Contiguous(offset) } => offset.0 + size,
            other => panic!("{other:?}"),
        });
        assert_eq!(ends.collect::<Vec<_>>(), [1, 2, 3, 4].map(|file| file * 4 * SPAN as u64));
        assert_eq!(entries[0].path.as_bytes(), b"large-12");
    }
}
