//! One start: the pull command, then the run command, until the container is ready.
//!
//! *Cold* is from nothing on the node, page cache dropped. *Warm* is the same two commands again, with
//! everything present. What the registry holds is in memory both times: it is another machine, and
//! its disk is not what is measured.

use std::time::{Duration, Instant};

use jaunt_tests::error::Result;
use jaunt_tests::{Binaries, Network, Node, Registry, Scratch, cold};
use serde::Serialize;

use crate::learning::{self, NEVER_TRACED};
use crate::{Progress, Stat, Subject};

/// A start that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// The figures of one start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Until the pull command ended.
    pub pulled_s: f64,
    /// Until the container was ready.
    pub ready_s: f64,
    /// What the link carried to the node meanwhile.
    pub bytes: u64,
}

/// A cold start and the warm one after it. Keys as in the report.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Starts {
    /// Pull command to ready, from nothing.
    pub cold_ready_s: f64,
    /// The pull command's part of that.
    pub cold_pull_s: f64,
    /// Bytes the link carried to the node until ready.
    pub bytes_fetched: u64,
    /// Pull command to ready, with everything present.
    pub warm_ready_s: f64,
    /// The pull command's part of that.
    pub warm_pull_s: f64,
}

/// What starts run in.
#[derive(Debug)]
pub struct Bench<'s> {
    /// Where everything lives.
    pub scratch: &'s Scratch,
    /// The link that is measured.
    pub network: &'s Network,
    /// The registry behind it.
    pub registry: &'s Registry,
    /// The image in it.
    pub subject: &'s Subject,
    /// Where progress goes.
    pub progress: &'s Progress,
}

impl Bench<'_> {
    /// Gives the image a boot pack of one start on a node of its own.
    pub fn learn(&self, binaries: &Binaries) -> Result<()> {
        let node = Node::jaunt(self.scratch, binaries, &[self.registry.host()])?;
        let reference = &self.subject.reference;
        node.pull(reference)?;
        let mut container = node.containerd.run(reference)?;
        container.wait_ready(&self.subject.readiness, LIMIT)?;
        let to = self.scratch.path().join("trace");
        let trace = learning::take_out(self.scratch, binaries, &node, reference, to)?;
        container.stop()?;
        node.wipe()?;
        learning::optimize(self.scratch, binaries, self.registry, &[trace], reference)
    }

    /// Cold and warm on a fresh node: with our snapshotter if `binaries` are given, else with overlayfs.
    pub fn starts(&self, binaries: Option<&Binaries>) -> Result<Starts> {
        let registries = [self.registry.host()];
        let node = match binaries {
            None => Node::overlayfs(self.scratch, &registries)?,
            Some(binaries) => Node::configured(self.scratch, binaries, &registries, NEVER_TRACED)?,
        };
        let name = if binaries.is_some() { "jaunt" } else { "overlayfs" };
        cold::drop_caches()?;
        self.registry.warm()?;
        let cold = self.start(&node, name, "cold")?;
        let warm = self.start(&node, name, "warm")?;
        self.progress.say(&format!("{name}: removing everything from the node"));
        node.wipe()?;
        Ok(Starts {
            cold_ready_s: cold.ready_s,
            cold_pull_s: cold.pulled_s,
            bytes_fetched: cold.bytes,
            warm_ready_s: warm.ready_s,
            warm_pull_s: warm.pulled_s,
        })
    }

    fn start(&self, node: &Node<'_>, name: &str, kind: &str) -> Result<Start> {
        self.progress.say(&format!("{name}, {kind}: pulling and starting"));
        let received = self.network.received()?;
        let start = Instant::now();
        node.pull(&self.subject.reference)?;
        let pulled_s = start.elapsed().as_secs_f64();
        let mut container = node.containerd.run(&self.subject.reference)?;
        let ready = container.wait_ready(&self.subject.readiness, LIMIT)?;
        let bytes = self.network.received()? - received;
        let start = Start { pulled_s, ready_s: ready.duration_since(start).as_secs_f64(), bytes };
        self.say(name, kind, start);
        container.stop()?;
        Ok(start)
    }

    fn say(&self, name: &str, kind: &str, start: Start) {
        let megabytes = start.bytes as f64 / 1e6;
        self.progress.say(&format!(
            "{name}, {kind}: ready after {:.2} s (pull {:.2} s), {megabytes:.1} MB fetched",
            start.ready_s, start.pulled_s
        ));
    }
}

impl Starts {
    /// Each figure's median over several runs, of which there must be one.
    pub fn medians(runs: &[Self]) -> Option<Self> {
        let median = |figure: fn(&Self) -> f64| Stat::of(runs.iter().map(figure)).median;
        let mut bytes: Vec<u64> = runs.iter().map(|run| run.bytes_fetched).collect();
        bytes.sort_unstable();
        Some(Self {
            cold_ready_s: median(|run| run.cold_ready_s),
            cold_pull_s: median(|run| run.cold_pull_s),
            bytes_fetched: *bytes.get(bytes.len() / 2)?,
            warm_ready_s: median(|run| run.warm_ready_s),
            warm_pull_s: median(|run| run.warm_pull_s),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_figure_by_figure() {
        let run = |seconds: f64, bytes: u64| Starts {
            cold_ready_s: seconds,
            cold_pull_s: seconds / 2.0,
            bytes_fetched: bytes,
            warm_ready_s: 10.0 - seconds,
            warm_pull_s: 1.0,
        };
        let medians = Starts::medians(&[run(3.0, 1), run(1.0, 30), run(2.0, 20)]).expect("three runs");
        assert_eq!((medians.cold_ready_s, medians.warm_ready_s, medians.bytes_fetched), (2.0, 8.0, 20));
        assert!(Starts::medians(&[]).is_none());
    }
}
