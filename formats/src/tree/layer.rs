//! One layer's entries, resolved as an unpacker resolves them: what unpacking it into an empty directory
//! would leave.
//!
//! The reference is containerd's unpacker for overlayfs, step by step: symbolic links of the layer are
//! followed in an entry's parent and never leave it, missing parents are made, the later entry of a path
//! replaces the earlier one, a directory over a directory keeps what is in it, hard links share a file.
//! Whiteouts are files too, until something takes their place. Where that unpacker gives up (a whiteout of
//! what the layer itself holds, a whiteout in an entry's parent), the image specification decides: whiteouts
//! speak of the layers below.
//!
//! Cost is in proportion to the length of the names, however deep they are and whatever links do to them.

use super::attributes::Attributes;
use super::names::Names;
use super::pool::{Pool, Pooled};
use super::{Inode, InodeKind, number};
use crate::entry::{PATH_MAX, PathError};
use crate::{Content, Entry, EntryKind, EntryPath};

/// Why a layer's entries do not form a tree. Paths are as in the tar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A hard link whose target is not an earlier, linkable entry of the same layer.
    #[error("hard link {link} points at {target}, which this layer does not hold before it")]
    HardLinkTarget {
        /// The link.
        link: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// An entry below something that is not a directory.
    #[error("entry {entry} lies below {parent}, which is not a directory")]
    NotADirectory {
        /// The entry.
        entry: EntryPath,
        /// The offending ancestor.
        parent: String,
    },
    /// Symbolic links that lead an entry's parent in circles.
    #[error("entry {0} lies below a loop of symbolic links")]
    SymlinkLoop(EntryPath),
    /// Resolving a symbolic link in an entry's parent gave a path that cannot be.
    #[error("entry {entry} lies below a symbolic link that cannot be followed: {source}")]
    SymlinkTarget {
        /// The entry.
        entry: EntryPath,
        /// What is wrong with the resolved path.
        source: PathError,
    },
    /// Following links takes longer than any honest layer needs.
    #[error("entry {0}: the layer's symbolic links lead through more than {MAX_LINK_STEPS} directories")]
    TooManyLinkSteps(EntryPath),
    /// Directories that no entry lists: they cost a layer nothing and its reader much.
    #[error("entry {0}: the layer implies more than {MAX_IMPLIED} directories without listing them")]
    TooManyImplied(EntryPath),
    /// More layers than a version's 16-bit range can tell apart.
    #[error("more than 65535 layers")]
    TooManyLayers,
    /// More files than a 32-bit inode number can tell apart.
    #[error("more than 2^32 - 16 files in one image")]
    TooManyInodes,
}

/// Why a layer's entries do not come out of a log as a tree.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// They do not form one.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The log cannot be read.
    #[error("cannot read back the layer's entries: {0}")]
    Spool(#[from] std::io::Error),
}

/// Prefix that makes a name a whiteout of the rest of it (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Marks its directory opaque: nothing of the layers below shows through.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// AUFS's own bookkeeping; no file of the image.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Mode of a root directory, whatever the tar says of it.
const ROOT_MODE: u32 = 0o755;
/// containerd gives up on a path after so many symbolic links.
const MAX_SYMLINKS: usize = 255;
/// Directories walked on behalf of links in one layer, and bytes of their targets: a million entries below
/// `/lib -> usr/lib` have half as many.
const MAX_LINK_STEPS: u64 = 1 << 24;
/// A tar without directory entries implies one for a few files.
const MAX_IMPLIED: usize = 1 << 20;

/// Number of a directory in its layer.
pub(super) type DirId = u32;

/// The root directory.
pub(super) const ROOT: DirId = 0;
/// Names that a layer may have: far more than a tar that is accepted, with all that it implies.
const MAX_NAMES: usize = 1 << 31;

/// A layer after resolution, ready to be laid over those below.
pub(super) struct Layer {
    /// Those that lost their name among them.
    pub directories: Vec<Directory>,
    /// Files that are no directories, in the tar's order; hard links share one. Some may have lost
    /// their last name. Links are not counted yet.
    pub files: Vec<Inode>,
    pub names: Names<Child>,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Directory(DirId),
    /// Number of the file.
    File(u32),
    /// Nothing of the layers below shows under this name.
    Whiteout,
}

/// A directory of one layer.
#[derive(Default)]
pub(super) struct Directory {
    /// What the layer says of it, if it lists it.
    pub listed: Option<Pooled>,
    /// It was implied first, so an unpacker gave it the attributes of the one below.
    pub inherits: bool,
    /// Nothing of the layers below shows in it.
    pub opaque: bool,
    parent: DirId,
    /// Length of its path.
    path_len: u32,
}

impl Layer {
    /// Resolves the entries of layer `number`.
    pub fn resolve(
        entries: impl IntoIterator<Item = Entry>,
        number: u16,
        pool: &mut Pool,
    ) -> Result<Self, TreeError> {
        let layer = Self { directories: Vec::new(), files: Vec::new(), names: Names::default() };
        let mut resolver = Resolver { layer, number, pool, implied: 0, link_steps: 0 };
        resolver.layer.names.add_directory();
        resolver.layer.directories.push(Directory::default());
        entries.into_iter().try_for_each(|entry| resolver.add(entry))?;
        Ok(resolver.layer)
    }
}

struct Resolver<'p> {
    layer: Layer,
    number: u16,
    pool: &'p mut Pool,
    implied: usize,
    link_steps: u64,
}

impl Resolver<'_> {
    fn add(&mut self, entry: Entry) -> Result<(), TreeError> {
        if self.layer.names.len() > MAX_NAMES {
            return Err(TreeError::TooManyInodes);
        }
        let path = entry.path.clone();
        let Some((parent, name)) = path.split_last() else {
            self.add_root(entry);
            return Ok(());
        };
        let parent = self.make(&path, &parent)?;
        if name == OPAQUE_MARKER {
            self.layer.directories[parent as usize].opaque = true;
        } else if name.starts_with(AUFS_PREFIX) {
            // AUFS's link store and temporary files.
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            // `.wh.` alone, `.wh..` and `.wh...` name nothing that could be hidden.
            if !matches!(hidden, b"" | b"." | b"..") {
                self.white_out(parent, hidden);
            }
        } else {
            self.place(parent, name, entry)?;
        }
        Ok(())
    }

    /// Unpackers skip what stands for the root: that directory is their own, made as root with mode 0755.
    fn add_root(&mut self, entry: Entry) {
        if entry.kind == EntryKind::Directory {
            let entry = Entry { mode: ROOT_MODE, uid: 0, gid: 0, xattrs: Vec::new(), ..entry };
            let attributes = self.pool.add(Attributes::of(entry));
            self.layer.directories[ROOT as usize].listed = Some(attributes);
        }
    }

    fn white_out(&mut self, parent: DirId, hidden: &[u8]) {
        match self.child(parent, hidden) {
            None => self.put(parent, hidden, Child::Whiteout),
            // What the layer itself holds there stays.
            Some(Child::Directory(directory)) => self.layer.directories[directory as usize].opaque = true,
            Some(Child::File(_) | Child::Whiteout) => {}
        }
    }

    fn place(&mut self, parent: DirId, name: &[u8], entry: Entry) -> Result<(), TreeError> {
        let kind = match &entry.kind {
            // overlayfs takes such a device for a whiteout, wherever it comes from.
            EntryKind::CharDevice { major: 0, minor: 0 } => {
                self.put(parent, name, Child::Whiteout);
                return Ok(());
            }
            EntryKind::Directory => {
                self.place_directory(parent, name, entry);
                return Ok(());
            }
            EntryKind::HardLink { target } => {
                let file = self.link_target(&entry.path, target)?;
                self.put(parent, name, Child::File(file));
                let Inode { kind, attributes, .. } = &mut self.layer.files[file as usize];
                let mut updated = self.pool.attributes(*attributes);
                updated.update(Attributes::of(entry), kind);
                *attributes = self.pool.add(updated);
                return Ok(());
            }
            EntryKind::Regular { size, content: Content::Contiguous(offset) } => {
                InodeKind::Regular { size: *size, offset: *offset }
            }
            EntryKind::Regular { size, content: Content::Sparse(extents) } => {
                self.pool.extents.push(extents.clone());
                InodeKind::Sparse { size: *size, extents: number(self.pool.extents.len() - 1) }
            }
            EntryKind::Symlink { target } => InodeKind::Symlink { target: self.pool.texts.add(target) },
            &EntryKind::CharDevice { major, minor } => InodeKind::CharDevice { major, minor },
            &EntryKind::BlockDevice { major, minor } => InodeKind::BlockDevice { major, minor },
            EntryKind::Fifo => InodeKind::Fifo,
        };
        let attributes = self.pool.add(Attributes::of(entry));
        self.put(parent, name, Child::File(number(self.layer.files.len())));
        self.layer.files.push(Inode { kind, attributes, nlink: 0, layer: self.number });
        Ok(())
    }

    fn place_directory(&mut self, parent: DirId, name: &[u8], entry: Entry) {
        let attributes = Attributes::of(entry);
        let Some(Child::Directory(known)) = self.child(parent, name) else {
            let listed = Some(self.pool.add(attributes));
            self.put_directory(parent, name, Directory { listed, ..Directory::default() });
            return;
        };
        let directory = &mut self.layer.directories[known as usize];
        directory.listed = Some(match directory.listed {
            Some(listed) => {
                let mut updated = self.pool.attributes(listed);
                updated.update(attributes, &InodeKind::Directory { dir: known });
                self.pool.add(updated)
            }
            None => {
                directory.inherits = true;
                self.pool.add(attributes)
            }
        });
    }

    /// The file that a hard link names. Nothing is made for it.
    fn link_target(&mut self, link: &EntryPath, target: &EntryPath) -> Result<u32, TreeError> {
        let missing = || TreeError::HardLinkTarget { link: link.clone(), target: target.clone() };
        let (parent, name) = target.split_last().ok_or_else(missing)?;
        let parent = match self.walk(link, &parent, false) {
            Ok(parent) => parent,
            Err(TreeError::NotADirectory { .. }) => None,
            Err(error) => return Err(error),
        };
        match parent.and_then(|parent| self.child(parent, name)) {
            Some(Child::File(file)) => Ok(file),
            _ => Err(missing()),
        }
    }

    /// The directory that `parent` leads to, made where it is missing.
    fn make(&mut self, entry: &EntryPath, parent: &EntryPath) -> Result<DirId, TreeError> {
        self.walk(entry, parent, true).map(|directory| directory.unwrap_or(ROOT))
    }

    /// Follows a path and the symbolic links of this layer in it, confined to the layer. `None` where a
    /// directory is missing that is not to be made.
    fn walk(&mut self, entry: &EntryPath, path: &EntryPath, make: bool) -> Result<Option<DirId>, TreeError> {
        let (mut at, mut own) = (ROOT, path.components());
        // What links still lead through, the next component last.
        let (mut links, mut of_links): (_, Vec<Box<[u8]>>) = (0, Vec::new());
        loop {
            let of_link = of_links.pop();
            self.link_steps += u64::from(of_link.is_some());
            let Some(name) = of_link.as_deref().or_else(|| own.next()) else { return Ok(Some(at)) };
            at = match self.child(at, name) {
                None if !make => return Ok(None),
                None => self.imply(entry, at, name, false)?,
                Some(Child::Directory(directory)) => directory,
                Some(Child::Whiteout) => self.imply(entry, at, name, true)?,
                Some(Child::File(file)) => {
                    let InodeKind::Symlink { target } = self.layer.files[file as usize].kind else {
                        let parent = self.shown(at, name);
                        return Err(TreeError::NotADirectory { entry: entry.clone(), parent });
                    };
                    let target = self.pool.texts.get(target);
                    links += 1;
                    self.link_steps += target.len() as u64;
                    if links > MAX_SYMLINKS {
                        return Err(TreeError::SymlinkLoop(entry.clone()));
                    }
                    let start = if target.starts_with(b"/") { ROOT } else { at };
                    self.aim(start, target, &mut of_links)
                }
            };
            if self.link_steps > MAX_LINK_STEPS {
                return Err(TreeError::TooManyLinkSteps(entry.clone()));
            }
        }
    }

    /// Puts a link's target in front of what is still to be walked; returns where to start. `..` stops at the
    /// root, as in a chroot.
    fn aim(&self, start: DirId, target: &[u8], pending: &mut Vec<Box<[u8]>>) -> DirId {
        let (mut at, mut components) = (start, Vec::new());
        for component in target.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if components.pop().is_none() {
                        at = self.layer.directories[at as usize].parent;
                    }
                }
                name => components.push(name),
            }
        }
        pending.extend(components.into_iter().rev().map(Into::into));
        at
    }

    /// Makes a directory that an entry needs.
    fn imply(
        &mut self,
        entry: &EntryPath,
        parent: DirId,
        name: &[u8],
        opaque: bool,
    ) -> Result<DirId, TreeError> {
        let len = self.layer.directories[parent as usize].path_len as usize + name.len() + 1;
        if len > PATH_MAX {
            return Err(TreeError::SymlinkTarget { entry: entry.clone(), source: PathError::TooLong(len) });
        }
        self.implied += 1;
        if self.implied > MAX_IMPLIED {
            return Err(TreeError::TooManyImplied(entry.clone()));
        }
        Ok(self.put_directory(parent, name, Directory { opaque, ..Directory::default() }))
    }

    fn child(&self, directory: DirId, name: &[u8]) -> Option<Child> {
        let slot = self.layer.names.find(&self.pool.texts, directory, name)?;
        Some(self.layer.names.slot(slot).value)
    }

    /// Puts something under a name, in the place of whatever is there and below it.
    fn put(&mut self, parent: DirId, name: &[u8], child: Child) {
        let Self { layer: Layer { names, .. }, pool: Pool { texts, .. }, .. } = self;
        match names.find(texts, parent, name) {
            Some(slot) => names.slot_mut(slot).value = child,
            None => {
                let name = texts.add(name);
                names.add(texts, parent, name, child);
            }
        }
    }

    fn put_directory(&mut self, parent: DirId, name: &[u8], directory: Directory) -> DirId {
        let above = self.layer.directories[parent as usize].path_len;
        let path_len = above.saturating_add(u32::try_from(name.len() + 1).unwrap_or(u32::MAX));
        let new = self.layer.names.add_directory();
        self.layer.directories.push(Directory { parent, path_len, ..directory });
        self.put(parent, name, Child::Directory(new));
        new
    }

    /// The path of a child, for an error.
    fn shown(&self, mut parent: DirId, name: &[u8]) -> String {
        let mut names = vec![String::from_utf8_lossy(name)];
        while parent != ROOT {
            let above = self.layer.directories[parent as usize].parent;
            let mut slots = self.layer.names.of(above).map(|slot| self.layer.names.slot(slot));
            let slot = slots.find(|slot| slot.value == Child::Directory(parent));
            names.extend(slot.map(|slot| String::from_utf8_lossy(self.pool.texts.get(slot.name))));
            parent = above;
        }
        names.iter().rev().flat_map(|name| ["/", name]).collect()
    }
}
