//! Images that come and go leave nothing: no mount, no descriptor, no byte on disk, no memory.
//!
//! `JAUNT_LEAK_ROUNDS=n` pulls, runs and removes that often (`make test`: a few).
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use common::{Bed, noise, runnable};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::wait_until;
use jaunt_tests::{Node, mounts, needs_root};

const LIMIT: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 6;
/// What a first use brings up for good: threads, pools, tables.
const WARM_UP: u64 = 3;
/// What memory may differ by: pages that an allocator has and does not give back.
const SLACK_KIB: u64 = 24 << 10;

/// What a node has at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    mounts: usize,
    supervisor_descriptors: usize,
    worker_descriptors: usize,
    worker_threads: usize,
    disk_files: u64,
    disk_bytes: u64,
}

fn image(round: u64) -> Image {
    let files = (0..8).map(|n| file(format!("data/{n}"), noise(round * 100 + n, 400_000)));
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755)].into_iter().chain(files)))
        .command(&["/bin/sh", "-ec", "cat /data/* | sha256sum; echo ready"])
}

fn count(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

fn on_disk(path: &Path) -> (u64, u64) {
    let Ok(stat) = fs::symlink_metadata(path) else { return (0, 0) };
    let mut held = (1, stat.blocks() * 512);
    if stat.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let (files, bytes) = on_disk(&entry.path());
            held = (held.0 + files, held.1 + bytes);
        }
    }
    held
}

fn held(node: &Node<'_>) -> Held {
    let jaunt = node.jaunt.as_ref().unwrap();
    let (supervisor, worker) = (jaunt.pid(), jaunt.worker().unwrap());
    let places =
        ["snapshots", "index", "erofs", "layers", "boot"].map(|name| on_disk(&jaunt.root().join(name)));
    Held {
        mounts: mounts::below(&jaunt.run_dir()).len(),
        supervisor_descriptors: count(&format!("/proc/{supervisor}/fd")),
        worker_descriptors: count(&format!("/proc/{worker}/fd")),
        worker_threads: count(&format!("/proc/{worker}/task")),
        disk_files: places.iter().map(|(files, _)| files).sum(),
        disk_bytes: places.iter().map(|(_, bytes)| bytes).sum(),
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn no_more_than(now: &Held, before: &Held) -> bool {
    // Threads of pools and connections come and go by themselves.
    now.mounts <= before.mounts
        && now.supervisor_descriptors <= before.supervisor_descriptors
        && now.worker_descriptors <= before.worker_descriptors + 4
        && now.worker_threads <= before.worker_threads + 4
        && now.disk_files <= before.disk_files
        && now.disk_bytes <= before.disk_bytes + (1 << 20)
}

#[test]
fn images_that_come_and_go_leave_nothing() {
    needs_root!();
    let rounds = std::env::var("JAUNT_LEAK_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let bed = Bed::new();
    let node = bed.node();
    let mut before = None;
    let mut memory = (0, 0);
    for round in 0..WARM_UP + rounds {
        // Another image each time: what is kept by content must go as well.
        let (_, pushed) = bed.converted(image(round));
        node.pull(&pushed.reference).unwrap();
        let mut container = node.containerd.run(&pushed.reference).unwrap();
        container.finish(LIMIT).unwrap();
        drop(container);
        node.containerd.remove_images().unwrap();
        let jaunt = node.jaunt.as_ref().unwrap();
        let resident = (resident_kib(jaunt.pid()), resident_kib(jaunt.worker().unwrap()));
        match &before {
            _ if round + 1 < WARM_UP => {}
            None => (before, memory) = (Some(held(&node)), resident),
            Some(before) => {
                let settled = wait_until("what was", LIMIT, || no_more_than(&held(&node), before));
                assert!(settled.is_ok(), "round {round}: {:?}, and before {before:?}", held(&node));
            }
        }
    }
    let jaunt = node.jaunt.as_ref().unwrap();
    let now = (resident_kib(jaunt.pid()), resident_kib(jaunt.worker().unwrap()));
    eprintln!(
        "{rounds} rounds: supervisor {} to {} KiB, worker {} to {} KiB",
        memory.0, now.0, memory.1, now.1
    );
    assert!(
        now.0 <= memory.0 + SLACK_KIB && now.1 <= memory.1 + SLACK_KIB,
        "{memory:?} KiB has become {now:?}"
    );
}
