//! One look at everything, when an index arrives: after it, reading meets no malformed record.

use super::layout::Section;
use super::{InodeType, LaunchError, LaunchIndex};
use crate::DigestScope;
use crate::entry::NAME_MAX;

/// Checks every record of an index that came from elsewhere.
///
/// # Errors
/// The first record that is malformed: out of range, out of order, two visible versions of one name, or a
/// directory reached twice.
pub fn check<B: AsRef<[u8]>>(index: &LaunchIndex<B>) -> Result<(), LaunchError> {
    check_inodes(index)?;
    check_dirs(index)?;
    let view_of_each_prefix = (1..=index.layers().len()).filter_map(|k| index.view(u16::try_from(k).ok()?));
    for view in view_of_each_prefix {
        view.root()?;
    }
    Ok(())
}

fn check_inodes<B: AsRef<[u8]>>(index: &LaunchIndex<B>) -> Result<(), LaunchError> {
    let inodes = u32::try_from(index.inode_count()).map_err(|_| LaunchError::Malformed("too many inodes"))?;
    for inode in (0..inodes).map(super::InodeId) {
        index.xattrs(inode)?;
        match index.attributes(inode)?.kind {
            InodeType::Regular => check_content(index, inode)?,
            InodeType::Symlink => {
                index.symlink_target(inode)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where spans leave gaps, none may be in a file's content.
fn check_content<B: AsRef<[u8]>>(index: &LaunchIndex<B>, inode: super::InodeId) -> Result<(), LaunchError> {
    let content = index.content(inode)?;
    let layer = &index.layers()[usize::from(content.layer)];
    let covered = layer.scope == DigestScope::Compressed
        || content.extents.iter().all(|extent| {
            let start = extent.tar_offset.0;
            layer.covers(&(start..start.saturating_add(extent.len)))
        });
    let why = "a part of its content is in no span";
    if covered { Ok(()) } else { Err(LaunchError::Record { what: "inode", at: inode.0.into(), why }) }
}

/// Children in range and sorted, versions disjoint, every directory below its own, earlier, parent: no loops.
fn check_dirs<B: AsRef<[u8]>>(index: &LaunchIndex<B>) -> Result<(), LaunchError> {
    let (dirs, entries) = (index.count(Section::DirDentry), index.entry_count());
    let mut names = index.column(Section::Names);
    let (mut at, mut name_start) = (0, 0);
    if index.u32_at(Section::DirFirst, 0)? != 0 || index.u32_at(Section::DirFirst, dirs)? as usize != entries
    {
        return Err(LaunchError::Malformed("directories do not cover the dentries"));
    }
    for dir in 0..dirs {
        let bad = |at: usize, why| LaunchError::Record { what: "dentry", at: at as u64, why };
        let last = index.u32_at(Section::DirFirst, dir + 1)? as usize;
        let mut before: Option<(&[u8], u16, usize)> = None;
        while at < last.min(entries) {
            let name_end = index.u32_at(Section::DentryNameEnd, at)?;
            let len =
                name_end.checked_sub(name_start).ok_or(bad(at, "its name ends before it starts"))? as usize;
            let (name, rest) =
                names.split_at_checked(len).ok_or(bad(at, "its name lies outside the names"))?;
            (names, name_start) = (rest, name_end);
            check_name(name, dir).map_err(|why| bad(at, why))?;
            let first = index.u16_at(Section::DentryFirstLayer, at)?;
            let hidden = index.u16_at(Section::DentryHiddenFrom, at)?;
            if first >= hidden || usize::from(first) >= index.layers().len() {
                return Err(bad(at, "its range of layers is empty or too high"));
            }
            let group = match before {
                Some((previous, _, _)) if previous > name => return Err(bad(at, "names are not sorted")),
                Some((previous, hidden, group)) if previous == name => {
                    if hidden > first {
                        return Err(bad(at, "two versions of one name are visible at once"));
                    }
                    group
                }
                _ => at,
            };
            check_child(index, dir, at, group).map_err(|why| bad(at, why))?;
            before = Some((name, hidden, group));
            at += 1;
        }
        if at != last {
            return Err(LaunchError::Malformed("directories are not in order"));
        }
    }
    Ok(())
}

fn check_name(name: &[u8], dir: usize) -> Result<(), &'static str> {
    let is_root = dir == 0;
    if is_root != name.is_empty() {
        return Err("empty name, or a name beside the root's");
    }
    if matches!(name, b"." | b"..")
        || name.len() > NAME_MAX
        || name.iter().any(|&byte| byte == b'/' || byte == 0)
    {
        return Err("not a file name");
    }
    Ok(())
}

/// A directory belongs to exactly one name, in a directory with a lower number.
fn check_child<B: AsRef<[u8]>>(
    index: &LaunchIndex<B>,
    dir: usize,
    dentry: usize,
    group: usize,
) -> Result<(), &'static str> {
    let inode = super::InodeId(index.u32_at(Section::DentryInode, dentry).map_err(|_| "no inode")?);
    let attributes = index.attributes(inode).map_err(|_| "names no inode")?;
    if attributes.kind != InodeType::Directory {
        return if dir == 0 { Err("the root is not a directory") } else { Ok(()) };
    }
    let child = index.u64_at(Section::InodeData, inode).map_err(|_| "no directory")?;
    let child = usize::try_from(child).map_err(|_| "no directory")?;
    let owner = index.u32_at(Section::DirDentry, child).map_err(|_| "no directory")?;
    if child <= dir {
        Err("a directory holds its own parent")
    } else if owner as usize != group {
        Err("a directory has two names")
    } else {
        Ok(())
    }
}
