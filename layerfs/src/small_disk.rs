//! A disk that is soon full, for tests.

use std::ffi::CStr;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A small file system of its own, gone with its guard.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, said so, where mounting is not allowed.
    pub(crate) fn new(options: &CStr) -> Option<Self> {
        let point = tempfile::tempdir().unwrap();
        let mounted = mount("jaunt-test", point.path(), "tmpfs", MountFlags::empty(), options);
        if let Err(error) = mounted {
            println!("skipped: mounting: {error}");
        }
        mounted.is_ok().then(|| Self(point))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
