//! From an inode back to a path, for messages and for whoever wants to know what was read.

use std::collections::{HashMap, HashSet};

use jaunt_formats::entry::PATH_MAX;
use jaunt_formats::launch::{InodeId, InodeType};

use super::{Ino, LayerFs};

impl LayerFs {
    /// A path of the inode: the first of its names that is visible. Looks at every name.
    pub fn path_of(&self, inode: Ino) -> Option<String> {
        let (view, wanted) = (self.view().ok()?, self.inode(inode).ok()?);
        let mut pending = vec![(String::new(), self.numbers.root)];
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

    /// A path of every inode that has a name: the first that is visible.
    pub fn paths(&self) -> HashMap<Ino, String> {
        let mut paths = HashMap::new();
        let Ok(view) = self.view() else { return paths };
        let mut pending = vec![(String::new(), self.numbers.root)];
        while let Some((path, dir)) = pending.pop() {
            for child in view.children(dir, 0).into_iter().flatten().flatten() {
                let path = format!("{path}/{}", String::from_utf8_lossy(child.name));
                if self.index.attributes(child.inode).is_ok_and(|child| child.kind == InodeType::Directory) {
                    pending.push((path.clone(), child.inode));
                }
                paths.entry(self.ino(child.inode)).or_insert(path);
            }
        }
        paths
    }

    /// A path of each of some inodes, without a slash at the start, where one is text and short enough to be opened. Looks at
    /// every name. Holds names and not paths of what is not wanted: an image may nest them as it likes.
    pub fn paths_of(&self, wanted: &HashSet<Ino>) -> HashMap<Ino, String> {
        let mut paths = HashMap::new();
        let Ok(view) = self.view() else { return paths };
        let mut dirs = vec![Dir { above: 0, name: "", inode: self.numbers.root }];
        let mut at = 0;
        while let Some(dir) = dirs.get(at).map(|dir| dir.inode) {
            for child in view.children(dir, 0).into_iter().flatten().flatten() {
                let Ok(name) = std::str::from_utf8(child.name) else { continue };
                if self.index.attributes(child.inode).is_ok_and(|child| child.kind == InodeType::Directory) {
                    dirs.push(Dir { above: at, name, inode: child.inode });
                } else if wanted.contains(&self.ino(child.inode))
                    && let Some(path) = path_below(&dirs, at, name)
                {
                    paths.entry(self.ino(child.inode)).or_insert(path);
                }
            }
            at += 1;
        }
        paths
    }
}

/// A directory that was met.
struct Dir<'i> {
    /// Where the one is that holds it.
    above: usize,
    name: &'i str,
    inode: InodeId,
}

/// The path of a name in a directory, unless it is too long.
fn path_below(dirs: &[Dir<'_>], mut at: usize, name: &str) -> Option<String> {
    let (mut names, mut len) = (vec![name], name.len());
    while at > 0 {
        names.push(dirs[at].name);
        len += dirs[at].name.len() + 1;
        if len > PATH_MAX {
            return None;
        }
        at = dirs[at].above;
    }
    names.reverse();
    Some(names.join("/"))
}
