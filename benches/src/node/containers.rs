//! Containers of one image, all started at once and kept until all of them run.

use std::time::{Duration, Instant};

use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::run;
use jaunt_tests::{Binaries, Node, Readiness, Scratch};
use serde::Serialize;

use super::Spread;
use crate::cold::cost::Cost;

/// A container that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);
/// What each runs: it reads what Python takes to start, and stays.
const COMMAND: [&str; 3] =
    ["python3", "-c", "import json, time; print('ready', flush=True); time.sleep(3600)"];

/// What became of a crowd of containers. Field names are keys of the JSON, and stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Containers {
    /// From the common start until each was ready.
    pub ready: Spread,
    /// CPU time of containerd meanwhile, without its shims.
    pub containerd_cpu_s: f64,
    /// CPU time of our daemon's processes.
    pub snapshotter_cpu_s: f64,
    /// The most memory these have had.
    pub snapshotter_peak_bytes: u64,
    /// Reads that waited for something to be fetched.
    pub misses: u64,
}

/// Starts `count` containers of `reference` at once; one that does not start is an error.
pub fn start(
    scratch: &Scratch,
    binaries: &Binaries,
    node: &Node<'_>,
    reference: &str,
    count: usize,
) -> Result<Containers> {
    let (before, begun) = (Cost::of(scratch, binaries, node)?, Instant::now());
    let one = |_| node.containerd.run_with(reference, &COMMAND);
    let mut containers = (0..count).map(one).collect::<Result<Vec<_>>>()?;
    let is_ready = Readiness::Line("ready".to_owned());
    let ready = containers.iter_mut().map(|container| container.wait_ready(&is_ready, LIMIT));
    let ready = ready.map(|when| Ok(when?.duration_since(begun))).collect::<Result<Vec<_>>>()?;
    let cost = Cost::of(scratch, binaries, node)? - before;
    let tasks = run(&mut node.containerd.ctr(&["tasks", "ls"]))?;
    let running = tasks.lines().filter(|line| line.ends_with("RUNNING")).count();
    if running != count {
        return Err(Error::unexpected("containers at once", format!("{running} run of {count}")));
    }
    containers.iter_mut().try_for_each(jaunt_tests::Container::stop)?;
    Ok(Containers {
        ready: Spread::of(ready),
        containerd_cpu_s: cost.containerd_cpu_s,
        snapshotter_cpu_s: cost.snapshotter_cpu_s,
        snapshotter_peak_bytes: cost.snapshotter_peak_bytes,
        misses: cost.misses,
    })
}
