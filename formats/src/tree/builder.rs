//! Lays resolved layers over one another, bottom to top.

use std::collections::{BTreeMap, BTreeSet};

use super::layer::{Layer, TreeError};
use super::{Dentry, Dir, Inode, InodeKind, LayerStats, MAX_LAYERS, NEVER_HIDDEN, Tree};
use crate::{Entry, EntryKind, EntryPath, Timestamp, Xattr};

/// Builds a [`Tree`] from the entries of each layer. Deterministic: the same entries give the same tree.
pub struct TreeBuilder {
    inodes: Vec<Inode>,
    dirs: Vec<DirNode>,
    layers: Vec<LayerStats>,
}

/// Directory 0 is the root's holder, directory 1 the root.
const HOLDER: usize = 0;
const ROOT: usize = 1;
/// Mode of a directory that no layer describes: what `mkdir -p` as root gives.
const IMPLIED_MODE: u32 = 0o755;
/// Room for reserved inode numbers above the index's own.
const MAX_INODES: usize = u32::MAX as usize - 16;

#[derive(Default)]
struct DirNode {
    names: BTreeMap<Box<[u8]>, Name>,
}

/// All that ever stood under one name of one directory.
#[derive(Default)]
struct Name {
    versions: Vec<Version>,
    /// The directory node of this name, once it has been a directory: it outlives changes of attributes.
    dir: Option<usize>,
}

#[derive(Clone, Copy)]
struct Version {
    inode: usize,
    first_layer: u16,
    hidden_from_layer: u16,
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder {
    /// An empty stack.
    pub fn new() -> Self {
        let root = Name { versions: Vec::new(), dir: Some(ROOT) };
        let holder = DirNode { names: BTreeMap::from([(Box::default(), root)]) };
        Self { inodes: Vec::new(), dirs: vec![holder, DirNode::default()], layers: Vec::new() }
    }

    /// Lays one more layer on top; `entries` are in the order of its tar.
    ///
    /// # Errors
    /// The entries do not form a tree; the builder is then of no further use.
    pub fn push_layer(&mut self, entries: Vec<Entry>) -> Result<(), TreeError> {
        let number = self.layers.len();
        if number >= MAX_LAYERS {
            return Err(TreeError::TooManyLayers);
        }
        let number = u16::try_from(number).map_err(|_| TreeError::TooManyLayers)?;
        let layer = Layer::resolve(entries)?;
        if self.inodes.len() + layer.inodes.len() > MAX_INODES {
            return Err(TreeError::TooManyInodes);
        }
        self.layers.push(stats_of(&layer));
        // Each once: a marker that is repeated would cost its directory's length every time.
        for path in &layer.opaque.iter().collect::<BTreeSet<_>>() {
            self.hide_children_of(path, number);
        }
        for path in &layer.whiteouts {
            self.hide(path, number);
        }
        if !layer.paths.contains_key(&EntryPath::root()) {
            self.imply(HOLDER, b"", number);
        }
        self.lay(layer, number);
        Ok(())
    }

    /// The finished tree, its directories numbered parents first.
    pub fn finish(mut self) -> Tree {
        if self.layers.is_empty() {
            self.imply(HOLDER, b"", 0);
        }
        let mut order = vec![HOLDER];
        let mut number = vec![usize::MAX; self.dirs.len()];
        number[HOLDER] = 0;
        let mut next = 0;
        while let Some(&dir) = order.get(next) {
            for child in self.dirs[dir].names.values().filter_map(|name| name.dir) {
                number[child] = order.len();
                order.push(child);
            }
            next += 1;
        }
        for inode in &mut self.inodes {
            if let InodeKind::Directory { dir } = &mut inode.kind {
                *dir = number[*dir];
            }
        }
        let dirs = order.iter().map(|&dir| self.dirs[dir].freeze()).collect();
        Tree { inodes: self.inodes, dirs, layers: self.layers }
    }

    /// Lays a resolved layer over the tree: inodes in tar order, so that offsets grow with numbers.
    fn lay(&mut self, layer: Layer, number: u16) {
        let mut links = vec![0u32; layer.inodes.len()];
        layer.paths.values().for_each(|&inode| links[inode] += 1);
        let mut placed: Vec<Option<usize>> = vec![None; layer.inodes.len()];
        for (at, entry) in layer.inodes.iter().enumerate().filter(|&(at, _)| links[at] > 0) {
            if entry.kind != EntryKind::Directory {
                placed[at] = Some(self.add_inode(inode_of(entry, links[at], number)));
            }
        }
        for (path, &at) in &layer.paths {
            let entry = &layer.inodes[at];
            let (dir, name) = self.reach(path, number);
            match placed[at] {
                Some(inode) => self.replace(dir, &name, inode, number),
                None => self.lay_directory(dir, &name, entry, number),
            }
        }
    }

    /// Adds a directory, or a new version of the one that is there when its attributes differ.
    fn lay_directory(&mut self, dir: usize, name: &[u8], entry: &Entry, number: u16) {
        match self.visible(dir, name) {
            Some(old) if self.is_directory(old) => {
                if !same_attributes(&self.inodes[old], entry) {
                    self.hide_version(dir, name, number);
                    self.add_directory(dir, name, Attributes::of(entry), number);
                }
            }
            _ => {
                self.hide_name(dir, name, number);
                self.add_directory(dir, name, Attributes::of(entry), number);
            }
        }
    }

    /// The directory node that holds `path`, ancestors implied where no layer names them.
    fn reach(&mut self, path: &EntryPath, number: u16) -> (usize, Box<[u8]>) {
        let Some((parent, name)) = path.split_last() else { return (HOLDER, Box::default()) };
        let mut dir = ROOT;
        for component in parent.components() {
            dir = self.imply(dir, component, number);
        }
        (dir, name.into())
    }

    /// The directory node under `name`, made with default attributes unless a directory is visible there.
    fn imply(&mut self, dir: usize, name: &[u8], number: u16) -> usize {
        if !self.visible(dir, name).is_some_and(|inode| self.is_directory(inode)) {
            self.hide_name(dir, name, number);
            self.add_directory(dir, name, Attributes::implied(), number);
        }
        let known = self.dirs[dir].names.get(name).and_then(|name| name.dir);
        known.expect("add_directory gives every directory name its node")
    }

    fn add_directory(&mut self, dir: usize, name: &[u8], attributes: Attributes, number: u16) {
        let known = self.dirs[dir].names.get(name).and_then(|name| name.dir);
        let node = known.unwrap_or_else(|| {
            self.dirs.push(DirNode::default());
            self.dirs.len() - 1
        });
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        let kind = InodeKind::Directory { dir: node };
        let inode = self.add_inode(Inode { layer: number, kind, mode, uid, gid, mtime, xattrs, nlink: 1 });
        let entry = self.dirs[dir].names.entry(name.into()).or_default();
        entry.dir = Some(node);
        entry.versions.push(Version { inode, first_layer: number, hidden_from_layer: NEVER_HIDDEN });
    }

    fn add_inode(&mut self, inode: Inode) -> usize {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    /// Puts a file in place of whatever is visible under `name`.
    fn replace(&mut self, dir: usize, name: &[u8], inode: usize, number: u16) {
        self.hide_name(dir, name, number);
        let version = Version { inode, first_layer: number, hidden_from_layer: NEVER_HIDDEN };
        self.dirs[dir].names.entry(name.into()).or_default().versions.push(version);
    }

    fn hide(&mut self, path: &EntryPath, number: u16) {
        let Some((parent, name)) = path.split_last() else { return };
        if let Some(dir) = self.find_dir(&parent) {
            self.hide_name(dir, name, number);
        }
    }

    fn hide_children_of(&mut self, path: &EntryPath, number: u16) {
        if let Some(dir) = self.find_dir(path) {
            self.hide_tree(dir, number);
        }
    }

    /// Hides one name and, if it is a directory, all below it. Below what is no visible directory nothing
    /// is visible: so hiding a tree twice, or each directory of it, costs no more than hiding it once.
    fn hide_name(&mut self, dir: usize, name: &[u8], number: u16) {
        let below = self.visible(dir, name).filter(|&inode| self.is_directory(inode));
        self.hide_version(dir, name, number);
        if below.is_some()
            && let Some(below) = self.dirs[dir].names.get(name).and_then(|name| name.dir)
        {
            self.hide_tree(below, number);
        }
    }

    fn hide_tree(&mut self, dir: usize, number: u16) {
        let mut pending = vec![dir];
        while let Some(dir) = pending.pop() {
            for name in self.dirs[dir].names.values_mut() {
                let visible = name.versions.last().filter(|last| last.hidden_from_layer == NEVER_HIDDEN);
                if visible
                    .is_some_and(|last| matches!(self.inodes[last.inode].kind, InodeKind::Directory { .. }))
                {
                    pending.extend(name.dir);
                }
                name.hide(number);
            }
        }
    }

    fn hide_version(&mut self, dir: usize, name: &[u8], number: u16) {
        if let Some(name) = self.dirs[dir].names.get_mut(name) {
            name.hide(number);
        }
    }

    fn find_dir(&self, path: &EntryPath) -> Option<usize> {
        path.components().try_fold(ROOT, |dir, component| self.dirs[dir].names.get(component)?.dir)
    }

    fn visible(&self, dir: usize, name: &[u8]) -> Option<usize> {
        let last = self.dirs[dir].names.get(name)?.versions.last()?;
        (last.hidden_from_layer == NEVER_HIDDEN).then_some(last.inode)
    }

    fn is_directory(&self, inode: usize) -> bool {
        matches!(self.inodes[inode].kind, InodeKind::Directory { .. })
    }
}

impl Name {
    /// Hides what is visible from layer `number` on. What this very layer laid down is not hidden: whiteouts
    /// speak of the layers below, and come first.
    fn hide(&mut self, number: u16) {
        if let Some(last) = self.versions.last_mut().filter(|last| last.hidden_from_layer == NEVER_HIDDEN) {
            last.hidden_from_layer = number;
            if last.first_layer == number {
                self.versions.pop();
            }
        }
    }
}

impl DirNode {
    fn freeze(&self) -> Dir {
        let versions = self.names.iter().flat_map(|(name, entry)| {
            entry.versions.iter().map(|version| Dentry {
                name: name.clone(),
                inode: version.inode,
                first_layer: version.first_layer,
                hidden_from_layer: version.hidden_from_layer,
            })
        });
        Dir { dentries: versions.collect() }
    }
}

/// Counts what is linked: an entry that a later one of its layer replaced does not exist.
fn stats_of(layer: &Layer) -> LayerStats {
    let linked: BTreeSet<usize> = layer.paths.values().copied().collect();
    let sizes = linked.iter().map(|&at| match layer.inodes[at].kind {
        EntryKind::Regular { size, .. } => size,
        _ => 0,
    });
    LayerStats {
        inodes: u32::try_from(linked.len()).unwrap_or(u32::MAX),
        content_bytes: sizes.fold(0, u64::saturating_add),
    }
}

struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: Vec<Xattr>,
}

impl Attributes {
    fn of(entry: &Entry) -> Self {
        let Entry { mode, uid, gid, mtime, ref xattrs, .. } = *entry;
        Self { mode, uid, gid, mtime, xattrs: xattrs.clone() }
    }

    fn implied() -> Self {
        Self { mode: IMPLIED_MODE, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Vec::new() }
    }
}

fn same_attributes(inode: &Inode, entry: &Entry) -> bool {
    (inode.mode, inode.uid, inode.gid, inode.mtime) == (entry.mode, entry.uid, entry.gid, entry.mtime)
        && inode.xattrs == entry.xattrs
}

fn inode_of(entry: &Entry, nlink: u32, layer: u16) -> Inode {
    let kind = match entry.kind.clone() {
        EntryKind::Regular { size, content } => InodeKind::Regular { size, content },
        EntryKind::Symlink { target } => InodeKind::Symlink { target },
        EntryKind::CharDevice { major, minor } => InodeKind::CharDevice { major, minor },
        EntryKind::BlockDevice { major, minor } => InodeKind::BlockDevice { major, minor },
        EntryKind::Fifo => InodeKind::Fifo,
        EntryKind::Directory | EntryKind::HardLink { .. } => {
            unreachable!("directories are laid by lay_directory, hard links were resolved to their target")
        }
    };
    let Attributes { mode, uid, gid, mtime, xattrs } = Attributes::of(entry);
    Inode { layer, kind, mode, uid, gid, mtime, xattrs, nlink }
}
