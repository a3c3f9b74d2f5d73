//! Which blocks are there: lock-free, one bit each.

use std::ops::Range;

use super::sync::{AtomicU64, Ordering};

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
