//! The same content in one layer and in many, to which the same is done in turn: what both took, and the second beside
//! the first.

use super::figure::{Bar, Figure};
use crate::Stat;

/// Costs do not grow with the number of layers.
pub const BAR: Bar = Bar::AtMost(1.05);

/// What is measured of both.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Whose table it is.
    pub table: &'static str,
    /// What was done.
    pub row: String,
    /// What it is counted in: less is better.
    pub unit: &'static str,
    /// How many layers the second has.
    pub layers: u16,
}

impl Beside {
    /// Of the figures of one layer and of many, pair by pair.
    pub fn figures(self, pairs: &[(f64, f64)]) -> [Figure; 2] {
        let Self { table, row, unit, layers } = self;
        let one = Stat::of(pairs.iter().map(|(one, _)| *one));
        let many = Stat::of(pairs.iter().map(|(_, many)| *many));
        let ratio = Stat::of(pairs.iter().map(|(one, many)| many / one));
        let first = Figure { table, row, place: place(1), value: one, unit, ratio: None, bar: None };
        let second =
            Figure { place: place(layers), value: many, ratio: Some(ratio), bar: Some(BAR), ..first.clone() };
        [first, second]
    }
}

/// Which of the two comes first in a round, and which then: what is left over from the one before meets both.
pub fn turn(round: usize) -> [usize; 2] {
    [round % 2, (round + 1) % 2]
}

/// What a table calls content in so many layers.
pub fn place(layers: u16) -> String {
    format!("{layers} layer{}", if layers == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_are_held_against_one_pair_by_pair() {
        let beside = Beside { table: "a table", row: "a miss".to_owned(), unit: "ms", layers: 64 };
        let [one, many] = beside.figures(&[(1.0, 1.0), (2.0, 2.2), (4.0, 4.1)]);
        assert_eq!((one.place.as_str(), many.place.as_str()), ("1 layer", "64 layers"));
        assert_eq!((one.value.median, many.value.median), (2.0, 2.2));
        assert_eq!((one.met(), many.ratio.unwrap().median, many.met()), (None, 4.1 / 4.0, Some(true)));
    }
}
