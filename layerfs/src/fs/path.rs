//! From an inode back to a path, for messages.

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
}
