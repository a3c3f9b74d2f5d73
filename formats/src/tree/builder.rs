//! Lays resolved layers over one another, bottom to top.

use super::attributes::Attributes;
use super::layer::{self, Child, Directory, Layer, LogError, TreeError};
use super::names::{Names, Slot};
use super::pool::{Pool, Pooled, Text};
use super::{Dentry, Inode, InodeKind, LayerStats, MAX_INODES, MAX_LAYERS, NEVER_HIDDEN, Tree, number};
use crate::{Entry, EntryLog};

/// Builds a [`Tree`] from the entries of each layer. Deterministic: the same entries give the same tree.
pub struct TreeBuilder {
    inodes: Vec<Inode>,
    names: Names<Name>,
    versions: Vec<Version>,
    layers: Vec<LayerStats>,
    pool: Pool,
}

/// Directory 0 is the root's holder, directory 1 the root.
const HOLDER: u32 = 0;
const ROOT: u32 = 1;
/// The root's only name.
const ROOT_NAME: Text = Text::EMPTY;

/// What overlayfs shows for a directory that several layers have.
const MERGED_LINKS: u32 = 1;
/// Its name, and its own `.`.
const EMPTY_LINKS: u32 = 2;

/// No version, or no directory.
const NONE: u32 = u32::MAX;

/// All that ever stood under one name of one directory.
#[derive(Clone, Copy)]
struct Name {
    /// The last version, if there is any.
    last: u32,
    /// The directory node of this name, once it has been a directory: it outlives changes of attributes.
    dir: u32,
}

#[derive(Clone, Copy)]
struct Version {
    inode: u32,
    /// The version of the same name before this one.
    before: u32,
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
        let (inodes, versions, layers, pool) = (Vec::new(), Vec::new(), Vec::new(), Pool::default());
        let mut names = Names::default();
        names.add_directory();
        names.add_directory();
        names.add(&pool.texts, HOLDER, ROOT_NAME, Name { last: NONE, dir: ROOT });
        Self { inodes, names, versions, layers, pool }
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
        let layer = Layer::resolve(entries, number, &mut self.pool)?;
        let files = self.inodes.len() + layer.files.len() + layer.directories.len();
        if files.max(self.versions.len() + layer.names.len() + layer.directories.len()) > MAX_INODES {
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
            let implied = self.pool.add(Attributes::implied());
            self.add_directory(HOLDER, ROOT_NAME, implied, EMPTY_LINKS, 0);
        }
        self.names.close();
        let mut order = vec![HOLDER];
        let mut numbers = vec![NONE; self.names.directories()];
        let (mut dentries, mut dir_ends) = (Vec::new(), Vec::new());
        while let Some(&dir) = order.get(dir_ends.len()) {
            for slot in self.names.sorted(&self.pool.texts, dir) {
                let &Slot { name, value, .. } = self.names.slot(slot);
                if value.dir != NONE {
                    numbers[value.dir as usize] = number(order.len());
                    order.push(value.dir);
                }
                self.freeze(name, value, &mut dentries);
            }
            dir_ends.push(dentries.len());
        }
        for inode in &mut self.inodes {
            if let InodeKind::Directory { dir } = &mut inode.kind {
                *dir = numbers[*dir as usize];
            }
        }
        Tree { inodes: self.inodes, dentries, dir_ends, layers: self.layers, pool: self.pool }
    }

    /// Adds the versions of a name, the first one first.
    fn freeze(&self, name: Text, Name { mut last, .. }: Name, dentries: &mut Vec<Dentry>) {
        let start = dentries.len();
        while last != NONE {
            let Version { inode, before, first_layer, hidden_from_layer } = self.versions[last as usize];
            dentries.push(Dentry { name, inode, first_layer, hidden_from_layer });
            last = before;
        }
        dentries[start..].reverse();
    }

    /// Lays a resolved layer over the tree, as overlayfs merges directories: inodes in tar order, so that
    /// offsets grow with numbers; then directories, parents first.
    fn lay(&mut self, layer: Layer, number: u16) -> LayerStats {
        let Layer { mut directories, files, mut names } = layer;
        names.close();
        let mut stats = LayerStats::default();
        let placed = self.place_files(files, &names, &mut stats);
        let root = &mut directories[layer::ROOT as usize];
        // overlayfs merges the root whatever its layers say of it.
        root.opaque = false;
        let links = links_of_directory(&names, layer::ROOT);
        let root = self.lay_directory(HOLDER, ROOT_NAME, root, links, number, &mut stats);
        let mut pending = vec![(root, layer::ROOT)];
        while let Some((dir, directory)) = pending.pop() {
            let start = pending.len();
            for slot in names.sorted(&self.pool.texts, directory) {
                let &Slot { name, value, .. } = names.slot(slot);
                match value {
                    Child::Whiteout => self.hide_name(dir, name, number),
                    Child::File(file) => self.replace(dir, name, placed[file as usize], number),
                    Child::Directory(child) => {
                        let directory = &mut directories[child as usize];
                        let links = links_of_directory(&names, child);
                        let below = self.lay_directory(dir, name, directory, links, number, &mut stats);
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
        mut files: Vec<Inode>,
        names: &Names<Child>,
        stats: &mut LayerStats,
    ) -> Vec<u32> {
        count_links(&mut files, names);
        let mut next = self.inodes.len();
        let mut placed = Vec::with_capacity(files.len());
        for file in &files {
            placed.push(number(next));
            if file.nlink == 0 {
                continue;
            }
            next += 1;
            stats.inodes = stats.inodes.saturating_add(1);
            if let InodeKind::Regular { size, .. } | InodeKind::Sparse { size, .. } = file.kind {
                stats.content_bytes = stats.content_bytes.saturating_add(size);
            }
        }
        files.retain(|file| file.nlink > 0);
        if self.inodes.is_empty() {
            self.inodes = files;
        } else {
            self.inodes.extend(files);
        }
        placed
    }

    /// Adds a directory, or a new version of the one that is there when it is to show otherwise; returns its
    /// node, in which nothing of the layers below is visible if it is opaque.
    fn lay_directory(
        &mut self,
        dir: u32,
        name: Text,
        directory: &mut Directory,
        links: u32,
        number: u16,
        stats: &mut LayerStats,
    ) -> u32 {
        let old = self.visible(dir, name).filter(|&old| self.is_directory(old));
        let old = old.map(|old| self.inodes[old as usize]);
        let nlink = if old.is_some() && !directory.opaque { MERGED_LINKS } else { links };
        let attributes = match (directory.listed.take(), old) {
            (Some(listed), old) => {
                stats.inodes = stats.inodes.saturating_add(1);
                match old.filter(|_| directory.inherits) {
                    Some(old) => self.inherit(listed, old.attributes),
                    None => listed,
                }
            }
            // An unpacker gives it the attributes of the one below.
            (None, Some(old)) => old.attributes,
            (None, None) => self.pool.add(Attributes::implied()),
        };
        match old {
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
        let known = self.find(dir, name).map(|slot| self.names.slot(slot).value.dir);
        let node = known.expect("add_directory gives every directory name its node");
        if directory.opaque {
            self.hide_tree(node, number);
        }
        node
    }

    /// Attributes of a directory that was made with those of the one below.
    fn inherit(&mut self, listed: Pooled, below: Pooled) -> Pooled {
        let mut attributes = self.pool.attributes(listed);
        let inherited = self.pool.attributes(below).xattrs;
        let own = std::mem::replace(&mut attributes.xattrs, inherited);
        attributes.merge_xattrs(own);
        self.pool.add(attributes)
    }

    fn add_directory(&mut self, dir: u32, name: Text, attributes: Pooled, nlink: u32, layer: u16) {
        let slot = self.slot(dir, name);
        let node = match self.names.slot(slot).value.dir {
            NONE => self.names.add_directory(),
            known => known,
        };
        self.names.slot_mut(slot).value.dir = node;
        self.inodes.push(Inode { kind: InodeKind::Directory { dir: node }, attributes, nlink, layer });
        self.add_version(slot, number(self.inodes.len() - 1), layer);
    }

    /// Puts a file in place of whatever is visible under `name`.
    fn replace(&mut self, dir: u32, name: Text, inode: u32, number: u16) {
        self.hide_name(dir, name, number);
        let slot = self.slot(dir, name);
        self.add_version(slot, inode, number);
    }

    fn add_version(&mut self, slot: u32, inode: u32, first_layer: u16) {
        let name = &mut self.names.slot_mut(slot).value;
        let before = std::mem::replace(&mut name.last, number(self.versions.len()));
        self.versions.push(Version { inode, before, first_layer, hidden_from_layer: NEVER_HIDDEN });
    }

    /// Hides one name and, if it is a directory, all below it. Below what is no visible directory nothing
    /// is visible: so hiding a tree twice, or each directory of it, costs no more than hiding it once.
    fn hide_name(&mut self, dir: u32, name: Text, number: u16) {
        let Some(slot) = self.find(dir, name) else { return };
        let name = self.names.slot(slot).value;
        let is_directory = self.visible_of(name).is_some_and(|inode| self.is_directory(inode));
        self.hide(slot, number);
        if is_directory && name.dir != NONE {
            self.hide_tree(name.dir, number);
        }
    }

    fn hide_tree(&mut self, dir: u32, number: u16) {
        let mut pending = vec![dir];
        while let Some(dir) = pending.pop() {
            let slots: Vec<u32> = self.names.of(dir).collect();
            for slot in slots {
                let name = self.names.slot(slot).value;
                if name.dir != NONE && self.visible_of(name).is_some_and(|inode| self.is_directory(inode)) {
                    pending.push(name.dir);
                }
                self.hide(slot, number);
            }
        }
    }

    fn hide_version(&mut self, dir: u32, name: Text, number: u16) {
        if let Some(slot) = self.find(dir, name) {
            self.hide(slot, number);
        }
    }

    /// Hides what is visible of a name from layer `number` on. What this very layer laid down is not hidden:
    /// whiteouts speak of the layers below, and come first.
    fn hide(&mut self, slot: u32, number: u16) {
        let name = &mut self.names.slot_mut(slot).value;
        let last = self.versions.get_mut(name.last as usize);
        if let Some(last) = last.filter(|last| last.hidden_from_layer == NEVER_HIDDEN) {
            last.hidden_from_layer = number;
            if last.first_layer == number {
                name.last = last.before;
            }
        }
    }

    /// The slot of a name, made where there is none.
    fn slot(&mut self, dir: u32, name: Text) -> u32 {
        let new = Name { last: NONE, dir: NONE };
        self.find(dir, name).unwrap_or_else(|| self.names.add(&self.pool.texts, dir, name, new))
    }

    fn find(&self, dir: u32, name: Text) -> Option<u32> {
        self.names.find(&self.pool.texts, dir, self.pool.texts.get(name))
    }

    fn visible(&self, dir: u32, name: Text) -> Option<u32> {
        self.visible_of(self.names.slot(self.find(dir, name)?).value)
    }

    fn visible_of(&self, name: Name) -> Option<u32> {
        let last = self.versions.get(name.last as usize)?;
        (last.hidden_from_layer == NEVER_HIDDEN).then_some(last.inode)
    }

    fn is_directory(&self, inode: u32) -> bool {
        matches!(self.inodes[inode as usize].kind, InodeKind::Directory { .. })
    }
}

/// Links of a directory that one layer alone has: each directory in it has a `..`.
fn links_of_directory(names: &Names<Child>, directory: u32) -> u32 {
    let is_directory = |&slot: &u32| matches!(names.slot(slot).value, Child::Directory(_));
    let below = names.of(directory).filter(is_directory).count();
    number(below).saturating_add(EMPTY_LINKS)
}

/// Counts the names that each file has.
fn count_links(files: &mut [Inode], names: &Names<Child>) {
    let mut pending = vec![layer::ROOT];
    while let Some(directory) = pending.pop() {
        for slot in names.of(directory) {
            match names.slot(slot).value {
                Child::Directory(below) => pending.push(below),
                Child::File(file) => {
                    let links = &mut files[file as usize].nlink;
                    *links = links.saturating_add(1);
                }
                Child::Whiteout => {}
            }
        }
    }
}
