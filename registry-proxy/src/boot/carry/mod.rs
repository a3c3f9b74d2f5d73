//! A pack that there is as a trace, a predecessor's or the image's own: what it holds, by path and content digest, in its order.
//!
//! A file that has another name now is touched there; one that has changed under its name is touched where it was before, as far as
//! it reaches; one that is gone is left out.

mod moved;

use std::collections::{HashMap, HashSet};

use jaunt_formats::Digest;
use jaunt_formats::boot::{BootPack, Extent, MAX_TOUCHES, Touch, Trace, TraceHead};
use jaunt_formats::entry::PATH_MAX;
use jaunt_formats::error_chain;
use jaunt_formats::launch::{InodeId, InodeType, LaunchIndex};

use super::merge::find;
use crate::artifact::{Artifact, table_place};
use crate::error::Error;
use crate::place::Place;
pub use moved::Side;

/// A part of a file in a layer's tar.
struct Part<'i> {
    layer: u16,
    tar: std::ops::Range<u64>,
    dir: usize,
    name: &'i str,
    file_offset: u64,
}

/// A directory, and where the one is that holds it.
struct Dir<'i> {
    above: usize,
    name: &'i str,
    inode: InodeId,
}

/// A pack that goes from one image to another.
pub struct Carried {
    /// Its digest.
    pub pack: Digest,
    /// What it holds, as the other image names it.
    pub trace: Trace,
    /// Files that have another name there.
    pub moved: usize,
}

/// The pack of an artifact, for another image.
pub async fn of_artifact(place: &Place, artifact: &Artifact, new: Side<'_>) -> Result<Carried, Error> {
    let boot = artifact.boot.as_ref().ok_or(Error::NoPack(artifact.digest))?;
    let table = table_place(boot, artifact.digest)?;
    let bytes = place.blob_range(&boot.digest, 0..table.len() as u64).await?;
    let index: LaunchIndex<Vec<u8>> = artifact.launch_index(place).await?;
    jaunt_formats::launch::check(&index)?;
    let trace = as_trace(&index, artifact.index.digest, &table.open(&bytes)?)?;
    let old = Side { place, index: &index, layers: &artifact.layers };
    let paths: HashSet<&str> = trace.touches.iter().map(|touch| touch.path.as_str()).collect();
    let moved = moved::moved(old, new, paths).await?;
    let touches = trace.touches.into_iter().flat_map(|touch| renamed(touch, new, &moved));
    let trace = Trace { head: trace.head, touches: touches.take(MAX_TOUCHES).collect() };
    Ok(Carried { pack: boot.digest, trace, moved: moved.len() })
}

/// The same; `None` where the pack is gone or no good, which is told.
pub async fn if_sound(place: &Place, artifact: &Artifact, new: Side<'_>) -> Result<Option<Carried>, Error> {
    let Some(blob) = artifact.boot.as_ref().map(|boot| boot.digest) else { return Ok(None) };
    if place.blob_exists(&blob).await?.is_none() {
        tracing::warn!(%blob, "the boot pack there was is gone");
        return Ok(None);
    }
    match of_artifact(place, artifact, new).await {
        Ok(carried) => Ok(Some(carried)),
        Err(error @ Error::Place(_)) => Err(error),
        Err(error) => {
            tracing::warn!(error = error_chain(&error), %blob, "the boot pack there was is no good");
            Ok(None)
        }
    }
}

/// A touch where the file's content is now, and under the name that it had unless nothing is there.
fn renamed(touch: Touch, new: Side<'_>, moved: &HashMap<String, String>) -> Vec<Touch> {
    let Some(path) = moved.get(&touch.path) else { return vec![touch] };
    let there = Touch { path: path.clone(), ..touch.clone() };
    if find(new.index, &touch.path).is_some() { vec![there, touch] } else { vec![there] }
}

/// The trace that would give this pack again, but for what is beyond the limit of traces.
fn as_trace(index: &LaunchIndex<Vec<u8>>, digest: Digest, pack: &BootPack) -> Result<Trace, Error> {
    pack.check(digest, index.layers())?;
    let (parts, dirs) = parts(index)?;
    let touches = touches(&parts, &dirs, &pack.extents).take(MAX_TOUCHES).collect();
    let prefix = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
    Ok(Trace { head: TraceHead::new("a predecessor's pack".to_owned(), digest, prefix), touches })
}

/// What these extents hold, each found when it is asked for: parts that lie over each other are as many as an image likes.
fn touches<'i>(
    parts: &'i [Part<'_>],
    dirs: &'i [Dir<'_>],
    extents: &'i [Extent],
) -> impl Iterator<Item = Touch> + 'i {
    extents.iter().flat_map(move |extent| {
        let range = extent.tar_range();
        let first = parts.partition_point(|part| (part.layer, part.tar.end) <= (extent.layer, range.start));
        let end = range.end;
        let held =
            parts[first..].iter().take_while(move |part| part.layer == extent.layer && part.tar.start < end);
        held.filter_map(move |part| {
            let common = part.tar.start.max(range.start)..part.tar.end.min(range.end);
            let offset = part.file_offset + (common.start - part.tar.start);
            Some(Touch { path: path(dirs, part)?, offset, len: common.end.checked_sub(common.start)?, ms: 0 })
        })
    })
}

/// Of a part, unless it is too long to be opened.
fn path(dirs: &[Dir<'_>], part: &Part<'_>) -> Option<String> {
    let (mut names, mut len, mut at) = (vec![part.name], part.name.len(), part.dir);
    while at > 0 && len <= PATH_MAX {
        names.push(dirs[at].name);
        len += dirs[at].name.len() + 1;
        at = dirs[at].above;
    }
    names.reverse();
    (len <= PATH_MAX).then(|| names.join("/"))
}

/// All regular files' parts, by layer and place, and the directories. A file with several names has one of them here. What is not
/// in the pack needs no path: an image may nest names as it likes.
fn parts(index: &LaunchIndex<Vec<u8>>) -> Result<(Vec<Part<'_>>, Vec<Dir<'_>>), Error> {
    let prefix = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
    let view = index.view(prefix).ok_or(Error::EmptyTraces)?;
    let (mut parts, mut at) = (Vec::new(), 0);
    let mut dirs = vec![Dir { above: 0, name: "", inode: view.root()? }];
    while let Some(dir) = dirs.get(at).map(|dir| dir.inode) {
        for child in view.children(dir, 0)? {
            let child = child?;
            // A trace cannot name what is not text.
            let Ok(name) = std::str::from_utf8(child.name) else { continue };
            match index.attributes(child.inode)?.kind {
                InodeType::Directory => dirs.push(Dir { above: at, name, inode: child.inode }),
                InodeType::Regular => {
                    let content = index.content(child.inode)?;
                    for extent in content.extents.iter().filter(|extent| extent.len > 0) {
                        let tar = extent.tar_offset.0..extent.tar_offset.0 + extent.len;
                        let (layer, file_offset) = (content.layer, extent.file_offset);
                        parts.push(Part { layer, tar, dir: at, name, file_offset });
                    }
                }
                _ => {}
            }
        }
        at += 1;
    }
    parts.sort_unstable_by_key(|part| (part.layer, part.tar.start, part.tar.end));
    parts.dedup_by_key(|part| (part.layer, part.tar.start));
    Ok((parts, dirs))
}

#[cfg(test)]
mod tests {
    use jaunt_formats::TarOffset;

    use super::*;

    #[test]
    fn of_parts_over_each_other_none_is_looked_at_beyond_the_limit() {
        let dirs = [Dir { above: 0, name: "", inode: InodeId(0) }];
        let part = |end, dir| Part { layer: 0, tar: 0..end, dir, name: "file", file_offset: 0 };
        // The path of the last one cannot be told.
        let parts = [part(100, 0), part(200, 0), part(300, usize::MAX)];
        let extents = [Extent { layer: 0, tar_offset: TarOffset(50), len: 20 }];
        let found: Vec<_> = touches(&parts, &dirs, &extents).take(2).collect();
        let touch = Touch { path: "file".to_owned(), offset: 50, len: 20, ms: 0 };
        assert_eq!(found, [touch.clone(), touch]);
    }
}
