//! What was measured of some nodes, over all rounds.

use std::ops::Sub;

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::Stat;

/// What the caching tier did for one start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tier {
    /// Bytes that it sent, all headers included, those to the registry as well.
    pub bytes: u64,
    /// Requests that it answered.
    pub requests: u64,
    /// CPU time.
    pub cpu_s: f64,
}

/// One start on all nodes at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// Of each node, until it was ready.
    pub ready_s: Vec<(Kind, f64)>,
    /// Bytes that the registry sent, all headers included.
    pub bytes: u64,
    /// Requests that it answered.
    pub requests: u64,
    /// Its CPU time.
    pub cpu_s: f64,
    /// The tier's part, where there was one.
    pub tier: Option<Tier>,
}

/// The same setup in all rounds. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What the registry sends, Gbit/s.
    pub gigabits: u64,
    /// Whether it was nodes with overlayfs.
    pub overlayfs: bool,
    /// Whether the image had a boot pack of a start.
    pub learnt: bool,
    /// Nodes at once.
    pub nodes: usize,
    /// Those of them with containerd.
    pub with_containerd: usize,
    /// Times that all of it was done.
    pub rounds: usize,
    /// Until a node with containerd was ready: the middle one of a round.
    pub containerd_ready_s: Stat,
    /// The last one of a round.
    pub containerd_last_s: Stat,
    /// Of the nodes without, where there were any.
    pub mount_ready_s: Option<Stat>,
    /// The last one of them.
    pub mount_last_s: Option<Stat>,
    /// Bytes that the registry sent.
    pub registry_bytes: Stat,
    /// Requests that it answered.
    pub registry_requests: Stat,
    /// Its CPU time for each node.
    pub registry_cpu_s_a_node: Stat,
    /// The same of the caching tier, where there was one.
    pub tier_bytes: Option<Stat>,
    /// Requests that it answered.
    pub tier_requests: Option<Stat>,
    /// Its CPU time for each node.
    pub tier_cpu_s_a_node: Option<Stat>,
}

impl Figure {
    /// Of at least one start, of an image with a `learnt` pack or as it is converted.
    pub fn of(gigabits: u64, learnt: bool, starts: &[Start]) -> Self {
        let kinds =
            || starts.first().into_iter().flat_map(|start| start.ready_s.iter().map(|(kind, _)| *kind));
        let nodes = kinds().count();
        let stat = |figure: &dyn Fn(&Start) -> f64| Stat::of(starts.iter().map(figure));
        let tier = |figure: fn(&Tier) -> f64| {
            let figures: Vec<f64> =
                starts.iter().filter_map(|start| start.tier.as_ref().map(figure)).collect();
            (!figures.is_empty()).then(|| Stat::of(figures))
        };
        let mounts = kinds().any(|kind| kind == Kind::Mount);
        Self {
            gigabits,
            learnt,
            overlayfs: kinds().any(|kind| kind == Kind::Overlayfs),
            nodes,
            with_containerd: kinds().filter(|kind| *kind != Kind::Mount).count(),
            rounds: starts.len(),
            containerd_ready_s: stat(&|start| start.ready(false).median),
            containerd_last_s: stat(&|start| start.ready(false).max),
            mount_ready_s: mounts.then(|| stat(&|start| start.ready(true).median)),
            mount_last_s: mounts.then(|| stat(&|start| start.ready(true).max)),
            registry_bytes: stat(&|start| start.bytes as f64),
            registry_requests: stat(&|start| start.requests as f64),
            registry_cpu_s_a_node: stat(&|start| start.cpu_s / nodes as f64),
            tier_bytes: tier(|tier| tier.bytes as f64),
            tier_requests: tier(|tier| tier.requests as f64),
            tier_cpu_s_a_node: tier(|tier| tier.cpu_s).map(|stat| stat.scaled(1.0 / nodes as f64)),
        }
    }
}

impl Start {
    /// Seconds of the nodes without containerd, or of those with it.
    fn ready(&self, mounts: bool) -> Stat {
        let of = self.ready_s.iter().filter(|(kind, _)| (*kind == Kind::Mount) == mounts);
        Stat::of(of.map(|(_, seconds)| *seconds))
    }
}

/// What came after an earlier count.
impl Sub for Tier {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            requests: self.requests.saturating_sub(earlier.requests),
            cpu_s: self.cpu_s - earlier.cpu_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_and_without_containerd_are_told_apart_and_costs_are_a_nodes() {
        let start = |slow| Start {
            ready_s: vec![(Kind::Jaunt, slow), (Kind::Jaunt, 1.0), (Kind::Mount, 0.5), (Kind::Mount, 0.7)],
            bytes: 10,
            requests: 4,
            cpu_s: 2.0,
            tier: Some(Tier { bytes: 40, requests: 16, cpu_s: 1.0 }),
        };
        let figure = Figure::of(1, false, &[start(2.0), start(3.0), start(9.0)]);
        assert_eq!((figure.nodes, figure.with_containerd, figure.rounds), (4, 2, 3));
        assert_eq!(figure.containerd_last_s, Stat { median: 3.0, min: 2.0, max: 9.0 });
        assert_eq!(figure.mount_last_s.unwrap().median, 0.7);
        assert_eq!(
            (figure.registry_cpu_s_a_node.median, figure.tier_cpu_s_a_node.unwrap().median),
            (0.5, 0.25)
        );
        let alone = Start { ready_s: vec![(Kind::Overlayfs, 1.0)], ..Start::default() };
        let figure = Figure::of(1, false, &[alone]);
        assert!(figure.overlayfs && figure.mount_ready_s.is_none() && figure.tier_bytes.is_none());
    }
}
