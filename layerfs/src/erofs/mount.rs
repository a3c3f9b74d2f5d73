//! Mounting an image over files that are held open: what is mounted is what was looked at, whatever becomes of the names.
//!
//! The mount is detached at first and has no place; who attaches it need not be who made it. Nobody serves it: it
//! lives as long as it is attached, or in use.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::layout::MAGIC;

/// The type that the mount table shows.
pub const FS_TYPE: &str = "erofs";

/// A mount without a place.
#[derive(Debug)]
pub struct Detached(OwnedFd);

/// Why the kernel does not mount an image.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It has no EROFS, or none that reads from files (Linux 6.12), or may not be asked.
    #[error("this kernel mounts no EROFS from files: {0}")]
    Unsupported(#[source] Errno),
    /// It refuses this one.
    #[error("the kernel refuses an image: {0}")]
    Refused(#[source] Errno),
    /// It is no EROFS.
    #[error("not an EROFS that could be attached")]
    Foreign,
    /// move_mount(2) failed.
    #[error("cannot attach a mount to {}: {errno}", point.display())]
    Attach {
        /// The mount point.
        point: PathBuf,
        /// The reason.
        #[source]
        errno: Errno,
    },
}

impl Detached {
    /// Mounts an image with its devices, read-only.
    pub(super) fn new(image: &File, devices: &[File]) -> Result<Self, AttachError> {
        let context = fsopen(FS_TYPE, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
            Errno::NODEV | Errno::NOSYS => AttachError::Unsupported(errno),
            errno => AttachError::Refused(errno),
        })?;
        let context = context.as_fd();
        let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        fsconfig_set_string(context, "source", name(image)).map_err(AttachError::Refused)?;
        for device in devices {
            fsconfig_set_string(context, "device", name(device)).map_err(AttachError::Refused)?;
        }
        fsconfig_set_flag(context, "ro").map_err(AttachError::Refused)?;
        fsconfig_create(context).map_err(|errno| match errno {
            // It wants a disk.
            Errno::NOTBLK => AttachError::Unsupported(errno),
            errno => AttachError::Refused(errno),
        })?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map(Self).map_err(AttachError::Refused)
    }

    /// What another process has made.
    ///
    /// # Errors
    /// The descriptor is not that of an EROFS.
    pub fn from_fd(mount: OwnedFd) -> Result<Self, AttachError> {
        match rustix::fs::fstatfs(&mount) {
            Ok(found) if u64::try_from(found.f_type) == Ok(MAGIC.into()) => Ok(Self(mount)),
            _ => Err(AttachError::Foreign),
        }
    }

    /// Gives it a place.
    ///
    /// # Errors
    /// There is no such directory, or the mount has a place already.
    pub fn attach(self, point: &Path) -> Result<(), AttachError> {
        let fail = |errno| AttachError::Attach { point: point.to_owned(), errno };
        move_mount(&self.0, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(fail)
    }
}

/// Whether an EROFS is what is seen at `path`. Nobody needs to answer for that.
pub fn is_mounted_on(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(MAGIC.into()))
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
