//! One layer's entries, resolved as an unpacker resolves them: the later entry of a path wins, hard
//! links share an inode, parents that are symbolic links of this layer are followed, whiteouts are
//! set apart.

use std::collections::BTreeMap;

use crate::entry::PathError;
use crate::{Entry, EntryKind, EntryPath, Timestamp, Xattr};

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
        parent: EntryPath,
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
    /// The root must stay a directory.
    #[error("the root of the layer is not a directory")]
    RootNotADirectory,
    /// More layers than a version's 16-bit range can tell apart.
    #[error("more than 65535 layers")]
    TooManyLayers,
    /// More files than a 32-bit inode number can tell apart.
    #[error("more than 2^32 - 16 files in one image")]
    TooManyInodes,
}

/// Prefix that makes a name a whiteout of the rest of it (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Marks its directory opaque: nothing of the layers below shows through.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// AUFS's own bookkeeping; no file of the image.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// overlayfs would act upon these, or show them: neither is the image's meaning.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// Mode of a root directory, whatever the tar says of it.
const ROOT_MODE: u32 = 0o755;
/// Linux gives up on a path after 40 symbolic links.
const MAX_SYMLINKS: usize = 40;
/// Past this (the year 2262) an unpacker's 64-bit nanoseconds overflow and it writes 0.
const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// A layer after in-layer resolution, ready to be laid over those below.
#[derive(Default)]
pub(super) struct Layer {
    /// Inodes in tar order; hard links share one.
    pub inodes: Vec<Entry>,
    /// Path to index into `inodes`. Sorted, so a directory comes before what it holds.
    pub paths: BTreeMap<EntryPath, usize>,
    /// Paths hidden in the layers below.
    pub whiteouts: Vec<EntryPath>,
    /// Directories of which nothing below shows through.
    pub opaque: Vec<EntryPath>,
}

impl Layer {
    pub(super) fn resolve(entries: Vec<Entry>) -> Result<Self, TreeError> {
        let mut layer = Self::default();
        for entry in entries {
            layer.add(entry)?;
        }
        Ok(layer)
    }

    fn add(&mut self, mut entry: Entry) -> Result<(), TreeError> {
        entry.mtime = presentable(entry.mtime);
        entry.xattrs.retain(is_presentable);
        let Some((parent, name)) = entry.path.split_last() else { return self.add_root(entry) };
        let parent = self.resolve_parent(&entry.path, &parent)?;
        let is_whiteout_device = matches!(entry.kind, EntryKind::CharDevice { major: 0, minor: 0 });
        if name == OPAQUE_MARKER {
            self.opaque.push(parent);
        } else if name.starts_with(AUFS_PREFIX) {
            // AUFS's link store and temporary files.
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            // `.wh.` alone, `.wh..` and `.wh...` name nothing that could be hidden.
            if let Some(path) = parent.join(hidden) {
                self.whiteouts.push(path);
            }
        } else if let Some(path) = parent.join(name) {
            if is_whiteout_device {
                // overlayfs takes a 0:0 character device for a whiteout, wherever it comes from.
                self.remove_subtree(&path);
                self.whiteouts.push(path);
            } else {
                self.place(path, entry)?;
            }
        }
        Ok(())
    }

    fn add_root(&mut self, entry: Entry) -> Result<(), TreeError> {
        if entry.kind != EntryKind::Directory {
            return Err(TreeError::RootNotADirectory);
        }
        // Unpackers skip this entry: the root directory is their own, made as root with mode 0755.
        let entry = Entry { mode: ROOT_MODE, uid: 0, gid: 0, xattrs: Vec::new(), ..entry };
        self.place(EntryPath::root(), entry)
    }

    fn place(&mut self, path: EntryPath, entry: Entry) -> Result<(), TreeError> {
        if let EntryKind::HardLink { target } = &entry.kind {
            let inode = self.link_target(&path, target)?;
            self.remove_subtree_unless_same(&path, inode);
            let Entry { mode, uid, gid, mtime, xattrs, .. } = entry;
            let linked = &mut self.inodes[inode];
            (linked.mode, linked.uid, linked.gid, linked.mtime) = (mode, uid, gid, mtime);
            merge_xattrs(&mut linked.xattrs, xattrs);
            self.paths.insert(path, inode);
            return Ok(());
        }
        // A directory keeps what the layer already put below it, in whatever order the tar has them.
        if entry.kind != EntryKind::Directory {
            self.remove_subtree(&path);
        }
        let inode = self.inodes.len();
        self.inodes.push(Entry { path: path.clone(), ..entry });
        self.paths.insert(path, inode);
        Ok(())
    }

    fn link_target(&self, link: &EntryPath, target: &EntryPath) -> Result<usize, TreeError> {
        let missing = || TreeError::HardLinkTarget { link: link.clone(), target: target.clone() };
        let (parent, name) = target.split_last().ok_or_else(missing)?;
        let resolved = self.resolve_parent(target, &parent)?.join(name).ok_or_else(missing)?;
        match self.paths.get(&resolved) {
            Some(&inode) if self.inodes[inode].kind != EntryKind::Directory => Ok(inode),
            _ => Err(missing()),
        }
    }

    /// Follows symbolic links of this layer in `parent`, confined to the layer, as unpackers do.
    fn resolve_parent(&self, entry: &EntryPath, parent: &EntryPath) -> Result<EntryPath, TreeError> {
        let mut path = parent.clone();
        for _ in 0..MAX_SYMLINKS {
            match self.first_non_directory(&path) {
                None => return Ok(path),
                Some((prefix, target)) => {
                    let target = target.ok_or_else(|| TreeError::NotADirectory {
                        entry: entry.clone(),
                        parent: prefix.clone(),
                    })?;
                    path = follow(&path, &prefix, target)
                        .map_err(|source| TreeError::SymlinkTarget { entry: entry.clone(), source })?;
                }
            }
        }
        Err(TreeError::SymlinkLoop(entry.clone()))
    }

    /// The topmost prefix of `path` that this layer holds as something else than a directory, with its
    /// target if it is a symbolic link.
    fn first_non_directory(&self, path: &EntryPath) -> Option<(EntryPath, Option<&[u8]>)> {
        path.prefixes().find_map(|prefix| match self.kind_at(&prefix)? {
            EntryKind::Directory => None,
            EntryKind::Symlink { target } => Some((prefix, Some(&target[..]))),
            _ => Some((prefix, None)),
        })
    }

    fn kind_at(&self, path: &EntryPath) -> Option<&EntryKind> {
        self.paths.get(path).map(|&inode| &self.inodes[inode].kind)
    }

    fn remove_subtree_unless_same(&mut self, path: &EntryPath, inode: usize) {
        if self.paths.get(path) != Some(&inode) {
            self.remove_subtree(path);
        }
    }

    fn remove_subtree(&mut self, path: &EntryPath) {
        self.paths.remove(path);
        let below: Vec<EntryPath> =
            self.paths.range(path.descendants()).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.paths.remove(&path);
        }
    }
}

/// `path` with its prefix, a symbolic link to `target`, replaced. `..` stops at the root, as in a chroot.
fn follow(path: &EntryPath, prefix: &EntryPath, target: &[u8]) -> Result<EntryPath, PathError> {
    let rest = &path.as_bytes()[prefix.as_bytes().len()..];
    let base = match (target.first(), prefix.split_last()) {
        (Some(b'/'), _) | (_, None) => EntryPath::root(),
        (_, Some((parent, _))) => parent,
    };
    EntryPath::parse_confined(&[base.as_bytes(), b"/", target, rest].concat())
}

/// Unpackers write 0 for times that the system's calls cannot carry.
fn presentable(time: Timestamp) -> Timestamp {
    if (0..=MAX_SECONDS).contains(&time.seconds) { time } else { Timestamp::default() }
}

fn is_presentable(xattr: &Xattr) -> bool {
    !OVERLAY_XATTRS.iter().any(|prefix| xattr.name.starts_with(prefix))
}

fn merge_xattrs(into: &mut Vec<Xattr>, from: Vec<Xattr>) {
    for xattr in from {
        match into.binary_search_by(|have| have.name.cmp(&xattr.name)) {
            Ok(at) => into[at] = xattr,
            Err(at) => into.insert(at, xattr),
        }
    }
}
