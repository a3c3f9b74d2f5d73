//! Everything that was measured of many nodes, as Markdown and as JSON.

use std::fmt;

use serde::Serialize;

use super::Figure;
use crate::Stat;

/// Figures of a machine. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image's name.
    pub image: String,
    /// Its compressed layers.
    pub image_bytes: u64,
    /// Processors that all nodes and the registry share.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The sources that were measured.
    pub commit: String,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
}

impl Report {
    fn row(f: &mut fmt::Formatter<'_>, figure: &Figure) -> fmt::Result {
        let seconds = |stat: Option<Stat>| stat.map_or(String::new(), |stat| format!("{stat:.2}"));
        let number = |stat: Option<Stat>, unit: f64, digits: usize| {
            stat.map_or(String::new(), |stat| format!("{:.digits$}", stat.median / unit))
        };
        let name = match (figure.overlayfs, figure.learnt, figure.tier_bytes.is_some()) {
            (true, ..) => "overlayfs",
            (false, false, false) => "Jaunt",
            (false, false, true) => "Jaunt behind nginx",
            (false, true, false) => "Jaunt, learnt pack",
            (false, true, true) => "Jaunt, learnt pack, behind nginx",
        };
        let cells = [
            name.to_owned(),
            format!("{} ({})", figure.nodes, figure.with_containerd),
            seconds(Some(figure.containerd_ready_s)),
            seconds(Some(figure.containerd_last_s)),
            seconds(figure.mount_ready_s),
            seconds(figure.mount_last_s),
            number(Some(figure.registry_bytes), 1e6, 1),
            number(Some(figure.registry_requests), 1.0, 0),
            number(Some(figure.registry_cpu_s_a_node), 1.0, 2),
            number(figure.tier_bytes, 1e6, 1),
            number(figure.tier_requests, 1.0, 0),
            number(figure.tier_cpu_s_a_node, 1.0, 2),
        ];
        writeln!(f, "| {} |", cells.join(" | "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.figures.iter().map(|figure| figure.rounds).max().unwrap_or(0);
        let megabytes = self.image_bytes as f64 / 1e6;
        writeln!(
            f,
            "{}, {megabytes:.1} MB; seconds until ready, medians of {rounds} rounds (least-greatest); {} cores for all, Linux {}. Commit {}.",
            self.image, self.cores, self.kernel, self.commit
        )?;
        let mut gigabits: Vec<u64> = self.figures.iter().map(|figure| figure.gigabits).collect();
        gigabits.dedup();
        for gigabits in gigabits {
            writeln!(
                f,
                "\n| {gigabits} Gbit/s | nodes (with containerd) | containerd: middle | last | mount: middle | last | \
                 registry: MB in all | requests in all | CPU s a node | \
                 nginx: MB in all | requests in all | CPU s a node |\n{}",
                "|---".repeat(12) + "|"
            )?;
            let of = self.figures.iter().filter(|figure| figure.gigabits == gigabits);
            of.into_iter().try_for_each(|figure| Self::row(f, figure))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Start, Tier};
    use super::*;

    #[test]
    fn a_row_leaves_empty_what_was_not_there() {
        let start = Start {
            ready_s: vec![(Kind::Jaunt, 1.5)],
            bytes: 7_000_000,
            requests: 90,
            cpu_s: 0.25,
            tier: None,
        };
        let tier = Some(Tier { bytes: 8_000_000, requests: 91, cpu_s: 0.1 });
        let behind = Start { tier, ..start.clone() };
        let report = Report {
            image: "an-image".to_owned(),
            image_bytes: 100_000_000,
            cores: 2,
            kernel: "6.18".to_owned(),
            commit: "0123456789ab".to_owned(),
            figures: vec![
                Figure::of(1, false, std::slice::from_ref(&start)),
                Figure::of(1, false, &[behind]),
                Figure::of(1, true, &[start]),
            ],
        };
        let text = report.to_string();
        let ready = "1 (1) | 1.50 (1.50-1.50) | 1.50 (1.50-1.50) |  |  | 7.0 | 90 | 0.25";
        assert!(text.contains(&format!("| Jaunt | {ready} |  |  |  |")), "{text}");
        assert!(text.contains(&format!("| Jaunt behind nginx | {ready} | 8.0 | 91 | 0.10 |")), "{text}");
        assert!(text.contains(&format!("| Jaunt, learnt pack | {ready} |  |  |  |")), "{text}");
        assert!(text.contains("Commit 0123456789ab."), "{text}");
        assert_eq!(text.matches("| 1 Gbit/s |").count(), 1);
        assert!(text.contains("| registry: MB in all | requests in all | CPU s a node | nginx: MB in all |"));
    }
}
