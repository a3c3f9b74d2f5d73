//! A predecessor's pack as a trace: what it holds, by path, in its order.

use jaunt_formats::Digest;
use jaunt_formats::boot::{BootPack, Touch, Trace, TraceHead};
use jaunt_formats::launch::{InodeType, LaunchIndex};

use crate::error::Error;

/// A part of a file in a layer's tar.
struct Part {
    layer: u16,
    tar: std::ops::Range<u64>,
    path: String,
    file_offset: u64,
}

/// The trace that would give this pack again.
pub fn as_trace(index: &LaunchIndex<Vec<u8>>, digest: Digest, pack: &BootPack) -> Result<Trace, Error> {
    pack.check(digest, index.layers())?;
    let parts = parts(index)?;
    let mut touches = Vec::new();
    for extent in &pack.extents {
        let range = extent.tar_range();
        let first = parts.partition_point(|part| (part.layer, part.tar.end) <= (extent.layer, range.start));
        let held =
            parts[first..].iter().take_while(|part| part.layer == extent.layer && part.tar.start < range.end);
        for part in held {
            let common = part.tar.start.max(range.start)..part.tar.end.min(range.end);
            let offset = part.file_offset + (common.start - part.tar.start);
            touches.push(Touch { path: part.path.clone(), offset, len: common.end - common.start, ms: 0 });
        }
    }
    let prefix = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
    Ok(Trace { head: TraceHead::new("a predecessor's pack".to_owned(), digest, prefix), touches })
}

/// All regular files' parts, by layer and place. A file with several names has one of them here.
fn parts(index: &LaunchIndex<Vec<u8>>) -> Result<Vec<Part>, Error> {
    let prefix = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
    let view = index.view(prefix).ok_or(Error::EmptyTraces)?;
    let (mut parts, mut pending) = (Vec::new(), vec![(String::new(), view.root()?)]);
    while let Some((path, dir)) = pending.pop() {
        for child in view.children(dir, 0)? {
            let child = child?;
            // A trace cannot name what is not text.
            let Ok(name) = std::str::from_utf8(child.name) else { continue };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            match index.attributes(child.inode)?.kind {
                InodeType::Directory => pending.push((path, child.inode)),
                InodeType::Regular => {
                    let content = index.content(child.inode)?;
                    for extent in content.extents.iter().filter(|extent| extent.len > 0) {
                        let tar = extent.tar_offset.0..extent.tar_offset.0 + extent.len;
                        let (layer, file_offset) = (content.layer, extent.file_offset);
                        parts.push(Part { layer, tar, path: path.clone(), file_offset });
                    }
                }
                _ => {}
            }
        }
    }
    parts.sort_unstable_by_key(|part| (part.layer, part.tar.start, part.tar.end));
    parts.dedup_by_key(|part| (part.layer, part.tar.start));
    Ok(parts)
}
