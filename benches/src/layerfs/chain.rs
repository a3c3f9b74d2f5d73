//! What mounting a chain of 50,000 entries takes: time, and memory that nothing else could use. The entries are the
//! same in however many layers they lie.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jaunt_formats::Entry;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_tests::error::{At as _, Error, Result};
use tokio::runtime::Runtime;

use super::figure::{Bar, Figure};
use super::many::{self, Beside};
use super::memory::Memory;
use super::served::{self, Served};
use crate::Stat;

/// Groups of directories, directories in each and files in each of those: 50,000 entries in all.
const GROUPS: u64 = 10;
const DIRS: u64 = 50;
const FILES: u64 = 99;
/// Bytes of a file, whose content others of its layer have as well.
const FILE: u64 = 512;
/// Bytes of tar of all layers together, and of a span.
const CONTENT: usize = 1280 << 10;
const SPAN: usize = 16 << 10;
/// Layers of the chain that is measured by itself.
const LAYERS: u16 = 10;
/// Mounts at a time, over which memory is averaged.
const MOUNTS: usize = 20;
/// Mounts of one layer, and of many, in turn: as many entries known to the kernel as of those.
const PAIRS: usize = MOUNTS / 2;
/// A mount's threads have begun after this time.
const SETTLED: Duration = Duration::from_millis(10);
const TABLE: &str = "Mounting a chain of 50,000 entries";
const FIRST: &str = "from nothing to the first answer";

/// Mounts it a number of times, and measures both.
pub fn measure(dir: &Path) -> Result<Vec<Figure>> {
    let runtime = served::runtime()?;
    let mut chain = Chain::new(&runtime, dir, LAYERS)?;
    let (seconds, mounted) = grown(|| (0..MOUNTS).map(|_| chain.mount()).collect::<Result<Vec<f64>>>())?;
    let (entries, listed) = grown(|| chain.mounts.iter().try_fold(0, |_, mount| count(&mount.root())))?;
    let memory = |row: String, bytes: f64| Figure {
        table: TABLE,
        row,
        place: format!("{MOUNTS} mounts of it"),
        value: Stat::of([bytes / MOUNTS as f64 / f64::from(1 << 20)]),
        unit: "MiB a mount",
        ratio: None,
        bar: Some(Bar::AtMost(4.0)),
    };
    Ok(vec![
        Figure {
            table: TABLE,
            row: FIRST.to_owned(),
            place: "in a process that serves".to_owned(),
            value: Stat::of(seconds.iter().map(|seconds| seconds * 1000.0)),
            unit: "ms",
            ratio: None,
            bar: Some(Bar::AtMost(15.0)),
        },
        memory(mounted_row(), mounted),
        memory(listed_row(entries), mounted + listed),
    ])
}

/// The same entries in one layer and in `layers`, mounted in turn, and then listed in turn.
pub fn beside_one(dir: &Path, layers: u16) -> Result<Vec<Figure>> {
    let runtime = served::runtime()?;
    let one = Chain::new(&runtime, &dir.join("one"), 1)?;
    let mut chains = [one, Chain::new(&runtime, &dir.join("many"), layers)?];
    let entries = warm_up(&mut chains)?;
    let (mut pairs, mut mounted, mut listed) = (Vec::new(), [0.0; 2], [0.0; 2]);
    for number in 0..PAIRS {
        let mut millis = [0.0; 2];
        for at in many::turn(number) {
            let (seconds, bytes) = grown(|| chains[at].mount())?;
            millis[at] = seconds * 1000.0;
            mounted[at] += bytes;
        }
        pairs.push((millis[0], millis[1]));
    }
    for number in 0..PAIRS {
        for at in many::turn(number) {
            // The first mount has been listed.
            let root = chains[at].mounts[number + 1].root();
            listed[at] += grown(|| count(&root))?.1;
        }
    }
    let beside = |row, unit, pairs: &[(f64, f64)]| {
        let table = "Many layers, mounting 50,000 entries: beside one layer";
        Beside { table, row, unit, layers }.figures(pairs)
    };
    let kib = |bytes: [f64; 2]| -> (f64, f64) { bytes.map(|bytes| bytes / PAIRS as f64 / 1024.0).into() };
    let both = [mounted[0] + listed[0], mounted[1] + listed[1]];
    let time = beside(FIRST.to_owned(), "ms", &pairs);
    let memory = beside(mounted_row(), "KiB a mount", &[kib(mounted)]);
    Ok([time, memory, beside(listed_row(entries), "KiB a mount", &[kib(both)])]
        .into_iter()
        .flatten()
        .collect())
}

fn mounted_row() -> String {
    "private memory, mounted".to_owned()
}

fn listed_row(entries: u64) -> String {
    format!("private memory, all {entries} entries listed")
}

/// Mounts and lists each once, so that what the process takes for the first one counts for none. They have so many
/// entries.
fn warm_up(chains: &mut [Chain<'_>; 2]) -> Result<u64> {
    let mut entries = [0; 2];
    for (chain, entries) in chains.iter_mut().zip(&mut entries) {
        chain.mount()?;
        *entries = count(&chain.mounts[0].root())?;
    }
    match entries {
        [one, many] if one == many => Ok(one),
        [one, many] => Err(Error::unexpected("many layers", format!("have {many} entries, one has {one}"))),
    }
}

/// What `work` gives, and the bytes of private memory that this process has then and had not before.
fn grown<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = Memory::of("self")?.private as f64;
    let done = work()?;
    thread::sleep(SETTLED);
    Ok((done, Memory::of("self")?.private as f64 - before))
}

/// A chain, and its mounts.
struct Chain<'r> {
    // Gone before what they are of.
    mounts: Vec<Served>,
    layers: Layers,
    runtime: &'r Runtime,
    dir: PathBuf,
    count: u16,
}

impl<'r> Chain<'r> {
    /// Of so many layers, below `dir`.
    fn new(runtime: &'r Runtime, dir: &Path, count: u16) -> Result<Self> {
        fs::create_dir_all(dir).at(dir)?;
        write(&dir.join("index"), count)?;
        let layers = served::node(&dir.join("store"), Settings::default())?;
        Ok(Self { mounts: Vec::new(), layers, runtime, dir: dir.to_owned(), count })
    }

    /// Mounts it once more, and tells the seconds until the kernel has had its first answer.
    fn mount(&mut self) -> Result<f64> {
        let point = self.dir.join(format!("mount-{}", self.mounts.len()));
        let (index, begun) = (self.dir.join("index"), Instant::now());
        let mount = Served::new(self.runtime, (&index, self.count), &point, &self.layers, &[])?;
        fs::metadata(mount.root()).at(mount.root())?;
        let seconds = begun.elapsed().as_secs_f64();
        self.mounts.push(mount);
        Ok(seconds)
    }
}

fn write(index: &Path, count: u16) -> Result<()> {
    let (mut layers, mut entries) = (Vec::new(), Vec::new());
    let len = CONTENT / usize::from(count);
    for layer in 0..count {
        let tar: Vec<u8> = layer.to_le_bytes().into_iter().cycle().take(len).collect();
        layers.push(served::layer(&tar, SPAN)?.0);
        entries.push(entries_of(layer.into(), count.into(), len as u64)?);
    }
    served::write_index(index, &layers, entries)
}

/// What the layer of that number has, of `count` that have `len` bytes each: its part of the directories with their files,
/// and the directories of their groups, as images have those in every layer.
fn entries_of(layer: u64, count: u64, len: u64) -> Result<Vec<Entry>> {
    let (mut all, mut last) = (Vec::new(), None);
    for dir in (0..GROUPS * DIRS).filter(|dir| dir * count / (GROUPS * DIRS) == layer) {
        let group = format!("group-{}", dir / DIRS);
        if last.replace(dir / DIRS) != Some(dir / DIRS) {
            all.push(served::dir(&group)?);
        }
        let package = format!("{group}/package-{:02}", dir % DIRS);
        all.push(served::dir(&package)?);
        for file in 0..FILES {
            let path = format!("{package}/module_{file:02}.cpython-311.pyc");
            all.push(served::file(&path, file * FILE % (len - len % FILE), FILE)?);
        }
    }
    Ok(all)
}

fn count(dir: &Path) -> Result<u64> {
    let mut entries = 0;
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let below = if entry.file_type().at(dir)?.is_dir() { count(&entry.path())? } else { 0 };
        entries += 1 + below;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn layers_have_the_same_entries_between_them_however_many_they_are() {
        let paths = |count: u64| -> HashSet<String> {
            let len = CONTENT as u64 / count;
            let layers = (0..count).map(|layer| entries_of(layer, count, len).unwrap());
            let layers: Vec<Vec<Entry>> = layers.collect();
            assert!(layers.iter().all(|layer| layer.len() > 2));
            layers.iter().flatten().map(|entry| entry.path.to_string()).collect()
        };
        let one = paths(1);
        assert_eq!(one.len() as u64, GROUPS * (1 + DIRS * (1 + FILES)));
        assert_eq!(one, paths(u64::from(LAYERS)));
        assert_eq!(one, paths(64));
    }
}
