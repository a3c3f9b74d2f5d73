//! The launch index, packed and raw: opened, checked, and walked in every prefix.

use crate::launch::{InodeId, InodeType, LaunchIndex, View, check, unpack};

/// Prefixes that are walked: the first and the last ones.
const PREFIXES: u16 = 4;
/// Inodes of an unsound index that are asked for.
const INODES: u32 = 64;

/// A packed index: a small blob must not become a large index.
pub fn launch_index_packed(data: &[u8]) {
    if let Ok(index) = unpack(data) {
        walk(index);
    }
}

/// An index as it lies on a node's disk. The length in its header is made right, so that more is reached.
pub fn launch_index(data: &[u8]) {
    let mut bytes = data.to_vec();
    let len = bytes.len() as u64;
    if let Some(field) = bytes.get_mut(16..24) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    walk(bytes);
}

fn walk(bytes: Vec<u8>) {
    let Ok(index) = LaunchIndex::open(bytes) else { return };
    let sound = check(&index).is_ok();
    let _ = (index.verify_checksum(), index.has_xattrs(), index.layer_stats(0));
    let layers = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
    let prefixes = (1..=layers).filter(|&k| k <= PREFIXES || k > layers.saturating_sub(PREFIXES));
    for view in prefixes.filter_map(|prefix| index.view(prefix)) {
        if sound {
            walk_sound(&index, &view);
        } else {
            ask_anything(&index, &view);
        }
    }
}

/// After the check, reading meets no error, ends, and finds what it lists.
fn walk_sound(index: &LaunchIndex<Vec<u8>>, view: &View<'_, Vec<u8>>) {
    let mut pending = vec![view.root().expect("checked")];
    let mut seen = 0;
    while let Some(dir) = pending.pop() {
        for child in view.children(dir, 0).expect("checked") {
            let child = child.expect("checked");
            seen += 1;
            assert!(seen <= index.entry_count(), "more children than there are names");
            assert_eq!(view.lookup(dir, child.name), Ok(Some(child.inode)));
            let attributes = index.attributes(child.inode).expect("checked");
            assert!(index.xattrs(child.inode).is_ok());
            match attributes.kind {
                InodeType::Directory => {
                    assert_eq!(view.parent(child.inode), Ok(dir));
                    pending.push(child.inode);
                }
                InodeType::Regular => drop(index.content(child.inode).expect("checked")),
                InodeType::Symlink => drop(index.symlink_target(child.inode).expect("checked").to_vec()),
                _ => {}
            }
        }
    }
}

/// Without the check, reading may fail, and no more.
fn ask_anything(index: &LaunchIndex<Vec<u8>>, view: &View<'_, Vec<u8>>) {
    let _ = view.root();
    for inode in (0..INODES).map(InodeId) {
        let _ = (index.attributes(inode), index.content(inode), index.xattrs(inode));
        let _ = (index.symlink_target(inode).is_ok(), view.parent(inode), view.lookup(inode, b"a"));
        if let Ok(children) = view.children(inode, 0) {
            let _ = children.take(INODES as usize).filter(Result::is_ok).count();
        }
    }
}
