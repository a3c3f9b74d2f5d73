//! Lays resolved layers over one another, bottom to top.

use std::collections::BTreeMap;

use super::attributes::Attributes;
use super::layer::{self, Child, Directory, File, Layer, LogError, TreeError};
use super::{Dentry, Dir, Inode, InodeKind, LayerStats, MAX_LAYERS, NEVER_HIDDEN, Tree};
use crate::{Entry, EntryKind, EntryLog};

/// Builds a [`Tree`] from the entries of each layer. Deterministic: the same entries give the same tree.
pub struct TreeBuilder {
    inodes: Vec<Inode>,
    dirs: Vec<DirNode>,
    layers: Vec<LayerStats>,
}

/// Directory 0 is the root's holder, directory 1 the root.
const HOLDER: usize = 0;
const ROOT: usize = 1;
/// Room for reserved inode numbers above the index's own.
const MAX_INODES: usize = u32::MAX as usize - 16;

/// What overlayfs shows for a directory that several layers have.
const MERGED_LINKS: u32 = 1;
/// Its name, and its own `.`.
const EMPTY_LINKS: u32 = 2;

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
    pub fn push_layer(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<(), TreeError> {
        let number = self.layers.len();
        if number >= MAX_LAYERS {
            return Err(TreeError::TooManyLayers);
        }
        let number = u16::try_from(number).map_err(|_| TreeError::TooManyLayers)?;
        let layer = Layer::resolve(entries)?;
        if self.inodes.len() + layer.files.len() + layer.directories.len() > MAX_INODES {
            return Err(TreeError::TooManyInodes);
        }
        let stats = self.lay(layer, number);
        self.layers.push(stats);
        Ok(())
    }

    /// The same of entries that were set aside.
    ///
    /// # Errors
    /// As [`push_layer`](Self::push_layer); or they cannot be read back.
    pub fn push_log(&mut self, entries: &EntryLog) -> Result<(), LogError> {
        let mut failed = None;
        let readable = entries.iter().map_while(|entry| entry.map_err(|error| failed = Some(error)).ok());
        let pushed = self.push_layer(readable);
        failed.map_or(Ok(()), Err)?;
        Ok(pushed?)
    }

    /// The finished tree, its directories numbered parents first.
    pub fn finish(mut self) -> Tree {
        if self.layers.is_empty() {
            self.add_directory(HOLDER, b"", Attributes::implied(), EMPTY_LINKS, 0);
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

    /// Lays a resolved layer over the tree, as overlayfs merges directories: inodes in tar order, so that
    /// offsets grow with numbers; then directories, parents first.
    fn lay(&mut self, layer: Layer, number: u16) -> LayerStats {
        let Layer { mut directories, files, .. } = layer;
        let mut stats = LayerStats::default();
        let placed = self.place_files(files, &directories, number, &mut stats);
        let root = &mut directories[layer::ROOT];
        // overlayfs merges the root whatever its layers say of it.
        root.opaque = false;
        let mut pending = vec![(self.lay_directory(HOLDER, b"", root, number, &mut stats), layer::ROOT)];
        while let Some((dir, directory)) = pending.pop() {
            let start = pending.len();
            for (name, child) in std::mem::take(&mut directories[directory].children) {
                match child {
                    Child::Whiteout => self.hide_name(dir, &name, number),
                    Child::File(file) => self.replace(dir, &name, placed[file], number),
                    Child::Directory(child) => {
                        let directory = &mut directories[child];
                        let below = self.lay_directory(dir, &name, directory, number, &mut stats);
                        pending.push((below, child));
                    }
                }
            }
            pending[start..].reverse();
        }
        stats
    }

    /// The inode of each file; of those without a name, none is made.
    fn place_files(
        &mut self,
        files: Vec<File>,
        directories: &[Directory],
        number: u16,
        stats: &mut LayerStats,
    ) -> Vec<usize> {
        let links = links_of(files.len(), directories);
        let place = |(file, links): (File, u32)| {
            if links == 0 {
                return usize::MAX;
            }
            let Some(inode) = inode_of(file, links, number) else { return usize::MAX };
            if let InodeKind::Regular { size, .. } = inode.kind {
                stats.content_bytes = stats.content_bytes.saturating_add(size);
            }
            stats.inodes = stats.inodes.saturating_add(1);
            self.add_inode(inode)
        };
        files.into_iter().zip(links).map(place).collect()
    }

    /// Adds a directory, or a new version of the one that is there when it is to show otherwise; returns its
    /// node, in which nothing of the layers below is visible if it is opaque.
    fn lay_directory(
        &mut self,
        dir: usize,
        name: &[u8],
        directory: &mut Directory,
        number: u16,
        stats: &mut LayerStats,
    ) -> usize {
        let old = self.visible(dir, name).filter(|&old| self.is_directory(old));
        let nlink = match old {
            Some(_) if !directory.opaque => MERGED_LINKS,
            _ => links_of_directory(directory),
        };
        let attributes = match (directory.listed.take(), old) {
            (Some(mut attributes), old) => {
                stats.inodes = stats.inodes.saturating_add(1);
                if let (true, Some(old)) = (directory.inherits, old) {
                    let inherited = self.inodes[old].attributes.xattrs.clone();
                    let own = std::mem::replace(&mut attributes.xattrs, inherited);
                    attributes.merge_xattrs(own);
                }
                attributes
            }
            // An unpacker gives it the attributes of the one below.
            (None, Some(old)) => self.inodes[old].attributes.clone(),
            (None, None) => Attributes::implied(),
        };
        match old.map(|old| &self.inodes[old]) {
            Some(old) if old.attributes == attributes && old.nlink == nlink => {}
            Some(_) => {
                self.hide_version(dir, name, number);
                self.add_directory(dir, name, attributes, nlink, number);
            }
            None => {
                self.hide_name(dir, name, number);
                self.add_directory(dir, name, attributes, nlink, number);
            }
        }
        let known = self.dirs[dir].names.get(name).and_then(|name| name.dir);
        let node = known.expect("add_directory gives every directory name its node");
        if directory.opaque {
            self.hide_tree(node, number);
        }
        node
    }

    fn add_directory(&mut self, dir: usize, name: &[u8], attributes: Attributes, nlink: u32, number: u16) {
        let known = self.dirs[dir].names.get(name).and_then(|name| name.dir);
        let node = known.unwrap_or_else(|| {
            self.dirs.push(DirNode::default());
            self.dirs.len() - 1
        });
        let kind = InodeKind::Directory { dir: node };
        let inode = self.add_inode(Inode { layer: number, kind, attributes, nlink });
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

/// Links of a directory that one layer alone has: each directory in it has a `..`.
fn links_of_directory(directory: &Directory) -> u32 {
    let is_directory = |child: &&Child| matches!(child, Child::Directory(_));
    let below = directory.children.values().filter(is_directory).count();
    u32::try_from(below).unwrap_or(u32::MAX).saturating_add(EMPTY_LINKS)
}

/// How many names each file has.
fn links_of(files: usize, directories: &[Directory]) -> Vec<u32> {
    let mut links = vec![0_u32; files];
    let mut pending = vec![layer::ROOT];
    while let Some(directory) = pending.pop() {
        for &child in directories[directory].children.values() {
            match child {
                Child::Directory(below) => pending.push(below),
                Child::File(file) => links[file] = links[file].saturating_add(1),
                Child::Whiteout => {}
            }
        }
    }
    links
}

/// The inode of a file; directories and hard links are none.
fn inode_of(file: File, nlink: u32, layer: u16) -> Option<Inode> {
    let kind = match file.kind {
        EntryKind::Regular { size, content } => InodeKind::Regular { size, content },
        EntryKind::Symlink { target } => InodeKind::Symlink { target },
        EntryKind::CharDevice { major, minor } => InodeKind::CharDevice { major, minor },
        EntryKind::BlockDevice { major, minor } => InodeKind::BlockDevice { major, minor },
        EntryKind::Fifo => InodeKind::Fifo,
        EntryKind::Directory | EntryKind::HardLink { .. } => return None,
    };
    Some(Inode { layer, kind, attributes: file.attributes, nlink })
}
