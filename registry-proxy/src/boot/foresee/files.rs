//! Files of an image by the paths that programs use, and their bytes.

use std::cell::Cell;
use std::ops::Range;

use jaunt_formats::TarOffset;
use jaunt_formats::boot::Extent;
use jaunt_formats::entry::PATH_MAX;
use jaunt_formats::launch::{FileContent, InodeId, InodeType, LaunchIndex, View};

use crate::content;
use crate::error::Error;
use crate::place::Place;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
/// Names that are looked up for one image; a start of Debian's largest programs needs some thousands.
const MAX_LOOKUPS: usize = 100_000;
/// Enough for a script's first line, and for most ELF files' headers and tables.
const HEAD: u64 = 64 << 10;

/// The files of an image.
pub struct Files<'f> {
    place: &'f Place,
    index: &'f LaunchIndex<Vec<u8>>,
    view: View<'f, Vec<u8>>,
    root: InodeId,
    lookups: Cell<usize>,
}

/// A regular file.
pub struct File {
    /// Without links, and without a slash at the start.
    path: String,
    content: FileContent,
}

impl File {
    /// Where it really is: without links, and without a slash at the start.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory, with a slash at the start.
    pub fn dir(&self) -> String {
        format!("/{}", self.path.rsplit_once('/').map_or("", |(dir, _)| dir))
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.content.size
    }
}

impl<'f> Files<'f> {
    /// Those of the whole image.
    pub fn new(place: &'f Place, index: &'f LaunchIndex<Vec<u8>>) -> Result<Self, Error> {
        let prefix = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
        let view = index.view(prefix).ok_or(Error::EmptyTraces)?;
        let root = view.root()?;
        Ok(Self { place, index, view, root, lookups: Cell::new(0) })
    }

    /// The regular file at a path from the root; `None` where there is none, or the way there is not to be followed.
    pub fn find(&self, path: &str) -> Option<File> {
        let (inode, names) = self.walk(path)?;
        (self.index.attributes(inode).ok()?.kind == InodeType::Regular).then_some(())?;
        Some(File { path: names.join("/"), content: self.index.content(inode).ok()? })
    }

    /// The names of a directory's children that end with `suffix`, as many as `limit`.
    pub fn names(&self, dir: &str, suffix: &str, limit: usize) -> Vec<String> {
        let children = self.walk(dir).and_then(|(inode, _)| self.view.children(inode, 0).ok());
        let names = children.into_iter().flatten().map_while(Result::ok);
        let names = names.filter_map(|child| std::str::from_utf8(child.name).ok());
        names.filter(|name| name.ends_with(suffix)).take(limit).map(str::to_owned).collect()
    }

    /// Follows a path and its links; the inode, and the names that lead to it.
    fn walk(&self, path: &str) -> Option<(InodeId, Vec<String>)> {
        if path.len() > PATH_MAX {
            return None;
        }
        let mut ahead: Vec<String> = names(path).rev().collect();
        let mut above: Vec<(String, InodeId)> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                above.pop();
                continue;
            }
            self.lookups.set(self.lookups.get() + 1);
            if self.lookups.get() > MAX_LOOKUPS {
                return None;
            }
            let dir = above.last().map_or(self.root, |(_, inode)| *inode);
            let inode = self.view.lookup(dir, name.as_bytes()).ok()??;
            match self.index.attributes(inode).ok()?.kind {
                InodeType::Symlink => {
                    let target = std::str::from_utf8(self.index.symlink_target(inode).ok()?).ok()?;
                    links += 1;
                    if links > MAX_LINKS || target.len() > PATH_MAX {
                        return None;
                    }
                    if target.starts_with('/') {
                        above.clear();
                    }
                    ahead.extend(names(target).rev());
                }
                InodeType::Directory => above.push((name, inode)),
                _ if ahead.is_empty() => above.push((name, inode)),
                _ => return None,
            }
            if above.len() + ahead.len() > PATH_MAX {
                return None;
            }
        }
        let inode = above.last().map_or(self.root, |(_, inode)| *inode);
        Some((inode, above.into_iter().map(|(name, _)| name).collect()))
    }

    /// The beginning of a file.
    pub async fn head(&self, file: &File) -> Result<Vec<u8>, Error> {
        self.read(file, 0..HEAD).await
    }

    /// A range of a file, as far as it is there. Holes of sparse files are zeros.
    pub async fn read(&self, file: &File, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let range = range.start..range.end.min(file.content.size);
        let Some(len) = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok()) else {
            return Ok(Vec::new());
        };
        let (mut extents, mut places) = (Vec::new(), Vec::new());
        for part in &file.content.extents {
            let common = part.file_offset.max(range.start)..(part.file_offset + part.len).min(range.end);
            let Some(len) = common.end.checked_sub(common.start).filter(|len| *len > 0) else { continue };
            let tar_offset = TarOffset(part.tar_offset.0 + (common.start - part.file_offset));
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            extents.push(Extent { layer: file.content.layer, tar_offset, len });
            places.push(usize::try_from(common.start - range.start).unwrap_or(usize::MAX));
        }
        let mut bytes = vec![0; len];
        let contents = content::read(self.place, self.index.layers(), &extents).await?;
        for (at, content) in places.into_iter().zip(contents) {
            if let Some(to) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..content.len())) {
                to.copy_from_slice(&content);
            }
        }
        Ok(bytes)
    }
}

fn names(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned)
}
