//! Locks of ranges of a file (fcntl(2)), which the kernel keeps by itself.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use crate::fixture::{Image, file};
use crate::mounted::{Mounted, can_mount};

/// Takes or gives back a lock of an open file's first half.
fn lock(file: &File, kind: i32) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 5,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the lock outlives the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// S23: Locks, `fsync`, `fadvise` and `/proc/self/fd` work on its files as on any.
#[test]
fn ranges_of_files_are_locked_for_others() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![file("f", "0123456789")]]));
    for root in mounted.roots() {
        let path = root.join("f");
        // Several may read, and who has not opened for writing may not lock for it.
        let (one, two) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        lock(&one, libc::F_RDLCK).unwrap();
        lock(&two, libc::F_RDLCK).unwrap();
        assert_eq!(lock(&one, libc::F_WRLCK).unwrap_err().raw_os_error(), Some(libc::EBADF));
        drop((one, two));
    }
    // Below overlayfs files are written to, and locks are of the file that a name stands for, below or above.
    for root in [Some(&mounted.merged()), mounted.complete_roots().get(1)].into_iter().flatten() {
        let path = root.join("f");
        let reader = File::open(&path).unwrap();
        lock(&reader, libc::F_RDLCK).unwrap();
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(lock(&writer, libc::F_WRLCK).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        lock(&reader, libc::F_UNLCK).unwrap();
        lock(&writer, libc::F_WRLCK).unwrap();
        assert_eq!(lock(&reader, libc::F_RDLCK).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }
}
