//! A mount that nothing can be read from, and that must not hang for it.

use std::fs;
use std::path::PathBuf;

use jaunt_layerfs::fs::ROOT_NAME;
use jaunt_layerfs::fuse::{self, MountOptions};

use crate::fixture::{Image, file};
use crate::mounted::{Mounted, can_mount};

/// Unmounts whatever happens.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = fuse::mount::detach(&self.0);
    }
}

/// P4: One layer or mount that cannot be served does not stop the others: its readers get EIO, not silence.
#[test]
fn a_mount_that_cannot_be_served_fails_and_does_not_hang() {
    if !can_mount() {
        return;
    }
    let other = Mounted::new(Image::new(vec![vec![file("f", "served")]]));
    let directory = tempfile::tempdir().unwrap();
    let point = directory.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = fuse::mount::mount(&point, &MountOptions::default()).unwrap();
    let _mount = Mount(point.clone());
    let _session = fuse::serve(fuse::Orphan, mounted.device, &mounted.negotiated, 1).unwrap();
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    assert_eq!(fs::metadata(point.join(ROOT_NAME)).unwrap_err().raw_os_error(), eio);
    // Anything but ENOSYS, which the kernel would never ask again after.
    let mut value = [0; 16];
    for _ in 0..2 {
        let failed = rustix::fs::lgetxattr(&point, "user.x", &mut value[..]).unwrap_err();
        assert_eq!(Some(failed.raw_os_error()), eio);
    }
    assert_eq!(fs::read(other.merged().join("f")).unwrap(), b"served");
}
