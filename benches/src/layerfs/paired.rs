//! The same work on several roots in turn, and how they compare.

use std::path::PathBuf;

use jaunt_tests::cold;
use jaunt_tests::error::{Error, Result};

use super::figure::{Bar, Figure};
use super::work::{Cache, Paths, Row};
use crate::{Progress, Stat};

/// A root file system to work on.
#[derive(Clone, Debug)]
pub struct Place {
    /// What a table calls it.
    pub name: String,
    /// Where it is.
    pub root: PathBuf,
}

/// What is compared, and how often.
#[derive(Debug)]
pub struct Paired<'p> {
    /// Whose table it is.
    pub table: &'static str,
    /// The first is what the others are compared with.
    pub places: &'p [Place],
    /// What there is below each of them.
    pub paths: &'p Paths,
    /// What is done.
    pub rows: &'p [Row],
    /// How often.
    pub rounds: usize,
    /// With which page cache.
    pub cache: Cache,
    /// What the ratio is to be.
    pub bar: Bar,
    /// Where progress goes.
    pub progress: &'p Progress,
}

impl Paired<'_> {
    /// Does everything to everyone, and compares. A bar of the kind `AtLeast` is for speed beside the first place's, one
    /// of the kind `AtMost` for time.
    pub fn measure(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for &row in self.rows {
            self.progress.say(&format!("{}: {}", self.table, row.name()));
            let seconds = self.seconds(row)?;
            for (at, place) in self.places.iter().enumerate() {
                let ratios = seconds.iter().map(|round| match self.bar {
                    Bar::AtLeast(_) => round[0] / round[at],
                    Bar::AtMost(_) => round[at] / round[0],
                });
                let compared = at > 0;
                figures.push(Figure {
                    table: self.table,
                    row: row.name().to_owned(),
                    place: place.name.clone(),
                    value: Stat::of(seconds.iter().map(|round| round[at] * 1000.0)),
                    unit: "ms",
                    ratio: compared.then(|| Stat::of(ratios)),
                    bar: compared.then_some(self.bar),
                });
            }
        }
        Ok(figures)
    }

    /// Round by round, the seconds of each place.
    fn seconds(&self, row: Row) -> Result<Vec<Vec<f64>>> {
        if self.cache == Cache::Warm {
            self.places.iter().try_for_each(|place| self.once(row, place).map(drop))?;
        }
        let round = |number: usize| -> Result<Vec<f64>> {
            let mut seconds = vec![0.0; self.places.len()];
            let mut found = vec![0; self.places.len()];
            // Each comes first in its turn: what is left over from the one before meets all of them.
            for turn in 0..self.places.len() {
                let at = (turn + number) % self.places.len();
                (seconds[at], found[at]) = self.once(row, &self.places[at])?;
            }
            match found.iter().position(|what| *what != found[0]) {
                None => Ok(seconds),
                Some(other) => {
                    let (what, wanted, got) = (&self.places[other].name, found[0], found[other]);
                    let detail = format!("{} found {got} where the first found {wanted}", row.name());
                    Err(Error::unexpected(what, detail))
                }
            }
        };
        (0..self.rounds).map(round).collect()
    }

    fn once(&self, row: Row, place: &Place) -> Result<(f64, u64)> {
        if self.cache == Cache::Cold {
            cold::drop_caches()?;
        }
        row.run(&place.root, self.paths, self.cache)
    }
}
