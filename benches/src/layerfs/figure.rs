//! A figure beside its bar, and all of them as Markdown and as JSON.

use std::fmt;

use serde::Serialize;

use crate::Stat;

/// What a ratio, or where there is none the figure itself, is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// One thing that was measured. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Which table it stands in.
    pub table: &'static str,
    /// What was done.
    pub row: String,
    /// To what, and beside what.
    pub place: String,
    /// What it took.
    pub value: Stat,
    /// What that is counted in.
    pub unit: &'static str,
    /// Beside what it is compared with, round by round.
    pub ratio: Option<Stat>,
    /// What it is to be.
    pub bar: Option<Bar>,
}

/// Everything that was measured in one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Times that everything was measured.
    pub rounds: usize,
    /// Processors of the machine.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The sources that were measured.
    pub commit: String,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

impl Figure {
    /// Whether the median meets the bar; `None` without a bar.
    pub fn met(&self) -> Option<bool> {
        Some(self.bar?.is_met(self.ratio.unwrap_or(self.value).median))
    }
}

impl Report {
    /// How many figures miss their bar.
    pub fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.met() == Some(false)).count()
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, ">= {bar}"),
            Self::AtMost(bar) => write!(f, "<= {bar}"),
        }
    }
}

/// One row of a table.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, place, value, unit, ratio, bar, .. } = self;
        let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let bar = bar.map(|bar| bar.to_string()).unwrap_or_default();
        let met = self.met().map_or("", |met| if met { "yes" } else { "**no**" });
        write!(f, "| {row} | {place} | {value:.2} {unit} | {ratio} | {bar} | {met} |")
    }
}

/// Markdown tables.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, cores, kernel, commit, .. } = self;
        write!(
            f,
            "medians of {rounds} rounds (least-greatest), {cores} cores, Linux {kernel}. Commit {commit}."
        )?;
        let mut table = "";
        for figure in &self.figures {
            if figure.table != table {
                table = figure.table;
                write!(
                    f,
                    "\n\n**{table}**\n\n| | | median | ratio | bar | met |\n|---|---|---|---|---|---|"
                )?;
            }
            write!(f, "\n{figure}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(median: f64) -> Stat {
        Stat { median, min: median, max: median }
    }

    fn figure(ratio: Option<Stat>, bar: Option<Bar>) -> Figure {
        Figure {
            table: "a table",
            row: "find".to_owned(),
            place: "streaming".to_owned(),
            value: stat(30.0),
            unit: "ms",
            ratio,
            bar,
        }
    }

    fn report(figures: Vec<Figure>) -> Report {
        let (kernel, commit) = ("6.18".to_owned(), "0123456789ab".to_owned());
        Report { rounds: 3, cores: 2, kernel, commit, figures }
    }

    #[test]
    fn a_bar_is_held_against_the_ratio_where_there_is_one() {
        assert_eq!(figure(Some(stat(0.96)), Some(Bar::AtLeast(0.95))).met(), Some(true));
        assert_eq!(figure(Some(stat(1.3)), Some(Bar::AtMost(1.25))).met(), Some(false));
        assert_eq!(figure(None, Some(Bar::AtMost(15.0))).met(), Some(false));
        assert_eq!(figure(None, None).met(), None);
    }

    #[test]
    fn a_report_tells_its_sources_and_how_many_bars_are_missed() {
        let missed = figure(Some(stat(0.5)), Some(Bar::AtLeast(0.95)));
        let report = report(vec![missed, figure(None, Some(Bar::AtMost(30.0))), figure(None, None)]);
        let row = "| find | streaming | 30.00 (30.00-30.00) ms | 0.50 (0.50-0.50) | >= 0.95 | **no** |";
        assert!(report.to_string().contains(row), "{report}");
        assert!(report.to_string().contains("Linux 6.18. Commit 0123456789ab.\n"), "{report}");
        assert_eq!(report.missed(), 1);
    }
}
