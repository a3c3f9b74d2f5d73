//! Files that are written to a machine, and what was there before.
//!
//! What was there is kept beside each file, under a name that says so, and `/etc/jaunt/installed.json` names all of them:
//! by it they are put back. A file is replaced whole or not at all.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use jaunt_formats::Digest;
use serde::{Deserialize, Serialize};

use super::InstallError;
use super::host::Host;

/// The record, on the machine.
pub const RECORD: &str = "/etc/jaunt/installed.json";
const KEPT: &str = "before-jaunt";

/// What a file is, and so how it can be taken out where others have changed it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// containerd's configuration.
    Containerd,
    /// Docker's.
    Docker,
    /// The systemd unit.
    Unit,
    /// Our own configuration.
    Config,
    /// Our own program.
    Program,
}

/// A file that is to be written.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it is.
    pub kind: Kind,
    /// Its path on the machine.
    pub path: PathBuf,
    /// What it is to hold.
    pub content: Vec<u8>,
    /// The permission bits of a new one.
    pub mode: u32,
}

/// A file that was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    /// What it is.
    pub kind: Kind,
    /// Its path on the machine.
    pub path: PathBuf,
    /// Where what was there before is; none, if nothing was.
    pub before: Option<PathBuf>,
    /// What was written.
    pub digest: Digest,
}

/// All that were.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// In the order of writing.
    pub files: Vec<Written>,
}

impl Record {
    /// The machine's; empty, if nothing was installed.
    pub fn read(host: &Host) -> Result<Self, InstallError> {
        let path = host.at(Path::new(RECORD));
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(InstallError::Io { path, source }),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| InstallError::Record { path, source })
            }
        }
    }

    /// What is on record of a file.
    pub fn find(&self, path: &Path) -> Option<&Written> {
        self.files.iter().find(|written| written.path == path)
    }

    /// Makes it the machine's; an empty one is removed.
    pub fn write(&self, host: &Host) -> Result<(), InstallError> {
        let path = host.at(Path::new(RECORD));
        if self.files.is_empty() {
            return remove(&path);
        }
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| InstallError::Record { path: path.clone(), source })?;
        replace(&path, &bytes, 0o644)
    }
}

/// Writes a file, and keeps what is there; what an earlier run has kept stays. `None`, if the file is as it should be.
pub fn install(host: &Host, planned: &Planned, record: &Record) -> Result<Option<Written>, InstallError> {
    let place = host.at(&planned.path);
    let now = read(&place)?;
    if now.as_ref() == Some(&planned.content) {
        return Ok(None);
    }
    let before = match (record.find(&planned.path), now) {
        (Some(earlier), _) => earlier.before.clone(),
        (None, None) => None,
        (None, Some(now)) => {
            let kept = free_name(host, &planned.path);
            replace(&host.at(&kept), &now, mode_of(&place).unwrap_or(planned.mode))?;
            Some(kept)
        }
    };
    replace(&place, &planned.content, planned.mode)?;
    let Planned { kind, path, content, .. } = planned;
    Ok(Some(Written { kind: *kind, path: path.clone(), before, digest: Digest::of(content) }))
}

/// What a file holds; `None`, if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| InstallError::Io { path: path.to_owned(), source }),
    }
}

/// Puts a file in place, whole, with the owner and mode of the one before, if there was one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let fail = |source| InstallError::Io { path: path.to_owned(), source };
    // A link is followed: it is the file behind it that is read.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(fail)?;
    let before = fs::metadata(path).ok();
    let mode = before.as_ref().map_or(mode, |stat| stat.mode() & 0o7777);
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(fail)?;
    new.write_all(bytes).and_then(|()| new.as_file().sync_all()).map_err(fail)?;
    if let Some(stat) = before {
        lchown(new.path(), Some(stat.uid()), Some(stat.gid())).map_err(fail)?;
    }
    fs::set_permissions(new.path(), Permissions::from_mode(mode)).map_err(fail)?;
    new.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(InstallError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn mode_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|stat| stat.mode() & 0o7777)
}

fn free_name(host: &Host, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = |number: u32| match number {
        0 => path.with_file_name(format!("{name}.{KEPT}")),
        number => path.with_file_name(format!("{name}.{KEPT}-{number}")),
    };
    (0..u32::MAX).map(numbered).find(|kept| !host.at(kept).exists()).unwrap_or_else(|| numbered(u32::MAX))
}
