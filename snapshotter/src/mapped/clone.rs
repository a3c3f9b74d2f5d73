//! Clones of directories with mapped ids: mount_setattr(2), which rustix does not have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// mount_setattr(2)'s argument.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Mounts the directory `from` on `to`, read-only, as the user namespace sees it.
pub(super) fn mapped(from: &Path, to: &Path, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let tree = clone(from, namespace)?;
    Ok(move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A mount of the directory that is nowhere; it ends with its descriptor.
pub(super) fn clone(from: &Path, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = open_tree(CWD, from, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    map(&tree, namespace)?;
    Ok(tree)
}

fn map(tree: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    // SAFETY: the descriptors are open, the path is a C string, and the size is that of the argument.
    let done = unsafe {
        let (path, size) = (c"".as_ptr(), size_of::<MountAttr>());
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            path,
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
