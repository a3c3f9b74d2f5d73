//! Chance with a seed: what looks random in a test or a measurement is the same in every run.

/// xorshift64: the same numbers for the same seed, on every machine.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those of `seed`; neighbouring seeds have nothing to do with one another.
    pub fn new(seed: u64) -> Self {
        // The generator's state must not be 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number but 0.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_numbers() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            [dice.roll(), dice.roll(), dice.below(6)]
        };
        assert_eq!(rolls(7), rolls(7));
        assert!(rolls(1)[0] != rolls(2)[0] && rolls(1)[0] != 0);
        assert!((0..100).all(|seed| rolls(seed)[2] < 6));
    }
}
