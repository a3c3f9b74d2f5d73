//! A node with a hundred mounts: every prefix of an image of a hundred layers.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Bed, noise};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::run;
use jaunt_tests::{Node, mounts, needs_root};

const MOUNTS: usize = 100;
const LEN: usize = 30_000;
/// Views are made by so many at a time.
const MAKERS: usize = 8;
/// What a worker may hold under load: 64 MiB, and 4 MiB a mount.
const MEMORY_KIB: u64 = (64 + 4 * MOUNTS as u64) << 10;

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

#[test]
fn a_hundred_mounts_are_served_within_the_memory_that_is_promised() {
    needs_root!();
    let bed = Bed::new();
    let layers = (0..MOUNTS as u64).map(|number| {
        let name = format!("d{number}");
        layer([dir(&name, 0o755), file(format!("{name}/file"), noise(number, LEN))])
    });
    let (image, pushed) = bed.converted(layers.fold(Image::new(), Image::layer));
    let config = "[completion]\nenabled = false\n";
    let node = bed.node_with(config);
    node.pull(&pushed.reference).unwrap();
    let chains: Vec<String> = image.chain_ids().iter().map(ToString::to_string).collect();
    view_all(&node, &chains);

    let jaunt = node.jaunt.as_ref().unwrap();
    let mounted = mounts::below(&jaunt.run_dir());
    assert_eq!(mounted.len(), MOUNTS);
    let mut shown = Vec::new();
    for mount in &mounted {
        let root = mount.join("fs");
        let names = fs::read_dir(&root).unwrap().count();
        for number in 0..names as u64 {
            let read = fs::read(root.join(format!("d{number}/file"))).unwrap();
            assert!(read == noise(number, LEN), "{} of {}", number, mount.display());
        }
        shown.push(names);
    }
    shown.sort_unstable();
    assert!(shown.iter().copied().eq(1..=MOUNTS), "each prefix shows its own layers: {shown:?}");
    let held = resident_kib(jaunt.worker().unwrap());
    assert!(held <= MEMORY_KIB, "{held} KiB with {MOUNTS} mounts");
    eprintln!("{held} KiB with {MOUNTS} mounts");
}
