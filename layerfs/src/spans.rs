//! Where the spans of a layer lie, in its tar and in its blob.

use std::ops::Range;

use jaunt_formats::launch::LaunchLayer;

/// Compressed bytes fetched with one request at most: beyond it, two requests share the line as well.
const FETCH: u64 = 4 << 20;
/// Bytes of tar that one request brings at most. Zeros compress a thousandfold: 4 MiB of such a blob would be gigabytes.
const FETCH_TAR: u64 = 16 << 20;
/// Bytes of tar prefetched on either side of a miss at most: eight times the compressed reach.
const PREFETCH_TAR: u64 = 4 << 20;
/// Compressed bytes that a request brings along behind what it is for at most, and half as many before it.
const BESIDE: u64 = 2 << 20;
/// Bytes between two wanted spans that are fetched along: half a millisecond at 1 Gbit/s, for which no second request is
/// made. The spans among them are kept, those here already part two requests, and what no span covers is thrown away:
/// frames of podman's layers do not touch.
const GAP: u64 = 64 << 10;

/// The spans that cover a range of the tar; `None` if some of it is covered by none.
pub(crate) fn covering(layer: &LaunchLayer, range: &Range<u64>) -> Option<Range<usize>> {
    if range.start > range.end || range.end > layer.tar_len {
        return None;
    }
    let first = layer.spans.partition_point(|span| span.tar_range().end <= range.start);
    let (mut last, mut at) = (first, range.start);
    while at < range.end {
        let span = layer.spans.get(last).filter(|span| span.tar_offset.0 <= at)?;
        (last, at) = (last + 1, span.tar_range().end);
    }
    Some(first..last)
}

/// Where a run of spans lies in the blob; `None` for an empty run.
pub(crate) fn blob_range(layer: &LaunchLayer, spans: &Range<usize>) -> Option<Range<u64>> {
    let run = layer.spans.get(spans.clone())?;
    Some(run.first()?.blob_range().start..run.last()?.blob_range().end)
}

/// The spans that start in a blob range, and not far off in the tar, before and behind a run of them.
pub(crate) fn around(
    layer: &LaunchLayer,
    range: &Range<u64>,
    run: &Range<usize>,
) -> (Range<usize>, Range<usize>) {
    let spans = &layer.spans;
    let tar_start = |at: usize| spans.get(at).map_or(layer.tar_len, |span| span.tar_offset.0);
    let lowest = tar_start(run.start).saturating_sub(PREFETCH_TAR);
    let highest = tar_start(run.end).saturating_add(PREFETCH_TAR);
    let first = spans.partition_point(|span| span.blob_offset.0 < range.start || span.tar_offset.0 < lowest);
    let last =
        spans.partition_point(|span| span.blob_offset.0 < range.end && span.tar_range().end <= highest);
    (first.min(run.start)..run.start, run.end..last.max(run.end))
}

/// The spans before and behind a run of them that a request for it may bring along, up to one to `leave_out`, where
/// so many bytes come in one `round_trip`: those of two before it, which it waits for, and of six behind it. (A request takes
/// several times the shortest that was seen with usual registries, and processors at both ends.)
pub(crate) fn beside(
    layer: &LaunchLayer,
    run: &Range<usize>,
    round_trip: u64,
    leave_out: impl Fn(usize) -> bool,
) -> (Range<usize>, Range<usize>) {
    let Some(own) = blob_range(layer, run) else { return (run.start..run.start, run.end..run.end) };
    let before = round_trip.saturating_mul(2).min(BESIDE / 2);
    let behind = round_trip.saturating_mul(6).min(BESIDE);
    let within = own.start.saturating_sub(before)..own.end.saturating_add(behind);
    let (above, below) = around(layer, &within, run);
    let comes = |first, last, joint, at: usize| !leave_out(at) && fit(layer, first, last, joint);
    let ends = |at: usize| layer.spans[at].blob_range().end;
    let below = below.take_while(|&at| ends(at) <= within.end && comes(run.start, at, (at - 1, at), at));
    let end = below.last().map_or(run.end, |last| last + 1);
    let above = above.rev().take_while(|&at| comes(at, end - 1, (at, at + 1), at));
    (above.last().unwrap_or(run.start)..run.start, run.end..end)
}

/// Whether wanted spans from `first` to `last` are one request, of which `joint` are two that follow each other.
pub(crate) fn fit(layer: &LaunchLayer, first: usize, last: usize, joint: (usize, usize)) -> bool {
    let span = |at: usize| &layer.spans[at];
    let gap = span(joint.1).blob_offset.0.saturating_sub(span(joint.0).blob_range().end);
    gap <= GAP
        && span(last).blob_range().end - span(first).blob_offset.0 <= FETCH
        && span(last).tar_range().end - span(first).tar_offset.0 <= FETCH_TAR
}

/// The first so many of a run of spans that are one request.
pub(crate) fn one_request(layer: &LaunchLayer, run: &Range<usize>) -> Range<usize> {
    let fits = |last: &usize| *last == run.start || fit(layer, run.start, *last, (last - 1, *last));
    run.start..run.clone().take_while(fits).last().map_or(run.start, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use jaunt_formats::launch::{Blob, Compression};
    use jaunt_formats::{BlobOffset, DiffId, Digest, DigestScope, Span, SpanDigest, TarOffset};

    use super::*;

    /// Spans of (blob offset, compressed length, tar offset, tar length), as they are in layers made elsewhere:
    /// neither tar nor blob is covered without a gap.
    fn layer(spans: &[(u64, u32, u64, u32)]) -> LaunchLayer {
        let blob = Blob { digest: Digest::of(b""), len: 1 << 40, compression: Compression::Zstd };
        let span = |&(blob, compressed_len, tar, tar_len): &(u64, u32, u64, u32)| Span {
            blob_offset: BlobOffset(blob),
            compressed_len,
            tar_offset: TarOffset(tar),
            tar_len,
            digest: SpanDigest([0; 32]),
        };
        LaunchLayer {
            diff_id: DiffId(Digest::of(b"")),
            original: blob,
            converted: blob,
            tar_len: 1 << 40,
            scope: DigestScope::Uncompressed,
            spans: spans.iter().map(span).collect(),
        }
    }

    #[test]
    fn a_range_is_covered_without_a_gap_or_not_at_all() {
        let layer = layer(&[(0, 10, 512, 100), (10, 10, 612, 100), (20, 10, 1024, 100)]);
        assert_eq!(covering(&layer, &(512..712)), Some(0..2));
        assert_eq!(covering(&layer, &(600..613)), Some(0..2));
        assert_eq!(covering(&layer, &(1100..1124)), Some(2..3));
        assert_eq!(covering(&layer, &(700..700)), Some(1..1));
        for range in [0..600, 700..713, 612..1024, 1124..1125] {
            assert_eq!(covering(&layer, &range), None, "{range:?}");
        }
    }

    #[test]
    fn what_a_request_brings_along_is_near_whole_missing_and_little_where_the_line_is_slow() {
        let spans: Vec<_> = (0..100).map(|at| (at * 100_000, 100_000, at * 200_000, 200_000)).collect();
        let layer = layer(&spans);
        let none = |_| false;
        assert_eq!(beside(&layer, &(50..51), 100_000, none), (48..50, 51..57));
        assert_eq!(beside(&layer, &(50..51), 49_999, none), (50..50, 51..53));
        assert_eq!(beside(&layer, &(50..51), 16_666, none), (50..50, 51..51));
        assert_eq!(beside(&layer, &(50..51), u64::MAX, none), (40..50, 51..71), "bounded in the blob");
        assert_eq!(beside(&layer, &(50..51), 100_000, |at| at == 48 || at == 53), (49..50, 51..53));
        assert_eq!(beside(&layer, &(0..1), 100_000, none), (0..0, 1..7));
        assert_eq!(beside(&layer, &(99..100), 100_000, none), (97..99, 100..100));
        assert_eq!(
            beside(&layer, &(50..80), u64::MAX, none),
            (50..50, 80..91),
            "one request has 4 MiB in all"
        );
        assert_eq!(beside(&layer, &(7..7), 100_000, none), (7..7, 7..7));
    }

    #[test]
    fn a_request_is_bounded_in_both_spaces_and_jumps_short_gaps() {
        let small: Vec<_> = (0..100).map(|at| (at * 100_000, 50_000, at * 512, 512)).collect();
        assert_eq!(one_request(&layer(&small), &(0..100)), 0..42, "4 MiB of blob");
        let zeros: Vec<_> = (0..100).map(|at| (at * 100, 100, at << 20, 1 << 20)).collect();
        assert_eq!(one_request(&layer(&zeros), &(3..100)), 3..19, "16 MiB of tar");
        let apart: Vec<_> = (0..100).map(|at| (at * 200_000, 50_000, at * 512, 512)).collect();
        assert_eq!(one_request(&layer(&apart), &(3..100)), 3..4);
        assert_eq!(
            one_request(&layer(&[(0, 60 << 20, 0, 60 << 20)]), &(0..1)),
            0..1,
            "one span, whatever it is"
        );
        assert_eq!(one_request(&layer(&small), &(7..7)), 7..7);
    }
}
