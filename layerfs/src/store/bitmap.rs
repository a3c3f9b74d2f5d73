//! Which blocks are there: lock-free, one bit each.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

const WORD_BITS: usize = u64::BITS as usize;

/// A fixed number of bits, all clear at first.
pub(super) struct Bitmap {
    words: Box<[AtomicU64]>,
    bits: usize,
}

impl Bitmap {
    pub(super) fn new(bits: usize) -> Self {
        Self { words: (0..bits.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect(), bits }
    }

    /// Sets a range. Bytes written before are seen by whoever sees the bits (release and acquire).
    pub(super) fn set(&self, range: Range<usize>) {
        self.masks(range).for_each(|(word, mask)| {
            word.fetch_or(mask, Ordering::Release);
        });
    }

    /// Clears a range.
    pub(super) fn clear(&self, range: Range<usize>) {
        self.masks(range).for_each(|(word, mask)| {
            word.fetch_and(!mask, Ordering::Release);
        });
    }

    /// Whether all of a range is set; an empty one is.
    pub(super) fn all(&self, range: Range<usize>) -> bool {
        range.end <= self.bits
            && self.masks(range).all(|(word, mask)| word.load(Ordering::Acquire) & mask == mask)
    }

    fn masks(&self, range: Range<usize>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let end = range.end.min(self.bits);
        let words = range.start / WORD_BITS..if range.start < end { end.div_ceil(WORD_BITS) } else { 0 };
        words.map(move |word| {
            let base = word * WORD_BITS;
            let low = range.start.saturating_sub(base).min(WORD_BITS - 1);
            let high = (end - base).min(WORD_BITS);
            (&self.words[word], (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            bits in 1usize..300,
            changes in prop::collection::vec((any::<bool>(), 0usize..320, 0usize..320), 0..12),
        ) {
            let map = Bitmap::new(bits);
            let mut set = vec![false; bits];
            for (to, a, b) in changes {
                let range = a.min(b)..a.max(b);
                if to { map.set(range.clone()) } else { map.clear(range.clone()) }
                set.iter_mut().enumerate().filter(|(at, _)| range.contains(at)).for_each(|(_, bit)| *bit = to);
            }
            for start in 0..bits {
                for end in [start, start + 1, start + 64, bits] {
                    let expected = end <= bits && set[start..end.min(bits)].iter().all(|bit| *bit);
                    prop_assert_eq!(map.all(start..end), expected, "{}..{}", start, end);
                }
            }
        }
    }
}
