//! A layer's whole tar, out of what is local: its spans, and what none of them covers.

use std::ops::Range;

use bytes::Bytes;
use jaunt_formats::launch::LaunchLayer;

use crate::store::{LayerFile, Rest, gaps};

/// The tar of a layer.
pub(super) struct Tar<'l> {
    file: &'l LayerFile,
    layer: &'l LaunchLayer,
    rest: Option<Rest>,
}

impl<'l> Tar<'l> {
    /// `None` if what no span covers is not here.
    pub(super) fn open(file: &'l LayerFile, layer: &'l LaunchLayer) -> Option<Self> {
        let rest = if layer.covers_tar() { None } else { Some(file.rest(layer)?) };
        Some(Self { file, layer, rest })
    }

    /// All of it, in order: each span, and each gap between two.
    pub(super) fn parts(&self) -> Vec<Range<u64>> {
        let spans = self.layer.spans.iter().map(|span| span.tar_range());
        let mut parts: Vec<_> = spans.chain(gaps(self.layer)).collect();
        parts.sort_by_key(|part| part.start);
        parts
    }

    /// The bytes of a range; `None` if a part of it is not here.
    pub(super) fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        let Some(rest) = &self.rest else { return self.file.read(range) };
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).ok()?);
        let mut at = range.start;
        let spans = &self.layer.spans;
        let mut next = spans.partition_point(|span| span.tar_range().end <= at);
        while at < range.end {
            match spans.get(next).map(|span| span.tar_range()) {
                Some(span) if span.start <= at => {
                    let end = span.end.min(range.end);
                    bytes.extend_from_slice(&self.file.read(&(at..end))?);
                    (at, next) = (end, next + 1);
                }
                behind => {
                    let end = behind.map_or(range.end, |span| span.start.min(range.end));
                    bytes.extend_from_slice(&rest.read(&(at..end))?);
                    at = end;
                }
            }
        }
        Some(bytes.into())
    }
}
