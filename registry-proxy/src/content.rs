//! Reads ranges of layers' tars out of the converted blobs, every span verified against the launch index.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_formats::boot::Extent;
use jaunt_formats::compression::FrameDecoder;
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::{DigestScope, Span};

use crate::error::Error;
use crate::place::Place;

/// Compressed bytes of one request, unless a span has more.
const REQUEST: u64 = 4 << 20;
/// Requests at the same time.
const PARALLEL: usize = 4;

/// The content of some extents, which do not overlap and lie in spans of their layers; in the same order.
pub async fn read(place: &Place, layers: &[LaunchLayer], extents: &[Extent]) -> Result<Vec<Vec<u8>>, Error> {
    let mut contents: Vec<Vec<u8>> = extents.iter().map(|extent| vec![0; extent.len as usize]).collect();
    let mut by_layer = BTreeMap::<u16, Vec<usize>>::new();
    extents.iter().enumerate().for_each(|(at, extent)| by_layer.entry(extent.layer).or_default().push(at));
    for (number, mut wanted) in by_layer {
        let layer = &layers[usize::from(number)];
        wanted.sort_unstable_by_key(|&at| extents[at].tar_offset);
        let runs = runs(layer, wanted.iter().map(|&at| extents[at].tar_range()));
        let mut fetched =
            stream::iter(runs.into_iter().map(|run| fetch(place, layer, run))).buffered(PARALLEL);
        while let Some(spans) = fetched.try_next().await? {
            for (span, bytes) in spans {
                let own = span.tar_range();
                let first = wanted.partition_point(|&at| extents[at].tar_range().end <= own.start);
                for &at in wanted[first..].iter().take_while(|&&at| extents[at].tar_offset.0 < own.end) {
                    copy(&extents[at].tar_range(), &mut contents[at], &own, &bytes);
                }
            }
        }
    }
    Ok(contents)
}

/// Runs of neighbouring spans that hold some ranges, which are sorted.
fn runs(layer: &LaunchLayer, ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        let first = layer.spans.partition_point(|span| span.tar_range().end <= range.start);
        let last = layer.spans.partition_point(|span| span.tar_offset.0 < range.end);
        for at in first..last {
            let len =
                |run: &Range<usize>| layer.spans[at].blob_range().end - layer.spans[run.start].blob_offset.0;
            match runs.last_mut() {
                Some(run) if run.end > at => {}
                Some(run) if run.end == at && len(run) <= REQUEST => run.end = at + 1,
                _ => runs.push(at..at + 1),
            }
        }
    }
    runs
}

/// Fetches, verifies and decodes a run of spans.
async fn fetch(place: &Place, layer: &LaunchLayer, run: Range<usize>) -> Result<Vec<(Span, Vec<u8>)>, Error> {
    let digest = layer.converted.digest;
    let spans = layer.spans[run].to_vec();
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Ok(Vec::new()) };
    let start = first.blob_offset.0;
    let blob = place.blob_range(&digest, start..last.blob_range().end).await?;
    let scope = layer.scope;
    let decoded = tokio::task::spawn_blocking(move || {
        let mut decoder = FrameDecoder::new();
        spans
            .into_iter()
            .map(|span| Some((span, decode(&mut decoder, &span, scope, start, &blob)?)))
            .collect()
    });
    let decoded: Option<Vec<_>> = decoded.await?;
    let what = || "a span of it is not what its launch index says: verify tells which".to_owned();
    decoded.ok_or_else(|| Error::Mismatch { layer: digest, what: what() })
}

fn decode(
    decoder: &mut FrameDecoder,
    span: &Span,
    scope: DigestScope,
    start: u64,
    blob: &Bytes,
) -> Option<Vec<u8>> {
    let at = |offset: u64| usize::try_from(offset - start).ok();
    let compressed = blob.get(at(span.blob_range().start)?..at(span.blob_range().end)?)?;
    let sound = scope == DigestScope::Compressed && *blake3::hash(compressed).as_bytes() == span.digest.0;
    if sound { decoder.decode_to_vec(compressed, span.tar_len as usize).ok() } else { None }
}

/// Copies what two ranges have in common.
fn copy(to: &Range<u64>, content: &mut [u8], from: &Range<u64>, bytes: &[u8]) {
    let common = to.start.max(from.start)..to.end.min(from.end);
    let within = |range: &Range<u64>| {
        let at = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
        at(common.start)..at(common.end)
    };
    if let (Some(content), Some(bytes)) = (content.get_mut(within(to)), bytes.get(within(from))) {
        content.copy_from_slice(bytes);
    }
}
