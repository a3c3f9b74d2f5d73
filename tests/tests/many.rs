//! A node with five hundred mounts: every prefix of five images of a hundred layers each.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Bed, noise};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::run;
use jaunt_tests::{Node, mounts, needs_root};

const IMAGES: usize = 5;
const LAYERS: usize = 100;
const MOUNTS: usize = IMAGES * LAYERS;
const LEN: usize = 30_000;
/// Views are made by so many at a time.
const MAKERS: usize = 32;
/// What a worker may hold: 64 MiB, and for each mount a sixteenth of the 4 MiB that are promised for one under load.
const MEMORY_KIB: u64 = (64 << 10) + 256 * MOUNTS as u64;

/// Makes a view of every chain, so that each is mounted.
fn view_all(node: &Node<'_>, chains: &[String]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                while let Some(chain) = chains.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let key = format!("view-{chain}");
                    let words = ["snapshots", "--snapshotter", "jaunt", "view", &key, chain];
                    run(&mut node.containerd.ctr(&words)).unwrap();
                }
            });
        }
    });
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// An image of which each layer adds one file; all content differs from that of every other image.
fn image(number: usize) -> Image {
    let layers = (0..LAYERS).map(|at| {
        let name = format!("d{at}");
        layer([dir(&name, 0o755), file(format!("{name}/file"), noise(seed(number, at), LEN))])
    });
    layers.fold(Image::new(), Image::layer)
}

fn seed(image: usize, layer: usize) -> u64 {
    (image * LAYERS + layer) as u64
}

/// Reads the first file and the last one of a mount; tells which image it is of, and how many layers it has.
fn read(mount: &Path) -> (usize, usize) {
    let root = mount.join("fs");
    let layers = fs::read_dir(&root).unwrap().count();
    let content = |layer: usize| fs::read(root.join(format!("d{layer}/file"))).unwrap();
    let first = content(0);
    let image = (0..IMAGES).find(|image| first == noise(seed(*image, 0), LEN));
    let image = image.unwrap_or_else(|| panic!("{} has content of no image", mount.display()));
    assert!(content(layers - 1) == noise(seed(image, layers - 1), LEN), "{}", mount.display());
    (image, layers)
}

#[test]
fn five_hundred_mounts_are_served_within_the_memory_that_is_promised() {
    needs_root!();
    let bed = Bed::new();
    let node = bed.node();
    let mut chains: Vec<String> = Vec::new();
    for number in 0..IMAGES {
        let image = image(number).build().unwrap();
        let pushed = image.push(&bed.registry, &format!("many-{number}"), "v1").unwrap();
        bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
        node.pull(&pushed.reference).unwrap();
        chains.extend(image.chain_ids().iter().map(ToString::to_string));
    }
    view_all(&node, &chains);

    let jaunt = node.jaunt.as_ref().unwrap();
    let mounted = mounts::below(&jaunt.run_dir());
    assert_eq!(mounted.len(), MOUNTS);
    let shown: BTreeSet<_> = mounted.iter().map(|mount| read(mount)).collect();
    let expected = (0..IMAGES).flat_map(|image| (1..=LAYERS).map(move |layers| (image, layers)));
    assert!(shown.iter().copied().eq(expected), "each prefix shows its own layers: {shown:?}");
    let held = resident_kib(jaunt.worker().unwrap());
    assert!(held <= MEMORY_KIB, "{held} KiB with {MOUNTS} mounts");
    eprintln!("{held} KiB with {MOUNTS} mounts");
}
