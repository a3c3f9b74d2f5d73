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

use std::collections::BTreeMap;

use super::attributes::Attributes;
use crate::entry::{PATH_MAX, PathError};
use crate::{Entry, EntryKind, EntryPath};

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
pub(super) type DirId = usize;

/// The root directory.
pub(super) const ROOT: DirId = 0;

/// A layer after resolution, ready to be laid over those below.
pub(super) struct Layer {
    /// Those that lost their name among them.
    pub directories: Vec<Directory>,
    /// Files that are no directories, in the tar's order; hard links share one. Some may have lost
    /// their last name.
    pub files: Vec<File>,
    implied: usize,
    link_steps: u64,
}

/// A file that is no directory.
pub(super) struct File {
    pub kind: EntryKind,
    pub attributes: Attributes,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Directory(DirId),
    /// Number of the file.
    File(usize),
    /// Nothing of the layers below shows under this name.
    Whiteout,
}

/// A directory of one layer.
#[derive(Default)]
pub(super) struct Directory {
    pub children: BTreeMap<Box<[u8]>, Child>,
    /// What the layer says of it, if it lists it.
    pub listed: Option<Attributes>,
    /// It was implied first, so an unpacker gave it the attributes of the one below.
    pub inherits: bool,
    /// Nothing of the layers below shows in it.
    pub opaque: bool,
    parent: DirId,
    /// Length of its path.
    path_len: usize,
}

impl Layer {
    pub fn resolve(entries: impl IntoIterator<Item = Entry>) -> Result<Self, TreeError> {
        let directories = vec![Directory::default()];
        let mut layer = Self { directories, files: Vec::new(), implied: 0, link_steps: 0 };
        for entry in entries {
            layer.add(entry)?;
        }
        Ok(layer)
    }

    fn add(&mut self, entry: Entry) -> Result<(), TreeError> {
        let path = entry.path.clone();
        let Some((parent, name)) = path.split_last() else {
            self.add_root(entry);
            return Ok(());
        };
        let parent = self.make(&path, &parent)?;
        if name == OPAQUE_MARKER {
            self.directories[parent].opaque = true;
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
            self.directories[ROOT].listed = Some(Attributes::of(entry));
        }
    }

    fn white_out(&mut self, parent: DirId, hidden: &[u8]) {
        match self.child(parent, hidden) {
            None => self.put(parent, hidden, Child::Whiteout),
            // What the layer itself holds there stays.
            Some(Child::Directory(directory)) => self.directories[directory].opaque = true,
            Some(Child::File(_) | Child::Whiteout) => {}
        }
    }

    fn place(&mut self, parent: DirId, name: &[u8], entry: Entry) -> Result<(), TreeError> {
        match &entry.kind {
            // overlayfs takes such a device for a whiteout, wherever it comes from.
            EntryKind::CharDevice { major: 0, minor: 0 } => self.put(parent, name, Child::Whiteout),
            EntryKind::Directory => self.place_directory(parent, name, entry),
            EntryKind::HardLink { target } => {
                let file = self.link_target(&entry.path, target)?;
                self.put(parent, name, Child::File(file));
                let File { kind, attributes } = &mut self.files[file];
                attributes.update(Attributes::of(entry), kind);
            }
            kind => {
                self.put(parent, name, Child::File(self.files.len()));
                self.files.push(File { kind: kind.clone(), attributes: Attributes::of(entry) });
            }
        }
        Ok(())
    }

    fn place_directory(&mut self, parent: DirId, name: &[u8], entry: Entry) {
        let attributes = Attributes::of(entry);
        let Some(Child::Directory(known)) = self.child(parent, name) else {
            let listed = Some(attributes);
            self.put_directory(parent, name, Directory { listed, ..Directory::default() });
            return;
        };
        let directory = &mut self.directories[known];
        match &mut directory.listed {
            Some(listed) => listed.update(attributes, &EntryKind::Directory),
            None => (directory.listed, directory.inherits) = (Some(attributes), true),
        }
    }

    /// The file that a hard link names. Nothing is made for it.
    fn link_target(&mut self, link: &EntryPath, target: &EntryPath) -> Result<usize, TreeError> {
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
                    let EntryKind::Symlink { target } = &self.files[file].kind else {
                        let parent = self.shown(at, name);
                        return Err(TreeError::NotADirectory { entry: entry.clone(), parent });
                    };
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
                        at = self.directories[at].parent;
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
        let len = self.directories[parent].path_len + name.len() + 1;
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
        self.directories[directory].children.get(name).copied()
    }

    /// Puts something under a name, in the place of whatever is there and below it.
    fn put(&mut self, parent: DirId, name: &[u8], child: Child) {
        self.directories[parent].children.insert(name.into(), child);
    }

    fn put_directory(&mut self, parent: DirId, name: &[u8], directory: Directory) -> DirId {
        let path_len = self.directories[parent].path_len + name.len() + 1;
        let number = self.directories.len();
        self.directories.push(Directory { parent, path_len, ..directory });
        self.put(parent, name, Child::Directory(number));
        number
    }

    /// The path of a child, for an error.
    fn shown(&self, mut parent: DirId, name: &[u8]) -> String {
        let mut names = vec![String::from_utf8_lossy(name)];
        while parent != ROOT {
            let above = self.directories[parent].parent;
            let mut children = self.directories[above].children.iter();
            let name = children.find(|&(_, &child)| child == Child::Directory(parent));
            names.extend(name.map(|(name, _)| String::from_utf8_lossy(name)));
            parent = above;
        }
        names.iter().rev().flat_map(|name| ["/", name]).collect()
    }
}
