//! The demo's result: a table for a person, and the same as JSON.

use std::fmt;
use std::path::Path;

use jaunt_tests::error::Result;
use serde::Serialize;

use crate::{Conversion, Starts, Subject, files};

/// What converting the image took. Keys as in the report.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Converted {
    /// From the command's start to its end.
    pub seconds: f64,
    /// Of the converter, user and system.
    pub cpu_s: f64,
    /// Original compressed megabytes a second of wall time.
    pub mb_per_s: f64,
    /// Converted layers and launch index.
    pub artifact_bytes: u64,
}

/// Everything that was measured. Field names are the keys of `report.json`, and stay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image's name.
    pub image: String,
    /// How many layers it has.
    pub layers: usize,
    /// Its original compressed layers.
    pub image_bytes: u64,
    /// The link's speed each way.
    pub link_bits_per_s: u64,
    /// How many runs the figures are medians of.
    pub runs: usize,
    /// Absent when only the other one was asked for.
    pub overlayfs: Option<Starts>,
    /// Absent when only the other one was asked for.
    pub jaunt: Option<Starts>,
    /// The same with a boot pack of a start on another node. Absent as well.
    pub jaunt_learnt: Option<Starts>,
    /// The cost on the registry's side.
    pub conversion: Option<Converted>,
}

impl Report {
    /// A report without figures yet.
    pub fn new(subject: &Subject, link_bits_per_s: u64, runs: usize) -> Self {
        Self {
            image: subject.name.clone(),
            layers: subject.layers,
            image_bytes: subject.bytes,
            link_bits_per_s,
            runs,
            overlayfs: None,
            jaunt: None,
            jaunt_learnt: None,
            conversion: None,
        }
    }

    /// Writes the JSON, whole or not at all.
    pub fn write(&self, file: &Path) -> Result<()> {
        files::write_json(file, self)
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, name: &str, starts: &Starts) -> fmt::Result {
        let percent = 100.0 * starts.bytes_fetched as f64 / self.image_bytes as f64;
        writeln!(
            f,
            "  {name:<13} {:>7.2} s {:>7.2} s {:>8.1} x {:>9.1} MB {percent:>6.0} %",
            starts.cold_ready_s,
            starts.warm_ready_s,
            starts.cold_ready_s / starts.warm_ready_s,
            starts.bytes_fetched as f64 / 1e6,
        )
    }
}

impl From<Conversion> for Converted {
    fn from(Conversion { usage, sizes, .. }: Conversion) -> Self {
        Self {
            seconds: usage.wall_s,
            cpu_s: usage.cpu_s,
            mb_per_s: sizes.original_bytes as f64 / 1e6 / usage.wall_s,
            artifact_bytes: sizes.converted_bytes + sizes.index_bytes,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (megabytes, megabits) = (self.image_bytes as f64 / 1e6, self.link_bits_per_s / 1_000_000);
        writeln!(f, "{}: {} layers, {megabytes:.1} MB, over {megabits} Mbit/s", self.image, self.layers)?;
        if self.runs > 1 {
            writeln!(f, "medians of {} runs", self.runs)?;
        }
        writeln!(f, "\n  ready            cold      warm  cold/warm      fetched  of image")?;
        let rows =
            [("overlayfs", &self.overlayfs), ("jaunt", &self.jaunt), ("jaunt, learnt", &self.jaunt_learnt)];
        for (name, starts) in rows {
            if let Some(starts) = starts {
                self.row(f, name, starts)?;
            }
        }
        if let Some(conversion) = &self.conversion {
            let size = conversion.artifact_bytes as f64 / self.image_bytes as f64;
            writeln!(
                f,
                "\n  converted once, at the registry: {:.1} s, {:.1} CPU s, {:.0} MB/s, {size:.2} x the size",
                conversion.seconds, conversion.cpu_s, conversion.mb_per_s
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_that_were_promised() {
        let starts = Starts {
            cold_ready_s: 1.5,
            cold_pull_s: 0.2,
            bytes_fetched: 30_000_000,
            warm_ready_s: 0.6,
            warm_pull_s: 0.1,
        };
        let report = Report {
            image: "an-image".to_owned(),
            layers: 5,
            image_bytes: 100_000_000,
            link_bits_per_s: 1_000_000_000,
            runs: 1,
            overlayfs: Some(Starts { cold_ready_s: 8.0, ..starts }),
            jaunt: Some(starts),
            jaunt_learnt: Some(Starts { cold_ready_s: 0.75, ..starts }),
            conversion: None,
        };
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!((&json["image"], &json["layers"]), (&"an-image".into(), &5.into()));
        assert_eq!(json["image_bytes"], 100_000_000);
        assert_eq!(
            (&json["overlayfs"]["cold_ready_s"], &json["overlayfs"]["warm_ready_s"]),
            (&8.0.into(), &0.6.into())
        );
        assert_eq!(
            (&json["jaunt"]["cold_ready_s"], &json["jaunt"]["warm_ready_s"]),
            (&1.5.into(), &0.6.into())
        );
        assert_eq!(json["jaunt"]["bytes_fetched"], 30_000_000);
        assert_eq!(json["jaunt_learnt"]["cold_ready_s"], 0.75);
        assert!(
            report.to_string().contains("jaunt            1.50 s    0.60 s      2.5 x      30.0 MB     30 %"),
            "{report}"
        );
    }
}
