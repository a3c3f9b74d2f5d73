//! When the parts of a layer were last used.
//!
//! A *region* is a run of whole spans, some [`REGION`] bytes of tar: what is taken away at a time to make room.
//! Reads that the kernel answers from its own cache are not seen; what they want is not wanted from the store.
//!
//! ```text
//! used:   a u32 for each region: seconds since 1970, little-endian
//! ```
//! Lost or damaged, it only makes eviction choose badly.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::cut::Cut;
use super::shared::Moment;

/// Large enough that a terabyte of layers is soon gone through, small enough to part hot from cold.
const REGION: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };

pub(super) struct Regions {
    /// The first unit of each, and in the end the number of units.
    bounds: Vec<usize>,
    used: Box<[AtomicU32]>,
    news: AtomicBool,
}

impl Regions {
    /// Regions as their record says, or all used `now` where there is none.
    pub(super) fn open(path: &Path, cut: &Cut, now: Moment) -> Self {
        let mut bounds = cut.runs_of_spans(REGION);
        let known = std::fs::read(path).unwrap_or_default();
        let (known, _) = known.as_chunks::<4>();
        let known = if known.len() == bounds.len() { known } else { &[] };
        let used = |at| known.get(at).map_or(now.0, |used| u32::from_le_bytes(*used));
        let used = (0..bounds.len()).map(|at| AtomicU32::new(used(at))).collect();
        bounds.push(cut.units());
        Self { bounds, used, news: AtomicBool::new(true) }
    }

    /// The latest moment of a record that nobody has open.
    pub(super) fn last_used(path: &Path) -> Option<Moment> {
        let record = std::fs::read(path).ok()?;
        record.as_chunks::<4>().0.iter().map(|used| Moment(u32::from_le_bytes(*used))).max()
    }

    /// Notes that units are used.
    pub(super) fn touch(&self, units: &Range<usize>, now: Moment) {
        let first = self.bounds.partition_point(|&bound| bound <= units.start).saturating_sub(1);
        let touched = self.used.iter().zip(&self.bounds).skip(first);
        for (used, _) in touched.take_while(|&(_, &bound)| bound < units.end) {
            if used.load(Ordering::Relaxed) != now.0 {
                used.store(now.0, Ordering::Relaxed);
                self.news.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Each region: its units, and when it was last used.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<usize>, Moment)> {
        let used = self.used.iter().map(|used| Moment(used.load(Ordering::Relaxed)));
        self.bounds.windows(2).map(|bounds| bounds[0]..bounds[1]).zip(used)
    }

    /// Writes the record, if it has changed.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        if !self.news.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let record: Vec<u8> =
            self.used.iter().flat_map(|at| at.load(Ordering::Relaxed).to_le_bytes()).collect();
        std::fs::write(path, record)
    }
}
