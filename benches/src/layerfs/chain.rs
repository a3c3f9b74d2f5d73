//! What mounting a chain of 50,000 entries takes: time, and memory that nothing else could use.

use std::fs;
use std::path::Path;
use std::time::Instant;

use jaunt_layerfs::layers::Settings;
use jaunt_tests::error::{At as _, Result};

use super::figure::{Bar, Figure};
use super::memory::Memory;
use super::served::{self, Served};
use crate::Stat;

/// Layers, directories in each and files in each of those: 50,000 entries in all.
const LAYERS: u16 = 10;
const DIRS: u64 = 50;
const FILES: u64 = 99;
/// Mounts at a time, over which memory is averaged.
const MOUNTS: usize = 20;
const TABLE: &str = "Mounting a chain of 50,000 entries";

/// Mounts it a number of times, and measures both.
pub fn measure(dir: &Path) -> Result<Vec<Figure>> {
    fs::create_dir_all(dir).at(dir)?;
    let (index, runtime) = (dir.join("index"), served::runtime()?);
    write(&index)?;
    let layers = served::node(&dir.join("store"), Settings::default())?;
    let before = Memory::of("self")?;
    let (mut seconds, mut mounts) = (Vec::new(), Vec::new());
    for number in 0..MOUNTS {
        let point = dir.join(format!("mount-{number}"));
        let begun = Instant::now();
        let mount = Served::new(&runtime, (&index, LAYERS), &point, &layers, &[])?;
        // The time counts until the kernel has had its first answer.
        fs::metadata(mount.root()).at(mount.root())?;
        seconds.push(begun.elapsed().as_secs_f64());
        mounts.push(mount);
    }
    let mounted = Memory::of("self")?.private.saturating_sub(before.private);
    let mut entries = 0;
    for mount in &mounts {
        entries = count(&mount.root())?;
    }
    let walked = Memory::of("self")?.private.saturating_sub(before.private);
    let memory = |row: String, private: u64| Figure {
        table: TABLE,
        row,
        place: format!("{MOUNTS} mounts of it"),
        value: Stat::of([private as f64 / MOUNTS as f64 / f64::from(1 << 20)]),
        unit: "MiB a mount",
        ratio: None,
        bar: Some(Bar::AtMost(4.0)),
    };
    Ok(vec![
        Figure {
            table: TABLE,
            row: "from nothing to the first answer".to_owned(),
            place: "in a process that serves".to_owned(),
            value: Stat::of(seconds.iter().map(|seconds| seconds * 1000.0)),
            unit: "ms",
            ratio: None,
            bar: Some(Bar::AtMost(15.0)),
        },
        memory("private memory, mounted".to_owned(), mounted),
        memory(format!("private memory, all {entries} entries listed"), walked),
    ])
}

fn write(index: &Path) -> Result<()> {
    let (mut layers, mut entries) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        let tar: Vec<u8> = layer.to_le_bytes().repeat(64 << 10);
        layers.push(served::layer(&tar, 16 << 10)?.0);
        let mut all = vec![served::dir(&format!("layer-{layer}"))?];
        for dir in 0..DIRS {
            let dir = format!("layer-{layer}/package-{dir:02}");
            all.push(served::dir(&dir)?);
            for file in 0..FILES {
                all.push(served::file(&format!("{dir}/module_{file:02}.cpython-311.pyc"), file * 512, 512)?);
            }
        }
        entries.push(all);
    }
    served::write_index(index, &layers, entries)
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
