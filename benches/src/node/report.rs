//! What was measured of one node under load, as Markdown and as JSON.

use std::fmt;

use serde::Serialize;

use super::{Containers, Crowd, Spread};
use crate::Stat;

/// Prepare and Mounts are to be answered within this, 99 of 100.
const BAR_MS: f64 = 50.0;

/// Figures of a node. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image's name.
    pub image: String,
    /// How many layers it has.
    pub layers: usize,
    /// Processors of the machine.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// How many processes wanted a processor before the first round, over a minute.
    pub load: f64,
    /// Calls at once, round by round.
    pub crowds: Vec<Crowd>,
    /// The containers with overlayfs, everything unpacked before.
    pub overlayfs: Option<Containers>,
    /// The containers with Jaunt, pulled before and nothing of it read.
    pub jaunt: Option<Containers>,
}

impl Report {
    /// Whether 99 % of Prepare, and of Mounts, were answered within the bar.
    pub fn is_within_bar(&self) -> bool {
        let calls: [fn(&Crowd) -> Spread; 2] = [|crowd| crowd.prepare, |crowd| crowd.mounts];
        self.crowds.is_empty()
            || calls.into_iter().all(|call| self.stat(call, |of| of.p99_ms).median <= BAR_MS)
    }

    fn stat(&self, call: fn(&Crowd) -> Spread, figure: fn(Spread) -> f64) -> Stat {
        Stat::of(self.crowds.iter().map(|crowd| figure(call(crowd))))
    }

    fn call(&self, f: &mut fmt::Formatter<'_>, name: &str, spread: fn(&Crowd) -> Spread) -> fmt::Result {
        let stat = |figure| self.stat(spread, figure);
        let p99 = stat(|spread| spread.p99_ms);
        let bar = if p99.median <= BAR_MS { "within" } else { "**over**" };
        let (half, longest) = (stat(|spread| spread.p50_ms), stat(|spread| spread.max_ms));
        writeln!(f, "| {name} | {half:.1} | {p99:.1} | {longest:.1} | {bar} {BAR_MS} ms |")
    }

    fn row(f: &mut fmt::Formatter<'_>, name: &str, containers: &Containers) -> fmt::Result {
        let Spread { p50_ms, p99_ms, max_ms, .. } = containers.ready;
        writeln!(
            f,
            "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
            p50_ms / 1000.0,
            p99_ms / 1000.0,
            max_ms / 1000.0,
            containers.containerd_cpu_s,
            containers.snapshotter_cpu_s,
            containers.snapshotter_peak_bytes as f64 / 1e6,
            containers.misses
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, layers, cores, kernel, load, .. } = self;
        writeln!(f, "{image}, {layers} layers; {cores} cores, Linux {kernel}, load {load} before.")?;
        if let Some(first) = self.crowds.first() {
            let (calls, rounds) = (first.prepare.count, self.crowds.len());
            writeln!(f, "\n{calls} at once, index local, ms: medians of {rounds} rounds (least-greatest)\n")?;
            writeln!(
                f,
                "| | half within | 99 % within | all within | bar for 99 % |\n|---|---|---|---|---|"
            )?;
            self.call(f, "Prepare", |crowd| crowd.prepare)?;
            self.call(f, "Mounts", |crowd| crowd.mounts)?;
        }
        let rows = [("overlayfs, unpacked", &self.overlayfs), ("Jaunt, nothing read before", &self.jaunt)];
        let mut rows = rows.into_iter().filter_map(|(name, containers)| Some((name, containers.as_ref()?)));
        let Some(first) = rows.next() else { return Ok(()) };
        let count = first.1.ready.count;
        writeln!(f, "\n{count} containers at once, seconds from their common start until ready\n")?;
        writeln!(
            f,
            "| | half | 99 % | all | containerd CPU s | daemon CPU s | daemon MB | reads that waited |\n{}",
            "|---".repeat(8) + "|"
        )?;
        std::iter::once(first).chain(rows).try_for_each(|(name, containers)| Self::row(f, name, containers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(p99_ms: f64) -> Report {
        let spread = Spread { count: 200, p50_ms: 10.0, p99_ms, max_ms: 60.0 };
        let ready = Spread { count: 100, p50_ms: 5000.0, p99_ms: 9000.0, max_ms: 9500.0 };
        let containers = Containers {
            ready,
            containerd_cpu_s: 1.0,
            snapshotter_cpu_s: 0.5,
            snapshotter_peak_bytes: 40_000_000,
            misses: 7,
        };
        Report {
            image: "an-image".to_owned(),
            layers: 5,
            cores: 2,
            kernel: "6.18".to_owned(),
            load: 0.5,
            crowds: vec![Crowd { prepare: spread, mounts: spread }],
            overlayfs: None,
            jaunt: Some(containers),
        }
    }

    #[test]
    fn a_report_is_over_the_bar_as_soon_as_one_of_both_calls_is() {
        assert!(report(50.0).is_within_bar() && !report(50.1).is_within_bar());
        let mut of_prepare = report(40.0);
        of_prepare.crowds[0].prepare.p99_ms = 50.1;
        assert!(!of_prepare.is_within_bar());
        assert!(Report { crowds: Vec::new(), ..of_prepare }.is_within_bar(), "nothing was measured");
    }

    #[test]
    fn tables_say_whether_the_bar_is_met_and_leave_out_what_was_not_measured() {
        let text = report(40.0).to_string();
        let row = "| Prepare | 10.0 (10.0-10.0) | 40.0 (40.0-40.0) | 60.0 (60.0-60.0) | within 50 ms |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| Jaunt, nothing read before | 5.00 | 9.00 | 9.50 | 1.00 | 0.50 | 40 | 7 |"));
        assert!(!text.contains("overlayfs"), "{text}");
        assert!(report(50.1).to_string().contains("| **over** 50 ms |"));
    }
}
