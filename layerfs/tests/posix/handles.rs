//! File handles (open_by_handle_at(2)), as NFS servers keep them of files that nobody has open.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::fixture::{Image, file};
use crate::mounted::{Mounted, can_mount};

/// Larger than any file system's.
const MOST: usize = 128;

/// The kernel's `struct file_handle`, with room for its content.
#[repr(C)]
struct Handle {
    len: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; MOST],
}

impl Handle {
    fn of(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let (mut handle, mut mount) = (Self { len: MOST as libc::c_uint, kind: 0, bytes: [0; MOST] }, 0);
        // SAFETY: the path ends with a zero, `len` tells how much room there is, and all outlives the call.
        let done = unsafe {
            let handle = (&raw mut handle).cast();
            libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &raw mut mount, 0)
        };
        if done == 0 { Ok(handle) } else { Err(io::Error::last_os_error()) }
    }

    /// Opens the file in the file system that `root` is of.
    fn open(&mut self, root: &Path) -> io::Result<File> {
        let root = File::open(root)?;
        // SAFETY: the descriptor is open, and the handle, which the kernel made, outlives the call.
        let opened = unsafe {
            libc::open_by_handle_at(
                root.as_raw_fd(),
                (&raw mut *self).cast(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        match opened {
            // SAFETY: it is open, and nobody else's.
            0.. => Ok(unsafe { File::from_raw_fd(opened) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// doc/SEMANTICS.md S23: no file handles that outlive the kernel's caches (`open_by_handle_at`).
#[test]
fn file_handles_last_as_long_as_the_kernel_knows_the_file() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![file("f", "0123456789")]]));
    let root = mounted.direct();
    let (held, mut handle) = (File::open(root.join("f")).unwrap(), Handle::of(&root.join("f")).unwrap());
    let mut text = String::new();
    handle.open(&root).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    drop(held);
    // Names and inodes that nobody uses.
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(handle.open(&root).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    // A container has none at all, as below any overlayfs without `nfs_export`.
    let none = Handle::of(&mounted.merged().join("f")).err().and_then(|error| error.raw_os_error());
    assert_eq!(none, Some(libc::EOPNOTSUPP));
    // doc/SEMANTICS.md S24: those of a complete chain by itself do.
    if let Some(root) = mounted.complete_roots().first() {
        let mut handle = Handle::of(&root.join("f")).unwrap();
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        assert!(handle.open(root).is_ok());
    }
}
