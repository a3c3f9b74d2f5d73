//! The directory an image is mounted on.
//!
//! Invariant: nothing here looks into a mounted file system, whose server may be gone.

use std::io;
use std::path::{Path, PathBuf};

use jaunt_layerfs::fuse::mount::{self, UnmountError};

use crate::mountinfo;

/// Why a directory cannot be mounted on, or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// There is nothing, or it cannot be looked at.
    #[error("cannot use {} as a mount point", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file, a link to one, a device.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Something is mounted there.
    #[error("{} is busy: a file system of type {fs_type} is mounted on it", path.display())]
    Mounted {
        /// The path.
        path: PathBuf,
        /// The type of the file system there.
        fs_type: String,
    },
    /// A mount would hide what is in it.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// Nothing of ours is mounted there.
    #[error("{} is not a mount of jaunt-snapshotter", .0.display())]
    NotOurs(PathBuf),
    /// umount(2) refused.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
}

/// The canonical path of an empty directory with nothing mounted on it.
pub(super) fn check(path: &Path) -> Result<PathBuf, PointError> {
    let unusable = |source| PointError::Unusable { path: path.to_owned(), source };
    let free = |point: &Path| match mountinfo::mounted_on(point).map_err(unusable)? {
        Some(mount) => Err(PointError::Mounted { path: path.to_owned(), fs_type: mount.fs_type }),
        None => Ok(()),
    };
    // A mount whose server is gone must be found before anything touches it.
    let point = canonical(path).map_err(unusable)?;
    free(&point)?;
    let point = point.canonicalize().map_err(unusable)?;
    free(&point)?;
    if !std::fs::metadata(&point).map_err(unusable)?.is_dir() {
        return Err(PointError::NotADirectory(path.to_owned()));
    }
    if std::fs::read_dir(&point).map_err(unusable)?.next().is_some() {
        return Err(PointError::NotEmpty(path.to_owned()));
    }
    Ok(point)
}

/// Unmounts what `mount` has mounted on `path`. Its process ends by itself then.
pub fn umount(path: &Path) -> Result<(), PointError> {
    let unusable = |source| PointError::Unusable { path: path.to_owned(), source };
    let point = canonical(path).map_err(unusable)?;
    match mountinfo::mounted_on(&point).map_err(unusable)? {
        Some(found) if found.is_ours() => Ok(mount::unmount(&point)?),
        _ => Err(PointError::NotOurs(path.to_owned())),
    }
}

/// The path with its parent's links resolved: what it names itself is left alone.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => absolute.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fallback::error_chain;

    #[test]
    fn only_an_empty_directory_will_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("empty")).unwrap();
        std::os::unix::fs::symlink("empty", path("link")).unwrap();
        std::os::unix::fs::symlink("/proc", path("link-to-mount")).unwrap();
        assert_eq!(check(&path("empty")).unwrap(), path("empty"));
        assert_eq!(check(&path("link")).unwrap(), path("empty"));
        for (bad, why) in [
            (path("file"), "is not a directory"),
            (path("none"), "No such file"),
            (directory.path().to_owned(), "is not empty"),
            (PathBuf::from("/proc"), "is busy: a file system of type proc"),
            (path("link-to-mount"), "is busy: a file system of type proc"),
        ] {
            let error = error_chain(&check(&bad).unwrap_err());
            assert!(error.contains(bad.to_str().unwrap()) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn other_peoples_mounts_are_not_unmounted() {
        for path in ["/proc", "/proc/self", "/"] {
            assert!(matches!(umount(Path::new(path)), Err(PointError::NotOurs(_))), "{path}");
        }
    }
}
