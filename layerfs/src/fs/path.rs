//! From an inode back to a path, for messages and for whoever wants to know what was read.

use std::collections::{HashMap, HashSet};

use jaunt_formats::launch::InodeType;

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

    /// A path of each of some inodes, without a slash at the start, where one is text. Looks at every name.
    pub fn paths_of(&self, wanted: &HashSet<Ino>) -> HashMap<Ino, String> {
        let mut paths = HashMap::new();
        let Ok(view) = self.view() else { return paths };
        let mut pending = vec![(String::new(), self.numbers.root)];
        while let Some((above, dir)) = pending.pop() {
            let Ok(children) = view.children(dir, 0) else { continue };
            for child in children.flatten() {
                let Ok(name) = std::str::from_utf8(child.name) else { continue };
                let path = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
                if self.index.attributes(child.inode).is_ok_and(|child| child.kind == InodeType::Directory) {
                    pending.push((path, child.inode));
                } else if wanted.contains(&self.ino(child.inode)) {
                    paths.entry(self.ino(child.inode)).or_insert(path);
                }
            }
        }
        paths
    }
}
