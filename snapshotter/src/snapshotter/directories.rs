//! Where eager snapshots live on disk.
//!
//! ```text
//! <root>/snapshots/<id>/fs      the snapshot's own files (an overlay's upper or lower directory)
//! <root>/snapshots/<id>/work    overlayfs's work directory, of active snapshots
//! <root>/trash/<id>             removed; being deleted
//! <run-dir>/mnt/<id>            symlink to <root>/snapshots/<id>, see [`Directories::lower_beside_lazy`]
//! <run-dir>/mapped/<id>         what is below it, with mapped ids ([`crate::mapped`])
//! ```
//!
//! A directory is made before its record and removed after it, so a directory without a record is
//! rubbish, unless its id is reserved.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::error::{Error, io_error};
use crate::lazy::RootAttributes;
use crate::mapped::{IdMaps, MappedDirectories};

/// Names of directories; holds no state.
#[derive(Clone, Debug)]
pub struct Directories {
    root: PathBuf,
    mounts: PathBuf,
    mapped: MappedDirectories,
}

impl Directories {
    /// Creates what is missing below `root` and `run_dir`.
    pub fn open(root: &Path, run_dir: &Path) -> Result<Self, Error> {
        let mapped = MappedDirectories::below(run_dir);
        let directories = Self { root: root.to_owned(), mounts: run_dir.join("mnt"), mapped };
        for path in [directories.snapshots(), directories.trash(), directories.mounts.clone()] {
            // Searchable but not readable: processes in user namespaces walk through to their lowers.
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&path)
                .map_err(io_error("create directory", &path))?;
        }
        Ok(directories)
    }

    /// The snapshot's own files.
    pub fn fs(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    /// overlayfs's work directory.
    pub fn work(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("work")
    }

    /// Makes the directories of a new snapshot; its root gets `attributes`.
    pub fn create(&self, id: u64, writable: bool, attributes: RootAttributes) -> Result<(), Error> {
        let snapshot = self.snapshot(id);
        fs::create_dir(&snapshot).map_err(io_error("create directory", &snapshot))?;
        let made = self.fill(id, &snapshot, writable, attributes);
        if made.is_err() {
            let _ = fs::remove_dir_all(&snapshot);
        }
        made
    }

    fn fill(
        &self,
        id: u64,
        snapshot: &Path,
        writable: bool,
        attributes: RootAttributes,
    ) -> Result<(), Error> {
        set_mode(snapshot, 0o711)?;
        let fs = self.fs(id);
        fs::create_dir(&fs).map_err(io_error("create directory", &fs))?;
        std::os::unix::fs::lchown(&fs, Some(attributes.uid), Some(attributes.gid))
            .map_err(io_error("change the owner of", &fs))?;
        // After chown, which may clear set-id bits; and never subject to the umask.
        set_mode(&fs, attributes.mode)?;
        if writable {
            let work = self.work(id);
            DirBuilder::new().mode(0o711).create(&work).map_err(io_error("create directory", &work))?;
        }
        Ok(())
    }

    /// An eager snapshot's files under a name beside the lazy mounts. containerd shortens a long
    /// `lowerdir=` by its common prefix, so all lowers of one overlay are to share one root.
    pub fn lower_beside_lazy(&self, id: u64) -> Result<PathBuf, Error> {
        let (link, target) = (self.link(id), self.snapshot(id));
        match symlink(&target, &link) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(&link).ok().as_deref() != Some(&target) {
                    return Err(io_error("link", &link)(error));
                }
            }
            Err(error) => return Err(io_error("link", &link)(error)),
        }
        Ok(link.join("fs"))
    }

    /// A snapshot's lower directories with mapped ids.
    pub fn mapped(&self, id: u64, maps: &IdMaps, lowers: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        Ok(self.mapped.of(id, maps, lowers)?)
    }

    /// Moves a removed snapshot out of the way; what it returns is to be deleted.
    pub fn discard(&self, id: u64) -> Result<Option<PathBuf>, Error> {
        self.mapped.remove(id).map_err(io_error("let go of what is mapped below", &self.snapshot(id)))?;
        let link = self.link(id);
        if fs::symlink_metadata(&link).is_ok_and(|stat| stat.is_symlink()) {
            fs::remove_file(&link).map_err(io_error("remove", &link))?;
        }
        let (from, to) = (self.snapshot(id), self.trash().join(id.to_string()));
        match fs::rename(&from, &to) {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("move away", &from)(error)),
        }
    }

    /// Ids of the directories that exist; some twice.
    pub fn present(&self) -> Result<Vec<u64>, Error> {
        let mapped = self.mapped.ids().map_err(io_error("read what is mapped beside", &self.mounts))?;
        let own = names(&self.snapshots())?;
        Ok(own.iter().filter_map(|name| name.to_str()?.parse().ok()).chain(mapped).collect())
    }

    /// Everything that was discarded and not yet deleted.
    pub fn discarded(&self) -> Result<Vec<PathBuf>, Error> {
        let trash = self.trash();
        Ok(names(&trash)?.into_iter().map(|name| trash.join(name)).collect())
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn snapshot(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    fn link(&self, id: u64) -> PathBuf {
        self.mounts.join(id.to_string())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_error("change the mode of", path))
}

fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>, Error> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(io_error("read directory", directory))
}
