//! How a layer is laid out in the store: its spans, cut into units.
//!
//! A *unit* is what is present or not, and has a checksum: [`UNIT`] bytes of a span, counted from the span's first
//! byte, the last of a span shorter. So a span is whole units wherever its edges lie (those of podman's layers lie
//! anywhere), and no two spans share one. Units are numbered in the order of the tar, without regard to what
//! no span covers.
//!
//! A cut is named by a hash of everything that decides what its bytes are and where they go.

use std::ops::Range;

use jaunt_formats::DigestScope;
use jaunt_formats::launch::LaunchLayer;

use super::large::LargeFiles;

/// Bytes of a unit. A read is checked in whole units: 16 KiB cost a random read of 4 KiB some 5 us, and a
/// checksum of 8 bytes each is a two-thousandth of the layer.
pub(super) const UNIT: u64 = 16 << 10;

/// The version of the layout, with which every cut's name starts.
pub(super) const LAYOUT: &str = "v3-";

pub(super) struct Cut {
    spans: Vec<SpanUnits>,
    units: usize,
    name: CutName,
}

/// A hash of where its bytes go and of the digests that they are verified against.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CutName([u8; 16]);

/// A span's place in the tar, and the number of its first unit.
struct SpanUnits {
    start: u64,
    len: u32,
    first: usize,
}

impl Cut {
    pub(super) fn of(layer: &LaunchLayer, large: &LargeFiles) -> Self {
        let mut units = 0;
        let place = |span: &jaunt_formats::Span| {
            let first = units;
            units += index(u64::from(span.tar_len).div_ceil(UNIT));
            SpanUnits { start: span.tar_offset.0, len: span.tar_len, first }
        };
        let spans = layer.spans.iter().filter(|span| span.tar_len > 0).map(place).collect();
        Self { spans, units, name: CutName::of(layer, large) }
    }

    pub(super) fn name(&self) -> CutName {
        self.name
    }

    /// How many units the layer has.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// The units that hold a range of the tar; `None` if no spans cover all of it.
    pub(super) fn units_of(&self, range: &Range<u64>) -> Option<Range<usize>> {
        if range.is_empty() {
            return Some(0..0);
        }
        let first = self.spans.partition_point(|span| span.end() <= range.start);
        let (mut last, mut at) = (first, range.start);
        while at < range.end {
            let span = self.spans.get(last).filter(|span| span.start <= at)?;
            (last, at) = (last + 1, span.end());
        }
        let (first, last) = (&self.spans[first], &self.spans[last - 1]);
        Some(first.unit_of(range.start)..last.unit_of(range.end - 1) + 1)
    }

    /// The first unit of each run of whole spans of `len` bytes, or a little less.
    pub(super) fn runs_of_spans(&self, len: u64) -> Vec<usize> {
        let mut runs: Vec<&SpanUnits> = Vec::new();
        for span in &self.spans {
            if runs.last().is_none_or(|first| span.end() - first.start > len) {
                runs.push(span);
            }
        }
        runs.iter().map(|first| first.first).collect()
    }

    /// The units that lie in a range at least in part.
    pub(super) fn units_touching(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.spans.partition_point(|span| span.end() <= range.start);
        let last = self.spans.partition_point(|span| span.start < range.end);
        let (Some(span), true) = (self.spans.get(first), first < last) else { return 0..0 };
        let end = &self.spans[last - 1];
        span.unit_of(range.start.max(span.start))..end.unit_of(range.end.min(end.end()) - 1) + 1
    }

    /// From the first byte of a run of units to the last; none for an empty run.
    pub(super) fn extent_of(&self, units: &Range<usize>) -> Option<Range<u64>> {
        let first = self.ranges_of(units.clone()).next()?;
        let last = self.ranges_of(units.end - 1..units.end).next()?;
        Some(first.start..last.end)
    }

    /// The tar range of each of a run of units.
    pub(super) fn ranges_of(&self, units: Range<usize>) -> impl Iterator<Item = Range<u64>> {
        let mut at = self.spans.partition_point(|span| span.last() < units.start);
        units.map(move |unit| {
            if self.spans[at].last() < unit {
                at += 1;
            }
            self.spans[at].range_of(unit)
        })
    }
}

impl SpanUnits {
    fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    fn last(&self) -> usize {
        self.unit_of(self.end() - 1)
    }

    /// The unit that holds a byte of this span.
    fn unit_of(&self, at: u64) -> usize {
        self.first + index((at - self.start) / UNIT)
    }

    fn range_of(&self, unit: usize) -> Range<u64> {
        let start = self.start + (unit - self.first) as u64 * UNIT;
        start..self.end().min(start + UNIT)
    }
}

fn index(units: u64) -> usize {
    usize::try_from(units).unwrap_or(usize::MAX)
}

impl CutName {
    pub(super) fn of(layer: &LaunchLayer, large: &LargeFiles) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(large.ranges().len() as u64).to_le_bytes());
        for range in large.ranges() {
            hasher.update(&range.start.to_le_bytes());
            hasher.update(&range.end.to_le_bytes());
        }
        hasher.update(&layer.tar_len.to_le_bytes());
        hasher.update(&[u8::from(layer.scope == DigestScope::Compressed)]);
        for span in &layer.spans {
            hasher.update(&span.tar_offset.0.to_le_bytes());
            hasher.update(&span.tar_len.to_le_bytes());
            hasher.update(&span.digest.0);
        }
        let mut name = [0; 16];
        hasher.finalize_xof().fill(&mut name);
        Self(name)
    }
}

impl std::fmt::Display for CutName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(LAYOUT)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
