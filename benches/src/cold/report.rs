//! Everything that was measured: kept as JSON, to which a further run adds, and shown as Markdown.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use jaunt_tests::error::{At as _, Error, Result};
use serde::{Deserialize, Serialize};

use super::trace::Account;
use super::{Figure, Machine, System, chart, others};
use crate::{Stat, files};

/// Starts that find nothing of the image on the node.
const COLD: [System; 4] =
    [System::OverlayfsCold, System::JauntCold, System::JauntConverted, System::JauntPacked];

/// Figures of one machine or of several. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What the latest run was on.
    #[serde(flatten)]
    pub machine: Machine,
    /// The sources that the latest run measured.
    pub commit: String,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
    /// Where the time of one cold start each went.
    pub accounts: Vec<Account>,
}

impl Report {
    /// What an earlier run has kept in `dir`, if one has.
    pub fn kept(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join("cold.json");
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(|mut kept: Self| {
                    // Those of before commits were noted cut a start's time otherwise.
                    kept.accounts.retain(|account| !account.commit.is_empty());
                    kept.fill_in_machines();
                    Some(kept)
                })
                .map_err(|error| Error::unexpected(file.display().to_string(), error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at(file),
        }
    }

    /// Figures of before machines were noted are of the one that the report names for all.
    fn fill_in_machines(&mut self) {
        let figures = self.figures.iter_mut().map(|figure| &mut figure.machine);
        let all = figures.chain(self.accounts.iter_mut().map(|account| &mut account.machine));
        all.filter(|machine| machine.is_unknown()).for_each(|machine| machine.clone_from(&self.machine));
    }

    /// Adds figures of the latest run; those of the same starts make room for them.
    pub fn add(&mut self, mut figures: Vec<Figure>) {
        for figure in &mut figures {
            figure.commit.clone_from(&self.commit);
            figure.machine.clone_from(&self.machine);
        }
        let same =
            |a: &Figure, b: &Figure| (&a.image, &a.network, a.system) == (&b.image, &b.network, b.system);
        self.figures.retain(|kept| !figures.iter().any(|new| same(kept, new)));
        self.figures.extend(figures);
        let place = |figure: &Figure| (figure.network.clone(), figure.image.clone(), figure.system);
        self.figures.sort_by_key(place);
    }

    /// Adds where the time of a start of the latest run went.
    pub fn add_account(&mut self, mut account: Account) {
        account.commit.clone_from(&self.commit);
        account.machine.clone_from(&self.machine);
        let same = |kept: &Account| (&kept.image, &kept.network) == (&account.image, &account.network);
        self.accounts.retain(|kept| !same(kept));
        self.accounts.push(account);
        self.accounts.sort_by_key(|account| (account.network.clone(), account.image.clone()));
    }

    /// Writes `cold.json`, `cold.md` and `cold.svg`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        files::write(&dir.join("cold.svg"), chart::draw(self).as_bytes())?;
        files::write(&dir.join("cold.md"), self.to_string().as_bytes())?;
        files::write_json(&dir.join("cold.json"), self)
    }

    /// The networks there are figures of.
    pub fn networks(&self) -> Vec<String> {
        distinct(self.figures.iter().map(|figure| &figure.network))
    }

    /// The images there are figures of over a network.
    pub fn images(&self, network: &str) -> Vec<String> {
        distinct(self.figures.iter().filter(|figure| figure.network == network).map(|figure| &figure.image))
    }

    pub(super) fn figure(&self, network: &str, image: &str, system: System) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.network == network && figure.image == image && figure.system == system)
    }

    /// What marks a row with figures of other sources, or of another machine, than those of the latest run.
    fn others<'c>(&self, origins: impl Iterator<Item = (&'c String, &'c Machine)> + Clone) -> String {
        let commits = origins.clone().map(|(commit, _)| commit).filter(|commit| **commit != self.commit);
        let called = |commit: String| if commit.is_empty() { "unknown".to_owned() } else { commit };
        let commits: Vec<String> = distinct(commits).into_iter().map(called).collect();
        let machines = self.other_machines(origins.map(|(_, machine)| machine));
        let marks = [("of", commits.join(", ")), ("on", machines)];
        let marks = marks.into_iter().filter(|(_, of)| !of.is_empty());
        let marks: Vec<String> = marks.map(|(word, of)| format!("{word} {of}")).collect();
        if marks.is_empty() { String::new() } else { format!(" ({})", marks.join("; ")) }
    }

    fn other_machines<'m>(&self, machines: impl Iterator<Item = &'m Machine>) -> String {
        let others = distinct(machines.filter(|machine| **machine != self.machine));
        others.iter().map(Machine::to_string).collect::<Vec<_>>().join("; ")
    }

    /// A row an image.
    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        network: &str,
        columns: &[&str],
        cells: impl Fn(&str) -> Vec<Option<String>>,
    ) -> fmt::Result {
        head(f, network, columns)?;
        self.images(network).into_iter().try_for_each(|image| {
            let figures =
                self.figures.iter().filter(|figure| figure.network == network && figure.image == image);
            let others = self.others(figures.map(Figure::origin));
            row(f, &format!("{image}{others}"), cells(&image))
        })
    }

    fn times(&self, f: &mut fmt::Formatter<'_>, network: &str) -> fmt::Result {
        let columns = System::ALL.map(System::title);
        let beside = [
            "no pack / overlayfs warm",
            "as converted",
            "learnt",
            "no pack: own, s",
            "as converted",
            "learnt",
        ];
        let columns = [&columns[..], &beside].concat();
        self.table(f, network, &columns, |image| {
            let figure = |system| self.figure(network, image, system);
            let ready = |system| figure(system).map(|figure| format!("{:.2}", figure.ready_s));
            let cold = [System::JauntCold, System::JauntConverted, System::JauntPacked].map(figure);
            let ratio = |cold: Option<&Figure>| {
                cold.and_then(|cold| cold.beside_warm).map(|ratio| format!("{ratio:.2}"))
            };
            let own = |cold: Option<&Figure>| cold.and_then(|cold| cold.own_s).map(|own| format!("{own:.3}"));
            System::ALL.into_iter().map(ready).chain(cold.map(ratio)).chain(cold.map(own)).collect()
        })
    }

    /// Our own part of variants, beside that of the same files in one layer.
    fn variants(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let related = |figure: &&Figure| figure.own_beside_plain.is_some();
        let mut related = self.figures.iter().filter(related).peekable();
        if related.peek().is_none() {
            return Ok(());
        }
        writeln!(
            f,
            "\nWhat is left of variants' starts without null, beside the same files in one layer, round by round:"
        )?;
        head(f, "variant", &["network", "layers", "rounds", "own, s", "beside one layer", "difference, s"])?;
        related.try_for_each(|figure| {
            let stat = |stat: Option<Stat>| stat.map(|stat| format!("{stat:.3}"));
            let cells = vec![
                Some(figure.network.clone()),
                Some(figure.layers.to_string()),
                Some(figure.runs.to_string()),
                stat(figure.own_s),
                stat(figure.own_beside_plain),
                stat(figure.own_over_plain_s),
            ];
            let others = self.others(std::iter::once(figure.origin()));
            row(f, &format!("{}: {}{others}", figure.image, figure.system.title()), cells)
        })
    }

    /// Where ours stand beside others.
    fn beside_others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = others::rows(self);
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\nSeconds until ready, beside what others took with images of the same kinds, measured by hand:"
        )?;
        head(f, "1g", &["ready", "stargz", "soci", "nydus", "ahead of all three"])?;
        rows.iter().try_for_each(|beside| {
            let Figure { image, system, ready_s, .. } = beside.figure;
            let theirs = beside.others.iter().map(|(_, seconds)| seconds.to_string());
            let cells = [format!("{ready_s:.2}")].into_iter().chain(theirs).chain([beside.verdict()]);
            let others = self.others(std::iter::once(beside.figure.origin()));
            row(f, &format!("{image}: {}{others}", system.title()), cells.map(Some).collect())
        })
    }

    fn times_of_one(&self, f: &mut fmt::Formatter<'_>, network: &str) -> fmt::Result {
        let columns = [
            "ready, ms",
            "pull",
            "of it resolving",
            "run to started",
            "while reads waited",
            "started, none waited",
            "boot pack",
            "pushing it",
            "daemon's answers, in all",
            "reads",
            "reads that waited",
            "ranges fetched",
            "pusher, MB",
        ];
        head(f, network, &columns)?;
        for account in self.accounts.iter().filter(|account| account.network == network) {
            let ms = |seconds: f64| Some(format!("{:.0}", seconds * 1000.0));
            let cells = vec![
                ms(account.ready_s),
                ms(account.pull_s),
                ms(account.resolve_s),
                ms(account.create_s),
                ms(account.stalled_s),
                ms(account.running_s),
                ms(account.pack_s).filter(|_| account.pack_s > 0.0),
                ms(account.push_s).filter(|_| account.push_s > 0.0),
                ms(account.answers_s),
                Some(account.reads.to_string()),
                Some(account.stalls.to_string()),
                Some(account.fetches.to_string()),
                Some(account.pusher_peak_bytes)
                    .filter(|bytes| *bytes > 0)
                    .map(|bytes| format!("{:.0}", bytes as f64 / 1e6)),
            ];
            let others = self.others(std::iter::once((&account.commit, &account.machine)));
            row(f, &format!("{}{others}", account.image), cells)?;
        }
        Ok(())
    }

    /// A row a cold start: they are too many, and cost too much, for columns.
    fn costs(&self, f: &mut fmt::Formatter<'_>, network: &str) -> fmt::Result {
        let columns = [
            "image, MB",
            "MB",
            "of it the pack",
            "a start touches, as noted",
            "MB beside that",
            "touches, nothing read ahead",
            "MB beside that",
            "requests",
            "registry CPU s",
            "line CPU s",
            "containerd CPU s",
            "daemon CPU s",
            "daemon MB",
            "pull, s",
            "reads that waited",
            "for s in all",
        ];
        head(f, network, &columns)?;
        let images = self.images(network);
        let cold = images.iter().flat_map(|image| COLD.map(|system| self.figure(network, image, system)));
        cold.flatten().try_for_each(|figure| {
            let of = |stat: Stat, unit: f64, digits: usize| Some(format!("{:.digits$}", stat.median / unit));
            let ours = |stat: Stat, unit, digits| of(stat, unit, digits).filter(|_| figure.system.is_ours());
            let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
            let beside = |bytes: u64| format!("{:.2}", figure.bytes.median / bytes as f64);
            let noted = figure.touched.map(|touched| touched.noted_bytes);
            let pages = figure.touched.map(|touched| touched.page_bytes);
            let cells = vec![
                Some(megabytes(figure.image_bytes)),
                of(figure.bytes, 1e6, 1),
                figure.pack_bytes.map(megabytes),
                noted.map(megabytes),
                noted.map(beside),
                pages.map(megabytes),
                pages.map(beside),
                of(figure.requests, 1.0, 0),
                of(figure.registry_cpu_s, 1.0, 2),
                of(figure.line_cpu_s, 1.0, 2),
                of(figure.containerd_cpu_s, 1.0, 2),
                ours(figure.snapshotter_cpu_s, 1.0, 2),
                ours(figure.snapshotter_peak_bytes, 1e6, 0),
                of(figure.pull_s, 1.0, 3),
                ours(figure.misses, 1.0, 0),
                ours(figure.stalled_s, 1.0, 2),
            ];
            let others = self.others(std::iter::once(figure.origin()));
            row(f, &format!("{}: {}{others}", figure.image, figure.system.title()), cells)
        })
    }
}

fn head(f: &mut fmt::Formatter<'_>, network: &str, columns: &[&str]) -> fmt::Result {
    writeln!(f, "\n| {network} | {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len() + 1))
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, cells: Vec<Option<String>>) -> fmt::Result {
    let cells: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
    writeln!(f, "| {name} | {} |", cells.join(" | "))
}

fn distinct<'a, T: Clone + PartialEq + 'a>(items: impl Iterator<Item = &'a T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
    all
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, commit, .. } = self;
        let others = self.other_machines(self.figures.iter().map(|figure| &figure.machine));
        let others =
            if others.is_empty() { others } else { format!(", but for rows that name another: {others}") };
        let runs = self.figures.iter().map(|figure| figure.runs);
        let (fewest, most) = (runs.clone().min().unwrap_or(0), runs.max().unwrap_or(0));
        let runs = if fewest == most { most.to_string() } else { format!("{fewest} to {most}") };
        writeln!(
            f,
            "Seconds from the pull command until ready, medians of {runs} (least and greatest); {machine}{others}. \
             Commit {commit}, but for rows that name another."
        )?;
        for network in self.networks() {
            self.times(f, &network)?;
        }
        self.beside_others(f)?;
        self.variants(f)?;
        writeln!(f, "\nWhat the cold starts took, medians:")?;
        for network in self.networks() {
            self.costs(f, &network)?;
        }
        writeln!(f, "\nWhere the time of one cold start each went, with Jaunt telling what happens:")?;
        for network in self.networks() {
            self.times_of_one(f, &network)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::{case, round};
    use super::*;

    fn machine(cores: usize) -> Machine {
        Machine { cores, kernel: "6.18".to_owned(), containerd: "containerd 1.6".to_owned() }
    }

    fn report() -> Report {
        let mut report =
            Report { machine: machine(2), commit: "0123456789ab".to_owned(), ..Report::default() };
        report.add(Figure::all(&case(), "10g-0.5ms", &[round(0.5, 1.0)], None));
        report
    }

    #[test]
    fn tables_have_a_row_an_image_and_nothing_where_nothing_was_measured() {
        let text = report().to_string();
        let row = "| an-image |  | 0.50 (0.50-0.50) | 0.25 (0.25-0.25) | 1.00 (1.00-1.00) |  |  |  |  | 2.00 (2.00-2.00) |";
        assert!(text.contains(row), "{text}");
        let costs = "| an-image: Jaunt, no pack | 50.0 | 7.0 |  |  |  |  |  | 0 | 0.00 | 0.00 | 0.00 | 0.00 | 0 | 0.500 | 0 | 0.00 |";
        assert!(text.contains(costs) && !text.contains("an-image: null"), "{text}");
    }

    #[test]
    fn variants_have_a_table_where_they_took_turns_with_the_plain_one() {
        let mut report = report();
        assert!(!report.to_string().contains("beside one layer"));
        report.add(Figure::all(&case(), "1g", &[round(1.0, 1.75)], Some(&[round(0.5, 0.75)])));
        let text = report.to_string();
        let row = "| an-image: Jaunt, no pack | 1g | 3 | 1 | 1.000 (1.000-1.000) | 2.000 (2.000-2.000) | 0.500 (0.500-0.500) |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn a_later_run_replaces_what_it_measured_again_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Report::kept(dir.path()).unwrap(), None);
        let mut report = report();
        report.write(dir.path()).unwrap();
        assert_eq!(Report::kept(dir.path()).unwrap(), Some(report.clone()));
        report.add(Figure::all(&case(), "10g-0.5ms", &[vec![round(0.5, 9.0)[2]]], None));
        let ready = |system| report.figure("10g-0.5ms", "an-image", system).unwrap().ready_s.median;
        assert_eq!(
            (report.figures.len(), ready(System::JauntCold), ready(System::OverlayfsWarm)),
            (3, 9.0, 0.5)
        );
        assert!(!report.to_string().contains("(of "), "{report}");
        report.commit = "ba9876543210 and changes".to_owned();
        report.add(Figure::all(&case(), "10g-0.5ms", &[vec![round(0.5, 9.0)[2]]], None));
        let text = report.to_string();
        assert!(text.contains("Commit ba9876543210 and changes, but"), "{text}");
        assert!(text.contains("| an-image (of 0123456789ab) |"), "{text}");
        assert!(text.contains("| an-image: Jaunt, no pack |"), "{text}");
        fs::write(dir.path().join("cold.json"), "{").unwrap();
        assert!(Report::kept(dir.path()).is_err());
    }

    #[test]
    fn rows_of_another_machine_name_it() {
        let mut report = report();
        assert!(report.to_string().contains("; 2 cores, Linux 6.18, containerd 1.6. Commit "), "{report}");
        report.machine = machine(4);
        report.add(Figure::all(&case(), "1g", &[round(0.5, 1.0)], None));
        let text = report.to_string();
        let both = "; 4 cores, Linux 6.18, containerd 1.6, but for rows that name another: 2 cores, Linux 6.18, containerd 1.6. ";
        assert!(text.contains(both), "{text}");
        assert!(text.contains("| an-image (on 2 cores, Linux 6.18, containerd 1.6) |"), "{text}");
        assert!(text.contains("| an-image |"), "{text}");
    }

    #[test]
    fn figures_of_before_machines_were_noted_are_of_the_one_in_the_head() {
        let (dir, report) = (tempfile::tempdir().unwrap(), report());
        let mut json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["cores"], &json["figures"][0]["machine"]["cores"]), (&2.into(), &2.into()));
        for figure in json["figures"].as_array_mut().unwrap() {
            figure.as_object_mut().unwrap().remove("machine");
        }
        fs::write(dir.path().join("cold.json"), json.to_string()).unwrap();
        assert_eq!(Report::kept(dir.path()).unwrap(), Some(report));
    }
}
