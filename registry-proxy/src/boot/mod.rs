//! Boot packs: what an image's start touches, cut from its converted layers into one blob.
//!
//! The same traces of the same image give the same pack. What is cut is verified span by span on the way, and what nodes would refuse
//! is not published.

pub mod carry;
mod foresee;
pub mod gather;
mod merge;
pub mod present;

use bytes::Bytes;
use jaunt_formats::Digest;
use jaunt_formats::boot::{PACK_RECIPE, Pack, PackWriter, Touch, Trace};
use jaunt_formats::compression::encoder_version;
use jaunt_formats::launch::LaunchIndex;
use jaunt_formats::media_type::{BOOT_PREDECESSOR, BOOT_TABLE, BOOT_TRACES, LAUNCH_BOOT_PACK, RECIPE};

use crate::content;
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::place::Place;
pub use foresee::foresee;
pub use merge::Wanted;

/// A pack that is not in its place yet.
pub struct Draft {
    /// The blob.
    pub pack: Pack,
    /// What it holds.
    pub wanted: Wanted,
    /// Digests of the traces that it was made of, and of a pack of the same image; none where nobody has started the image.
    pub made_of: Vec<Digest>,
    /// The pack of another image that it was made of.
    pub follows: Option<Digest>,
    /// zstd's level.
    pub level: i32,
}

/// Makes the pack of the image with this launch index, which was checked, of at most `limit` bytes of files, at a level of zstd's.
pub async fn make(
    place: &Place,
    (digest, index): (Digest, &LaunchIndex<Vec<u8>>),
    traces: &[Trace],
    limit: u64,
    level: i32,
) -> Result<Draft, Error> {
    if traces.iter().all(|trace| trace.touches.is_empty()) {
        return Err(Error::EmptyTraces);
    }
    let wanted = merge::merge(index, traces, limit)?;
    let contents = content::read(place, index.layers(), &wanted.extents).await?;
    let extents = wanted.extents.clone();
    let written = tokio::task::spawn_blocking(move || {
        let mut writer = PackWriter::new(digest, level)?;
        extents.into_iter().zip(contents).try_for_each(|(extent, bytes)| writer.push(extent, &bytes))?;
        writer.finish()
    });
    let pack = written.await??;
    pack.table.open(&pack.bytes[..pack.table.len()])?.check(digest, index.layers())?;
    Ok(Draft { pack, wanted, made_of: Vec::new(), follows: None, level })
}

/// Leaves of a trace as many touches, from its beginning, as are of no more than `limit` bytes together.
pub fn shorten(trace: &mut Trace, limit: u64) {
    let mut left = limit;
    let is_beyond = |touch: &Touch| match left.checked_sub(touch.len) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    };
    let kept = trace.touches.iter().position(is_beyond).unwrap_or(trace.touches.len());
    trace.touches.truncate(kept);
}

/// Pushes a pack.
pub async fn push(place: &Place, made: Draft) -> Result<Descriptor, Error> {
    let Draft { pack: Pack { bytes, table }, made_of, follows, level, .. } = made;
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    place.push_blob(&digest, Bytes::from(bytes)).await?;
    let mut traces: Vec<String> = made_of.iter().map(Digest::to_string).collect();
    traces.sort_unstable();
    let annotations = [
        (BOOT_TABLE, table.to_string()),
        (BOOT_TRACES, traces.join(" ")),
        (RECIPE, format!("{PACK_RECIPE}, level {level}, {}", encoder_version())),
    ];
    let follows = follows.map(|pack| (BOOT_PREDECESSOR, pack.to_string()));
    let annotations =
        annotations.into_iter().chain(follows).map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Descriptor { annotations: Some(annotations), ..Descriptor::new(LAUNCH_BOOT_PACK, digest, size) })
}

#[cfg(test)]
mod tests {
    use jaunt_formats::boot::TraceHead;

    use super::*;

    #[test]
    fn of_a_trace_that_is_too_long_the_beginning_is_kept() {
        let kept = |lens: &[u64], limit| {
            let touch = |&len: &u64| Touch { path: String::new(), offset: 0, len, ms: 0 };
            let head = TraceHead::new(String::new(), Digest::of(b"any"), 1);
            let mut trace = Trace { head, touches: lens.iter().map(touch).collect() };
            shorten(&mut trace, limit);
            trace.touches.len()
        };
        let lens = [5, 5, u64::MAX, 1];
        assert_eq!([0, 5, 9, 10, 100].map(|limit| kept(&lens, limit)), [0, 1, 1, 2, 2]);
        assert_eq!(kept(&[], 0), 0);
    }
}
