//! The file system itself, without FUSE: inodes, names and bytes of a chain of layers.
//!
//! Inode numbers are those of the index, so another process that opens the same index answers for them. The
//! numbers below [`FIRST_INODE`] are the mount's own: its root directory, whose one child `fs` is the chain's
//! root directory (containerd idmaps the parent of a lower directory, so there must be one).

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use jaunt_formats::launch::{Attributes, InodeId, InodeType, LaunchError, View};
use jaunt_formats::{SparseExtent, Timestamp, Xattr};

use crate::index_file::MappedIndex;
use crate::layer::{Counters, Layer, ReadErrors};
use crate::prefetch::Prefetcher;
use crate::source::Source;
use crate::store::{Store, StoreError};

/// Name of the chain's root directory within its mount.
pub const ROOT_NAME: &str = "fs";
/// The mount's root directory, by the rules of FUSE.
pub const MOUNT_ROOT: Ino = Ino(1);
/// Inode `n` of the index has this number plus `n`.
const FIRST_INODE: u64 = 16;

/// An inode number as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ino(pub u64);

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'f> {
    /// Its name.
    pub name: &'f [u8],
    /// Its inode.
    pub ino: Ino,
    /// Its type.
    pub kind: InodeType,
    /// Where to go on after it.
    pub next: u64,
}

/// A mounted chain: the first `prefix` layers of an index.
pub struct LayerFs {
    index: MappedIndex,
    prefix: u16,
    root: InodeId,
    name: String,
    layers: Vec<OnceLock<Layer>>,
    store: Arc<Store>,
    source: Arc<dyn Source>,
    prefetcher: Prefetcher,
    counters: Arc<Counters>,
    has_xattrs: bool,
}

/// Why the file system cannot answer. `fuse::errno` says which error number each becomes.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// There is no such name or inode.
    #[error("no such file")]
    NotFound,
    /// The inode is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// The inode is no regular file, or no symbolic link, as the call needs it.
    #[error("wrong type of file")]
    WrongType,
    /// The index contradicts itself.
    #[error("the launch index is damaged")]
    Index(#[from] LaunchError),
    /// The local store failed.
    #[error("the local store failed")]
    Store(#[from] StoreError),
    /// The bytes cannot be read.
    #[error("the content cannot be read")]
    Read(#[from] ReadErrors),
}

/// A stretch of a read: bytes of the layer's tar, or zeros of a sparse file.
#[derive(Debug, PartialEq, Eq)]
enum Stretch {
    Tar(Range<u64>),
    Zeros(u64),
}

impl LayerFs {
    /// The first `prefix` layers of `index`, named `name` in messages.
    ///
    /// # Errors
    /// The index has fewer layers or no root directory.
    pub fn new(
        index: MappedIndex,
        prefix: u16,
        name: String,
        store: Arc<Store>,
        source: Arc<dyn Source>,
    ) -> Result<Self, FsError> {
        let view = index.view(prefix).ok_or(LaunchError::Malformed("fewer layers than asked for"))?;
        let root = view.root()?;
        let layers = (0..prefix).map(|_| OnceLock::new()).collect();
        let has_xattrs = index.has_xattrs();
        let (prefetcher, counters) = (Prefetcher::new(true), Arc::default());
        Ok(Self { index, prefix, root, name, layers, store, source, prefetcher, counters, has_xattrs })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What reading has cost so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether any file has an extended attribute; where none has, none needs to be asked for.
    pub fn has_xattrs(&self) -> bool {
        self.has_xattrs
    }

    /// Where content is kept, for `statfs`.
    pub fn store_path(&self) -> &Path {
        self.store.root()
    }

    /// The child `name` of a directory, or `None`.
    ///
    /// # Errors
    /// `parent` is no directory.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>, FsError> {
        if parent == MOUNT_ROOT {
            return Ok((name == ROOT_NAME.as_bytes()).then(|| ino(self.root)));
        }
        let dir = self.directory(parent)?;
        Ok(self.view()?.lookup(dir, name)?.map(ino))
    }

    /// What `stat` tells of an inode.
    ///
    /// # Errors
    /// There is no such inode.
    pub fn attributes(&self, inode: Ino) -> Result<Attributes, FsError> {
        if inode == MOUNT_ROOT {
            let kind = InodeType::Directory;
            let mtime = Timestamp::default();
            return Ok(Attributes { kind, mode: 0o755, uid: 0, gid: 0, size: 0, mtime, nlink: 1 });
        }
        Ok(self.index.attributes(self.inode(inode)?)?)
    }

    /// The entries of a directory from `next` of an earlier entry, or from the start with 0; `.` and `..` first.
    ///
    /// # Errors
    /// It is no directory.
    pub fn entries(
        &self,
        dir: Ino,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'_>, FsError>> + '_, FsError> {
        let parent = if dir == MOUNT_ROOT { dir } else { self.parent(dir)? };
        let dots = [(&b"."[..], dir), (b"..", parent)].into_iter().zip(1..);
        let dots =
            dots.map(|((name, ino), next)| Ok(DirEntry { name, ino, kind: InodeType::Directory, next }));
        let fs = (dir == MOUNT_ROOT).then(|| {
            Ok(DirEntry {
                name: ROOT_NAME.as_bytes(),
                ino: ino(self.root),
                kind: InodeType::Directory,
                next: 3,
            })
        });
        let children = if dir == MOUNT_ROOT {
            None
        } else {
            Some(self.view()?.children(self.directory(dir)?, from.saturating_sub(2))?.map(|child| {
                let child = child?;
                let kind = self.index.attributes(child.inode)?.kind;
                Ok(DirEntry { name: child.name, ino: ino(child.inode), kind, next: child.next + 2 })
            }))
        };
        let own = dots.chain(fs).skip(usize::try_from(from).unwrap_or(usize::MAX));
        Ok(own.chain(children.into_iter().flatten()))
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// It is no symbolic link.
    pub fn symlink_target(&self, inode: Ino) -> Result<&[u8], FsError> {
        let inode = self.inode(inode)?;
        if self.index.attributes(inode)?.kind != InodeType::Symlink {
            return Err(FsError::WrongType);
        }
        Ok(self.index.symlink_target(inode)?)
    }

    /// The extended attributes of an inode.
    ///
    /// # Errors
    /// There is no such inode.
    pub fn xattrs(&self, inode: Ino) -> Result<Vec<Xattr>, FsError> {
        if inode == MOUNT_ROOT {
            return Ok(Vec::new());
        }
        Ok(self.index.xattrs(self.inode(inode)?)?)
    }

    /// Up to `len` bytes of a file from `offset`, if all of them are local; fewer at its end.
    ///
    /// # Errors
    /// It is no regular file, or the disk failed.
    pub fn read_local(&self, inode: Ino, offset: u64, len: u32) -> Result<Option<Vec<u8>>, FsError> {
        let (layer, stretches) = self.plan(inode, offset, len)?;
        let mut bytes = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Zeros(len) => bytes.resize(bytes.len() + usize_of(len), 0),
                Stretch::Tar(range) => match layer.read_local(&range).map_err(ReadErrors::from)? {
                    Some(part) if bytes.is_empty() => bytes = part,
                    Some(part) => bytes.extend_from_slice(&part),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(bytes))
    }

    /// As [`read_local`](Self::read_local), but fetches what is missing. Cancel-safe.
    ///
    /// # Errors
    /// It is no regular file, or its bytes can neither be read nor fetched.
    pub async fn read(&self, inode: Ino, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        let (layer, stretches) = self.plan(inode, offset, len)?;
        let mut bytes = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Zeros(len) => bytes.resize(bytes.len() + usize_of(len), 0),
                Stretch::Tar(range) => bytes.append(&mut layer.read(range).await?),
            }
        }
        Ok(bytes)
    }

    /// A path of the inode, for messages: the first of its names that is visible. Looks at every name.
    pub fn path_of(&self, inode: Ino) -> Option<String> {
        let (view, wanted) = (self.view().ok()?, self.inode(inode).ok()?);
        let mut pending = vec![(String::new(), self.root)];
        while let Some((path, dir)) = pending.pop() {
            for child in view.children(dir, 0).ok()?.flatten() {
                let path = format!("{path}/{}", String::from_utf8_lossy(child.name));
                if child.inode == wanted {
                    return Some(path);
                }
                if self.index.attributes(child.inode).is_ok_and(|child| child.kind == InodeType::Directory) {
                    pending.push((path, child.inode));
                }
            }
        }
        None
    }

    fn plan(&self, inode: Ino, offset: u64, len: u32) -> Result<(&Layer, Vec<Stretch>), FsError> {
        let inode = self.inode(inode)?;
        if self.index.attributes(inode)?.kind != InodeType::Regular {
            return Err(FsError::WrongType);
        }
        let content = self.index.content(inode)?;
        let end = offset.saturating_add(len.into()).min(content.size);
        Ok((self.layer(content.layer)?, stretches(&content.extents, offset..end)))
    }

    fn layer(&self, number: u16) -> Result<&Layer, FsError> {
        let place = self.layers.get(usize::from(number));
        let place = place.ok_or(LaunchError::Malformed("content of a layer above the mounted ones"))?;
        if let Some(layer) = place.get() {
            return Ok(layer);
        }
        let layer = self.index.layers()[usize::from(number)].clone();
        let file = self.store.layer(&layer);
        let (source, prefetcher, counters) =
            (self.source.clone(), self.prefetcher.clone(), self.counters.clone());
        Ok(place.get_or_init(|| Layer::new(layer, file, source, prefetcher, counters)))
    }

    fn view(&self) -> Result<View<'_, memmap2::Mmap>, LaunchError> {
        self.index.view(self.prefix).ok_or(LaunchError::Malformed("fewer layers than asked for"))
    }

    fn parent(&self, dir: Ino) -> Result<Ino, FsError> {
        let dir = self.directory(dir)?;
        Ok(if dir == self.root { MOUNT_ROOT } else { ino(self.view()?.parent(dir)?) })
    }

    fn directory(&self, dir: Ino) -> Result<InodeId, FsError> {
        let dir = self.inode(dir)?;
        match self.index.attributes(dir)?.kind {
            InodeType::Directory => Ok(dir),
            _ => Err(FsError::NotADirectory),
        }
    }

    fn inode(&self, inode: Ino) -> Result<InodeId, FsError> {
        let number = inode.0.checked_sub(FIRST_INODE).and_then(|number| u32::try_from(number).ok());
        number
            .filter(|&number| (number as usize) < self.index.inode_count())
            .map(InodeId)
            .ok_or(FsError::NotFound)
    }
}

fn ino(inode: InodeId) -> Ino {
    Ino(FIRST_INODE + u64::from(inode.0))
}

/// Cuts a range of a file into what the tar holds of it and the holes between.
fn stretches(extents: &[SparseExtent], range: Range<u64>) -> Vec<Stretch> {
    let mut cut = Vec::new();
    let mut at = range.start;
    for extent in extents {
        let (start, end) = (extent.file_offset.max(at), (extent.file_offset + extent.len).min(range.end));
        if start >= end {
            continue;
        }
        if start > at {
            cut.push(Stretch::Zeros(start - at));
        }
        let tar = extent.tar_offset.0 + (start - extent.file_offset);
        cut.push(Stretch::Tar(tar..tar + (end - start)));
        at = end;
    }
    if at < range.end {
        cut.push(Stretch::Zeros(range.end - at));
    }
    cut
}

/// Lengths here are at most the `u32` that a read asks for.
fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jaunt_formats::TarOffset;

    use super::*;

    #[test]
    fn holes_read_as_zeros() {
        let extent = |file_offset, tar, len| SparseExtent { file_offset, tar_offset: TarOffset(tar), len };
        let file = [extent(0, 1000, 10), extent(20, 1010, 10)];
        let cases: [(Range<u64>, &[Stretch]); 5] = [
            (0..5, &[Stretch::Tar(1000..1005)]),
            (5..25, &[Stretch::Tar(1005..1010), Stretch::Zeros(10), Stretch::Tar(1010..1015)]),
            (12..18, &[Stretch::Zeros(6)]),
            (25..40, &[Stretch::Tar(1015..1020), Stretch::Zeros(10)]),
            (40..40, &[]),
        ];
        for (range, want) in cases {
            assert_eq!(stretches(&file, range.clone()), want, "{range:?}");
        }
    }
}
