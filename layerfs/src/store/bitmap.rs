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

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for another number of bits.
    pub(super) fn from_bytes(bits: usize, bytes: &[u8]) -> Option<Self> {
        let map = Self::new(bits);
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != map.words.len() || !rest.is_empty() {
            return None;
        }
        for (word, bytes) in map.words.iter().zip(words) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        Some(map)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect()
    }

    /// The bytes of the words that hold `range`, and the offset of the first of them.
    pub(super) fn bytes_around(&self, range: &Range<usize>) -> (usize, Vec<u8>) {
        let words = range.start / WORD_BITS..range.end.div_ceil(WORD_BITS).min(self.words.len());
        let start = words.start * size_of::<u64>();
        let bytes = self.words.get(words).unwrap_or_default().iter();
        (start, bytes.flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect())
    }

    /// Sets a range. Bytes written before are seen by whoever sees the bits (release and acquire).
    pub(super) fn set(&self, range: Range<usize>) {
        self.masks(range).for_each(|(word, mask)| {
            word.fetch_or(mask, Ordering::Release);
        });
    }

    /// Clears every bit.
    pub(super) fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Release));
    }

    /// Whether all of a range is set; an empty one is.
    pub(super) fn all(&self, range: Range<usize>) -> bool {
        range.end <= self.bits
            && self.masks(range).all(|(word, mask)| word.load(Ordering::Acquire) & mask == mask)
    }

    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
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
        fn behaves_like_a_set(bits in 1usize..300, ranges in prop::collection::vec((0usize..320, 0usize..320), 0..8)) {
            let map = Bitmap::new(bits);
            let mut set = vec![false; bits];
            for (a, b) in ranges {
                let range = a.min(b)..a.max(b);
                map.set(range.clone());
                set.iter_mut().enumerate().filter(|(at, _)| range.contains(at)).for_each(|(_, bit)| *bit = true);
            }
            prop_assert_eq!(map.count(), set.iter().filter(|bit| **bit).count());
            let copy = Bitmap::from_bytes(bits, &map.to_bytes()).unwrap();
            for start in 0..bits {
                for end in [start, start + 1, start + 64, bits] {
                    let expected = end <= bits && set[start..end.min(bits)].iter().all(|bit| *bit);
                    prop_assert_eq!(map.all(start..end), expected, "{}..{}", start, end);
                    prop_assert_eq!(copy.all(start..end), expected);
                }
            }
        }
    }

    #[test]
    fn the_bytes_around_a_range_are_those_of_the_whole() {
        let map = Bitmap::new(1000);
        map.set(100..700);
        let whole = map.to_bytes();
        let (start, bytes) = map.bytes_around(&(130..200));
        assert_eq!(bytes, whole[start..start + bytes.len()]);
        assert!(start * 8 <= 130 && (start + bytes.len()) * 8 >= 200);
        assert!(Bitmap::from_bytes(1000, &whole[1..]).is_none());
    }
}
