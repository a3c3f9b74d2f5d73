//! What others take, beside what was measured here.
//!
//! Measured by hand, once, on the same machines and at 1 Gbit/s, with images of the same kinds and not the very same: they say who is ahead, and
//! not by how much.

use super::{Figure, Report, System};
use crate::Stat;

/// The network that they were measured over.
const NETWORK: &str = "1g";

/// Seconds until an image of that kind was ready.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Our image of the kind.
    image: &'static str,
    stargz: f64,
    soci: f64,
    nydus: f64,
}

const KINDS: [Kind; 5] = [
    Kind { image: "python-flask", stargz: 4.4, soci: 3.6, nydus: 2.0 },
    // The same without flask.
    Kind { image: "python-pandas", stargz: 4.4, soci: 3.6, nydus: 2.0 },
    Kind { image: "nginx", stargz: 0.65, soci: 0.93, nydus: 0.39 },
    Kind { image: "node-express", stargz: 3.1, soci: 2.5, nydus: 1.4 },
    Kind { image: "java", stargz: 1.7, soci: 1.7, nydus: 0.8 },
];
/// What is held against them.
const OURS: [System; 3] = [System::JauntCold, System::JauntConverted, System::JauntPacked];

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'r> {
    /// What was measured here.
    pub figure: &'r Figure,
    /// By whom, and theirs.
    pub others: [(&'static str, f64); 3],
}

impl Row<'_> {
    /// `yes`, or whom it is behind; by the medians.
    pub fn verdict(&self) -> String {
        let Stat { median, .. } = self.figure.ready_s;
        let behind = self.others.iter().filter(|(_, theirs)| *theirs <= median);
        let behind: Vec<&str> = behind.map(|(name, _)| *name).collect();
        if behind.is_empty() { "yes".to_owned() } else { format!("**behind {}**", behind.join(", ")) }
    }
}

/// Of every cold start of an image that others have figures of.
pub fn rows(report: &Report) -> Vec<Row<'_>> {
    let of = |kind: Kind| {
        let others = [("stargz", kind.stargz), ("soci", kind.soci), ("nydus", kind.nydus)];
        OURS.into_iter().filter_map(move |system| {
            let figure = report.figure(NETWORK, kind.image, system)?;
            Some(Row { figure, others })
        })
    };
    KINDS.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::{case, round};
    use super::*;

    #[test]
    fn a_start_is_ahead_of_all_or_says_whom_it_is_behind() {
        let mut nginx = case();
        nginx.subject.name = "nginx".to_owned();
        let mut report = Report::default();
        report.add(Figure::all(&nginx, "10g-0.5ms", &[round(0.1, 0.2)], None));
        assert!(rows(&report).is_empty());
        for (ready, verdict) in
            [(0.25, "yes"), (0.5, "**behind nydus**"), (4.0, "**behind stargz, soci, nydus**")]
        {
            report.add(Figure::all(&nginx, "1g", &[round(0.1, ready)], None));
            let rows = rows(&report);
            assert_eq!((rows.len(), rows[0].verdict().as_str()), (1, verdict));
        }
    }
}
