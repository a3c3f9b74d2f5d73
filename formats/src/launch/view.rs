//! The tree of an image's first k layers, read from the index as it lies.

use std::cmp::Ordering;

use super::layout::Section;
use super::{Attributes, InodeId, InodeType, LaunchError, LaunchIndex};

/// A prefix of the stack, as one file system.
pub struct View<'i, B> {
    index: &'i LaunchIndex<B>,
    prefix: u16,
}

/// One visible child of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child<'i> {
    /// Its name, never empty but for the root.
    pub name: &'i [u8],
    /// The inode under that name.
    pub inode: InodeId,
    /// Where to go on: pass it to [`View::children`]. Stable over mounts and restarts, never 0.
    pub next: u64,
}

/// Directory 0 holds the root alone.
const HOLDER: usize = 0;

impl<'i, B: AsRef<[u8]>> View<'i, B> {
    pub(super) fn new(index: &'i LaunchIndex<B>, prefix: u16) -> Self {
        Self { index, prefix }
    }

    /// The root directory.
    ///
    /// # Errors
    /// The index has none in this prefix: it is malformed.
    pub fn root(&self) -> Result<InodeId, LaunchError> {
        self.find(HOLDER, b"")?.ok_or(LaunchError::Malformed("there is no root directory"))
    }

    /// The child `name` of `dir`; `None` where there is none in this prefix.
    ///
    /// # Errors
    /// `dir` is no directory, or a record is malformed.
    pub fn lookup(&self, dir: InodeId, name: &[u8]) -> Result<Option<InodeId>, LaunchError> {
        if name.is_empty() {
            return Ok(None);
        }
        self.find(self.dir_of(dir)?, name)
    }

    /// The children of `dir` in order of name, from the position that [`Child::next`] gave; 0 starts.
    ///
    /// # Errors
    /// `dir` is no directory. A malformed record ends the iteration with an error.
    pub fn children(
        &self,
        dir: InodeId,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<Child<'i>, LaunchError>> + use<'i, B>, LaunchError> {
        let (first, last) = self.dentries(self.dir_of(dir)?)?;
        let start = usize::try_from(from).unwrap_or(usize::MAX).saturating_add(first).min(last);
        let view = Self { index: self.index, prefix: self.prefix };
        Ok((start..last).filter_map(move |at| view.child(first, at).transpose()))
    }

    /// The directory that holds directory `dir`; the root is its own.
    ///
    /// # Errors
    /// `dir` is no directory, or a record is malformed.
    pub fn parent(&self, dir: InodeId) -> Result<InodeId, LaunchError> {
        let dentry = self.index.u32_at(Section::DirDentry, self.dir_of(dir)?)? as usize;
        let holder = self.dir_holding(dentry)?;
        if holder == HOLDER {
            return self.root();
        }
        let (mut at, last) = self.dentries_around(self.index.u32_at(Section::DirDentry, holder)? as usize)?;
        let name = self.name(at)?;
        while at < last && self.name(at)? == name {
            if self.is_visible(at)? {
                return self.inode(at);
            }
            at += 1;
        }
        Err(LaunchError::Malformed("a directory's parent is not visible"))
    }

    fn child(&self, first: usize, at: usize) -> Result<Option<Child<'i>>, LaunchError> {
        if !self.is_visible(at)? {
            return Ok(None);
        }
        Ok(Some(Child { name: self.name(at)?, inode: self.inode(at)?, next: (at - first) as u64 + 1 }))
    }

    /// Binary search by name, then the one version that this prefix shows.
    fn find(&self, dir: usize, name: &[u8]) -> Result<Option<InodeId>, LaunchError> {
        let (first, last) = self.dentries(dir)?;
        let (mut low, mut high) = (first, last);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle)?.cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        while low < last && self.name(low)? == name {
            if self.is_visible(low)? {
                return self.inode(low).map(Some);
            }
            low += 1;
        }
        Ok(None)
    }

    fn is_visible(&self, dentry: usize) -> Result<bool, LaunchError> {
        Ok(self.index.u16_at(Section::DentryFirstLayer, dentry)? < self.prefix
            && self.prefix <= self.index.u16_at(Section::DentryHiddenFrom, dentry)?)
    }

    fn inode(&self, dentry: usize) -> Result<InodeId, LaunchError> {
        let inode = InodeId(self.index.u32_at(Section::DentryInode, dentry)?);
        if (inode.0 as usize) < self.index.inode_count() {
            return Ok(inode);
        }
        Err(LaunchError::Record { what: "dentry", at: dentry as u64, why: "names no inode" })
    }

    fn name(&self, dentry: usize) -> Result<&'i [u8], LaunchError> {
        let start = match dentry.checked_sub(1) {
            Some(before) => self.index.u32_at(Section::DentryNameEnd, before)?,
            None => 0,
        };
        let end = self.index.u32_at(Section::DentryNameEnd, dentry)?;
        self.index.column(Section::Names).get(start as usize..end as usize).ok_or(LaunchError::Record {
            what: "dentry",
            at: dentry as u64,
            why: "its name lies outside the names",
        })
    }

    /// The dentries of directory number `dir`, as a range.
    fn dentries(&self, dir: usize) -> Result<(usize, usize), LaunchError> {
        let first = self.index.u32_at(Section::DirFirst, dir)? as usize;
        let last = self.index.u32_at(Section::DirFirst, dir + 1)? as usize;
        if first <= last && last <= self.index.entry_count() {
            return Ok((first, last));
        }
        Err(LaunchError::Record { what: "directory", at: dir as u64, why: "its children are out of range" })
    }

    /// From `dentry` to the end of the directory that holds it.
    fn dentries_around(&self, dentry: usize) -> Result<(usize, usize), LaunchError> {
        let (_, last) = self.dentries(self.dir_holding(dentry)?)?;
        Ok((dentry, last))
    }

    fn dir_holding(&self, dentry: usize) -> Result<usize, LaunchError> {
        let (mut low, mut high) = (0, self.index.count(Section::DirDentry));
        while low < high {
            let middle = low + (high - low) / 2;
            if (self.index.u32_at(Section::DirFirst, middle + 1)? as usize) <= dentry {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn dir_of(&self, inode: InodeId) -> Result<usize, LaunchError> {
        let bad = |why| LaunchError::Record { what: "inode", at: inode.0.into(), why };
        let Attributes { kind, .. } = self.index.attributes(inode)?;
        if kind != InodeType::Directory {
            return Err(bad("not a directory"));
        }
        let dir = usize::try_from(self.index.u64_at(Section::InodeData, inode)?).unwrap_or(usize::MAX);
        // Directory 0 is no inode's: the root's holder is not part of the tree.
        if dir != HOLDER && dir < self.index.count(Section::DirDentry) {
            Ok(dir)
        } else {
            Err(bad("has no children"))
        }
    }
}
