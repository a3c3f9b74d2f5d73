//! What was measured of one system, over all rounds.

use serde::{Deserialize, Serialize};

use super::{Case, Start, System};
use crate::Stat;

/// A system's starts of an image over a network. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The image's name.
    pub image: String,
    /// How many layers it has.
    pub layers: usize,
    /// Their compressed bytes.
    pub image_bytes: u64,
    /// The line's name.
    pub network: String,
    /// The sources that it was measured of; empty for figures of before that was noted.
    #[serde(default)]
    pub commit: String,
    /// What was measured.
    pub system: System,
    /// How often.
    pub runs: usize,
    /// From the pull command until the container was ready.
    pub ready_s: Stat,
    /// The pull command's part of that.
    pub pull_s: Stat,
    /// Ready beside overlayfs's warm start of the same round.
    pub beside_warm: Option<Stat>,
    /// Ready after the null snapshotter's start of the same round: what is its own.
    pub own_s: Option<Stat>,
    /// Length of the boot pack that it was started with.
    #[serde(default)]
    pub pack_bytes: Option<u64>,
    /// What the link carried to the node until ready, all headers included.
    pub bytes: Stat,
    /// Requests that the registry answered until ready.
    pub requests: Stat,
    /// CPU time of the registry until ready.
    #[serde(default)]
    pub registry_cpu_s: Stat,
    /// CPU time of what makes the line long, until ready.
    #[serde(default)]
    pub line_cpu_s: Stat,
    /// CPU time of containerd.
    pub containerd_cpu_s: Stat,
    /// CPU time of our daemon.
    pub snapshotter_cpu_s: Stat,
    /// The most memory it has had since it began, resident.
    pub snapshotter_peak_bytes: Stat,
    /// Reads that waited for something to be fetched.
    pub misses: Stat,
    /// How long they waited.
    pub stalled_s: Stat,
}

/// The starts of one round.
pub type Round = Vec<(System, Start)>;

impl Figure {
    /// One for each system that the rounds have.
    pub fn all(case: &Case, network: &str, rounds: &[Round]) -> Vec<Self> {
        let has = |system: &System| rounds.iter().any(|round| start(round, *system).is_some());
        let systems = System::ALL.into_iter().filter(has);
        systems.map(|system| Self::of(case, network, system, rounds)).collect()
    }

    fn of(case: &Case, network: &str, system: System, rounds: &[Round]) -> Self {
        let of = |figure: fn(&Start) -> f64| {
            Stat::of(rounds.iter().filter_map(|round| start(round, system)).map(figure))
        };
        let relation = |to: System, relate: fn(f64, f64) -> f64| {
            let pairs = rounds.iter().filter_map(|round| Some((start(round, system)?, start(round, to)?)));
            let all: Vec<f64> = pairs.map(|(own, other)| relate(own.ready_s, other.ready_s)).collect();
            (!all.is_empty() && system != to).then(|| Stat::of(all))
        };
        Self {
            image: case.subject.name.clone(),
            layers: case.subject.layers,
            image_bytes: case.subject.bytes,
            network: network.to_owned(),
            commit: String::new(),
            system,
            runs: rounds.iter().filter(|round| start(round, system).is_some()).count(),
            ready_s: of(|start| start.ready_s),
            pull_s: of(|start| start.pull_s),
            beside_warm: relation(System::OverlayfsWarm, |own, warm| own / warm),
            own_s: relation(System::Null, |own, null| own - null),
            pack_bytes: case.pack_bytes.filter(|_| system == System::JauntPacked),
            bytes: of(|start| start.bytes as f64),
            requests: of(|start| start.requests as f64),
            registry_cpu_s: of(|start| start.registry_cpu_s),
            line_cpu_s: of(|start| start.line_cpu_s),
            containerd_cpu_s: of(|start| start.cost.containerd_cpu_s),
            snapshotter_cpu_s: of(|start| start.cost.snapshotter_cpu_s),
            snapshotter_peak_bytes: of(|start| start.cost.snapshotter_peak_bytes as f64),
            misses: of(|start| start.cost.misses as f64),
            stalled_s: of(|start| start.cost.stalled_s),
        }
    }
}

fn start(round: &Round, system: System) -> Option<&Start> {
    round.iter().find(|(of, _)| *of == system).map(|(_, start)| start)
}

#[cfg(test)]
pub(super) mod tests {
    use jaunt_tests::Readiness;

    use super::*;
    use crate::Subject;

    pub fn case() -> Case {
        let subject = Subject {
            name: "an-image".to_owned(),
            layers: 3,
            bytes: 50_000_000,
            reference: "r.example/an-image:latest".to_owned(),
            readiness: Readiness::FirstOutput,
        };
        Case { subject, probe: None, tree: "/nowhere".into(), pack_bytes: None }
    }

    pub fn round(warm: f64, jaunt: f64) -> Round {
        let start = |ready_s| Start { ready_s, pull_s: ready_s / 2.0, bytes: 7_000_000, ..Start::default() };
        vec![
            (System::OverlayfsWarm, start(warm)),
            (System::Null, start(warm - 0.25)),
            (System::JauntCold, start(jaunt)),
        ]
    }

    #[test]
    fn relations_are_those_of_a_round() {
        let figures = Figure::all(&case(), "1g", &[round(1.0, 3.0), round(2.0, 2.0), round(0.5, 1.0)]);
        let systems: Vec<_> = figures.iter().map(|figure| figure.system).collect();
        assert_eq!(systems, [System::OverlayfsWarm, System::Null, System::JauntCold]);
        let jaunt = &figures[2];
        assert_eq!((jaunt.runs, jaunt.ready_s.median, jaunt.bytes.median), (3, 2.0, 7e6));
        assert_eq!(jaunt.beside_warm, Some(Stat { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(jaunt.own_s, Some(Stat { median: 0.75, min: 0.25, max: 2.25 }));
        assert_eq!(figures[0].beside_warm, None);
    }
}
