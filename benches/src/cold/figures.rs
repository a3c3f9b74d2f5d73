//! What was measured of one system, over all rounds.

use serde::{Deserialize, Serialize};

use super::touched::Touched;
use super::{Case, Machine, Start, System};
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
    /// The machine that it was measured on; unknown for figures of before that was noted.
    #[serde(default)]
    pub machine: Machine,
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
    /// That beside the one of the same files in one layer (`IMAGE@1`), of the same round.
    #[serde(default)]
    pub own_beside_plain: Option<Stat>,
    /// The same as a difference.
    #[serde(default)]
    pub own_over_plain_s: Option<Stat>,
    /// Length of the boot pack that it was started with.
    #[serde(default)]
    pub pack_bytes: Option<u64>,
    /// What its starts touch, compressed.
    #[serde(default)]
    pub touched: Option<Touched>,
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
    /// One for each system that the rounds have. `plain` are the same rounds of the variant that this one is set in relation to.
    pub fn all(case: &Case, network: &str, rounds: &[Round], plain: Option<&[Round]>) -> Vec<Self> {
        let has = |system: &System| rounds.iter().any(|round| start(round, *system).is_some());
        let systems = System::ALL.into_iter().filter(has);
        systems.map(|system| Self::of(case, network, system, rounds).beside(rounds, plain)).collect()
    }

    /// The sources and the machine that it was measured of.
    pub(super) fn origin(&self) -> (&String, &Machine) {
        (&self.commit, &self.machine)
    }

    fn beside(self, rounds: &[Round], plain: Option<&[Round]>) -> Self {
        if !self.system.is_ours() || !self.system.is_cold() {
            return self;
        }
        let pairs = rounds.iter().zip(plain.unwrap_or_default());
        let pairs =
            pairs.filter_map(|(own, plain)| Some((own_s(own, self.system)?, own_s(plain, self.system)?)));
        let pairs: Vec<_> = pairs.collect();
        let relation =
            |relate: fn(&(f64, f64)) -> f64| (!pairs.is_empty()).then(|| Stat::of(pairs.iter().map(relate)));
        let own_beside_plain = relation(|(own, plain)| own / plain);
        let own_over_plain_s = relation(|(own, plain)| own - plain);
        Self { own_beside_plain, own_over_plain_s, ..self }
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
            machine: Machine::default(),
            system,
            runs: rounds.iter().filter(|round| start(round, system).is_some()).count(),
            ready_s: of(|start| start.ready_s),
            pull_s: of(|start| start.pull_s),
            beside_warm: relation(System::OverlayfsWarm, |own, warm| own / warm),
            own_s: relation(System::Null, |own, null| own - null),
            own_beside_plain: None,
            own_over_plain_s: None,
            pack_bytes: case.pack_bytes.filter(|_| system == System::JauntPacked),
            touched: case.touched.filter(|_| system == System::JauntPacked),
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

/// What a start took beyond the null snapshotter's of its round.
fn own_s(round: &Round, system: System) -> Option<f64> {
    Some(start(round, system)?.ready_s - start(round, System::Null)?.ready_s)
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
        let recipe = "an-image".to_owned();
        Case {
            subject,
            recipe,
            is_plain: false,
            probe: None,
            tree: "/nowhere".into(),
            pack_bytes: None,
            touched: None,
        }
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
        let figures = Figure::all(&case(), "1g", &[round(1.0, 3.0), round(2.0, 2.0), round(0.5, 1.0)], None);
        let systems: Vec<_> = figures.iter().map(|figure| figure.system).collect();
        assert_eq!(systems, [System::OverlayfsWarm, System::Null, System::JauntCold]);
        let jaunt = &figures[2];
        assert_eq!((jaunt.runs, jaunt.ready_s.median, jaunt.bytes.median), (3, 2.0, 7e6));
        assert_eq!(jaunt.beside_warm, Some(Stat { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(jaunt.own_s, Some(Stat { median: 0.75, min: 0.25, max: 2.25 }));
        assert_eq!((figures[0].beside_warm, jaunt.own_beside_plain), (None, None));
    }

    #[test]
    fn a_variant_is_set_in_relation_to_the_plain_one_of_its_round() {
        let (rounds, plain) = ([round(1.0, 1.75), round(2.0, 2.0)], [round(0.5, 0.75), round(1.0, 1.25)]);
        let figures = Figure::all(&case(), "1g", &rounds, Some(&plain));
        let jaunt = &figures[2];
        assert_eq!(jaunt.own_beside_plain, Some(Stat { median: 2.0, min: 0.5, max: 2.0 }));
        assert_eq!(jaunt.own_over_plain_s, Some(Stat { median: 0.5, min: -0.25, max: 0.5 }));
        assert_eq!(figures[0].own_beside_plain, None);
    }
}
