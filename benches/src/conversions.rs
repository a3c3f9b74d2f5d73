//! The conversion benchmark's result: every image's figures against their bars, as Markdown and as JSON.

use std::fmt;

use serde::Serialize;

use crate::Stat;
use crate::conversion::{Conversion, Sizes};
use crate::parts::Parts;

/// One round of one image: everything once, back to back, so that all of it saw the same machine.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// At the default level.
    pub default: Conversion,
    /// At the named level.
    pub named: Conversion,
    /// The programs that do the same work.
    pub parts: Parts,
}

/// An image's figures. Field names are the keys of the JSON, and stay.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The image's name.
    pub image: String,
    /// How many layers it has.
    pub layers: usize,
    /// At the default level.
    pub default: AtLevel,
    /// At the named level.
    pub named: AtLevel,
    /// The sum of the parts run alone, CPU seconds.
    pub parts_cpu_s: Stat,
    /// gunzip's share of that, and so on.
    pub gunzip_cpu_s: Stat,
    /// `zstd -3`.
    pub zstd_cpu_s: Stat,
    /// SHA-256 of tars and blobs.
    pub digests_cpu_s: Stat,
    /// What gunzip would be with the library that the converter uses.
    pub zlib_rs_cpu_s: Stat,
    /// CPU time at the default level over the parts', round by round.
    pub cpu_ratio: Stat,
    /// Wall time times processors over the parts' CPU time, round by round.
    pub wall_ratio: Stat,
}

/// What conversion takes and gives at one level.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AtLevel {
    /// Of the converter.
    pub cpu_s: Stat,
    /// From its start to its end.
    pub wall_s: Stat,
    /// The registry's, on the same processors at the same time.
    pub registry_cpu_s: Stat,
    /// The most memory that any round took.
    pub max_rss_bytes: u64,
    /// The same in every round.
    pub sizes: Sizes,
    /// Converted layers over original ones.
    pub size_ratio: f64,
    /// Of the launch index.
    pub index_bytes_per_entry: f64,
}

/// All images.
#[derive(Clone, Debug, Serialize)]
pub struct Conversions {
    /// Times that everything was measured.
    pub rounds: usize,
    /// Processors of the machine.
    pub cores: usize,
    /// The level behind the `named` figures.
    pub named_level: u8,
    /// One after the other.
    pub images: Vec<Figures>,
}

impl Figures {
    /// Of at least one round.
    pub fn of(image: &str, layers: usize, cores: usize, rounds: &[Round]) -> Self {
        let stat = |figure: &dyn Fn(&Round) -> f64| Stat::of(rounds.iter().map(figure));
        Self {
            image: image.to_owned(),
            layers,
            default: AtLevel::of(rounds, |round| &round.default),
            named: AtLevel::of(rounds, |round| &round.named),
            parts_cpu_s: stat(&|round| round.parts.sum().cpu_s),
            gunzip_cpu_s: stat(&|round| round.parts.gunzip.cpu_s),
            zstd_cpu_s: stat(&|round| round.parts.zstd.cpu_s),
            digests_cpu_s: stat(&|round| round.parts.tar_digest.then(round.parts.blob_digest).cpu_s),
            zlib_rs_cpu_s: stat(&|round| round.parts.zlib_rs_cpu_s),
            cpu_ratio: stat(&|round| round.default.usage.cpu_s / round.parts.sum().cpu_s),
            wall_ratio: stat(&|round| round.default.usage.wall_s * cores as f64 / round.parts.sum().cpu_s),
        }
    }
}

impl AtLevel {
    fn of(rounds: &[Round], conversion: fn(&Round) -> &Conversion) -> Self {
        let stat =
            |figure: fn(&Conversion) -> f64| Stat::of(rounds.iter().map(|round| figure(conversion(round))));
        let sizes = rounds.first().map(|round| conversion(round).sizes).unwrap_or_default();
        Self {
            cpu_s: stat(|conversion| conversion.usage.cpu_s),
            wall_s: stat(|conversion| conversion.usage.wall_s),
            registry_cpu_s: stat(|conversion| conversion.registry_cpu_s),
            max_rss_bytes: rounds
                .iter()
                .map(|round| conversion(round).usage.max_rss_bytes)
                .max()
                .unwrap_or(0),
            sizes,
            size_ratio: sizes.ratio(),
            index_bytes_per_entry: sizes.index_bytes_per_entry(),
        }
    }
}

impl Conversions {
    fn costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| image | layers, MB | CPU s | sum of parts | CPU ratio | wall s | wall x cores | memory MB |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for image in &self.images {
            let Figures { image: name, layers, default, parts_cpu_s, cpu_ratio, wall_ratio, .. } = image;
            let megabytes = default.sizes.original_bytes as f64 / 1e6;
            let memory = default.max_rss_bytes / 1_000_000;
            let (cpu, wall) = (default.cpu_s, default.wall_s);
            writeln!(
                f,
                "| {name} | {layers}, {megabytes:.1} | {cpu} | {parts_cpu_s} | {cpu_ratio} | {wall} | \
                 {wall_ratio} | {memory} |"
            )?;
        }
        Ok(())
    }

    fn sizes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.named_level;
        writeln!(
            f,
            "| image | size | size, level {level} | CPU s, level {level} | entries | index, bytes an entry |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for Figures { image, default, named, .. } in &self.images {
            writeln!(
                f,
                "| {image} | {:.3} | {:.3} | {} | {} | {:.1} |",
                default.size_ratio,
                named.size_ratio,
                named.cpu_s,
                default.sizes.entries,
                default.index_bytes_per_entry
            )?;
        }
        Ok(())
    }

    fn parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| image | gzip -dc | zstd -3 | openssl sha256 | zlib-rs instead of gzip | registry |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for image in &self.images {
            let Figures { image: name, gunzip_cpu_s, zstd_cpu_s, digests_cpu_s, zlib_rs_cpu_s, .. } = image;
            let registry = image.default.registry_cpu_s;
            writeln!(
                f,
                "| {name} | {gunzip_cpu_s} | {zstd_cpu_s} | {digests_cpu_s} | {zlib_rs_cpu_s} | {registry} |"
            )?;
        }
        Ok(())
    }
}

/// Markdown tables.
impl fmt::Display for Conversions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "medians of {} rounds (least-greatest), {} cores\n", self.rounds, self.cores)?;
        self.costs(f)?;
        writeln!(f)?;
        self.sizes(f)?;
        writeln!(f, "\nCPU seconds of the parts, and of the registry while it served:\n")?;
        self.parts(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jaunt_tests::Usage;

    fn round(cpu_s: f64) -> Round {
        let usage = |cpu_s| Usage { cpu_s, wall_s: cpu_s / 2.0, max_rss_bytes: 5_000_000 };
        let sizes = Sizes {
            original_bytes: 100_000_000,
            converted_bytes: 101_000_000,
            tar_bytes: 300_000_000,
            index_bytes: 1500,
            entries: 100,
        };
        let default = Conversion { usage: usage(cpu_s), registry_cpu_s: 0.5, sizes };
        let parts = Parts { gunzip: usage(2.0), zstd: usage(3.0), ..Parts::default() };
        Round { default, named: default, parts }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let figures = Figures::of("an-image", 5, 2, &[round(5.0), round(4.0), round(6.0)]);
        assert_eq!((figures.cpu_ratio.median, figures.cpu_ratio.max), (1.0, 1.2));
        assert_eq!(figures.wall_ratio.median, 1.0);
        let report = Conversions { rounds: 3, cores: 2, named_level: 9, images: vec![figures] };
        let row = "| an-image | 5, 100.0 | 5.00 (4.00-6.00) | 5.00 (5.00-5.00) | 1.00 (0.80-1.20) | 2.50 (2.00-3.00) |";
        assert!(report.to_string().contains(row), "{report}");
        assert!(report.to_string().contains("| an-image | 1.010 | 1.010 |"), "{report}");
    }
}
