//! A figure measured several times: its median, and how far it spread.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Stat {
    /// Of `figures`; all zero if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or_default();
        Self { median: at(figures.len() / 2), min: at(0), max: at(figures.len().saturating_sub(1)) }
    }

    /// Each figure times `factor`, which is not negative.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

/// `2.34 (2.10-2.61)`, with the precision asked for.
impl fmt::Display for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends_are_found() {
        let stat = Stat::of([3.0, 1.0, 2.0, 10.0, 2.5]);
        assert_eq!(stat, Stat { median: 2.5, min: 1.0, max: 10.0 });
        assert_eq!(format!("{stat:.1}"), "2.5 (1.0-10.0)");
        assert_eq!(Stat::of([]), Stat::default());
    }
}
