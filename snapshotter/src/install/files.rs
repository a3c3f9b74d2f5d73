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
use super::previous::Previous;

/// The record, on the machine.
pub const RECORD: &str = "/etc/jaunt/installed.json";
const KEPT: &str = "before-jaunt";
/// What an edited file is moved, or copied, to.
pub const EDITED: &str = "edited";

/// What a file is, and so how it can be taken out where others have changed it since. In the order of being taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

impl Kind {
    /// Whether nobody but us has something in it.
    pub const fn is_own(self) -> bool {
        !matches!(self, Self::Containerd | Self::Docker)
    }
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
    /// What that took the place of: a replacement that was cut short has left it.
    #[serde(default)]
    pub replaced: Option<Digest>,
    /// Whether it has changes of others in it that were made after the first time.
    #[serde(default)]
    pub edited: bool,
}

/// All that were.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// In the order of writing.
    pub files: Vec<Written>,
    /// Whether pulls are to go elsewhere, also after another installation.
    #[serde(default)]
    pub drained: bool,
    /// Whether containerd has not been restarted since its file was written.
    #[serde(default)]
    pub restart_due: bool,
    /// Whether the daemon has not been, since its program or unit was.
    #[serde(default)]
    pub renewal_due: bool,
    /// What our own files took the place of that the daemon has not served with yet.
    #[serde(default)]
    pub previous: Vec<Previous>,
}

/// What a file took the place of in this run.
#[derive(Debug)]
pub struct Replaced {
    /// What is on record of it.
    pub written: Written,
    /// What was on record before.
    pub earlier: Option<Written>,
    /// Where changes of others went that were made since.
    pub aside: Option<PathBuf>,
    /// What it held; none, if there was nothing.
    pub bytes: Option<Vec<u8>>,
}

impl Replaced {
    /// Puts back what was there, and what was on record.
    pub fn put_back(self, host: &Host, record: &mut Record) -> Result<(), InstallError> {
        let Self { written, earlier, bytes, .. } = self;
        let place = host.at(&written.path)?;
        match bytes {
            Some(bytes) => replace(&place, &bytes, 0o644)?,
            None => remove(&place)?,
        }
        record.go_back(host, &written.path, earlier)
    }
}

impl Record {
    /// The machine's; empty, if nothing was installed.
    pub fn read(host: &Host) -> Result<Self, InstallError> {
        let path = host.at(Path::new(RECORD))?;
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

    /// Puts a file on record, in the place of what was known of it.
    pub fn put(&mut self, written: Written) {
        self.files.retain(|earlier| earlier.path != written.path);
        self.files.push(written);
    }

    /// Has what was known `earlier` of a file take the place of what is known now. If that was nothing, what was kept of it
    /// goes as well.
    pub fn go_back(
        &mut self,
        host: &Host,
        path: &Path,
        earlier: Option<Written>,
    ) -> Result<(), InstallError> {
        if let Some(earlier) = earlier {
            self.put(earlier);
            return Ok(());
        }
        let kept = self.find(path).and_then(|written| written.before.clone());
        self.files.retain(|other| other.path != path);
        kept.map_or(Ok(()), |kept| remove(&host.at(&kept)?))
    }

    /// Makes it the machine's; an empty one is removed.
    pub fn write(&self, host: &Host) -> Result<(), InstallError> {
        let path = host.at(Path::new(RECORD))?;
        if self.files.is_empty() && self.previous.is_empty() {
            return remove(&path);
        }
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| InstallError::Record { path: path.clone(), source })?;
        replace(&path, &bytes, 0o644)
    }
}

/// Keeps what is there of a file that is to be written, and tells what then goes on record; what an earlier run has kept
/// stays. `None`, if the file is as it should be.
pub fn intend(host: &Host, planned: &Planned, record: &Record) -> Result<Option<Replaced>, InstallError> {
    let place = host.at(&planned.path)?;
    let now = read(&place)?;
    if now.as_ref() == Some(&planned.content) {
        return Ok(None);
    }
    let replaced = now.as_deref().map(Digest::of);
    let earlier = record.find(&planned.path).cloned();
    let is_changed = |earlier: &Written| {
        replaced.is_some_and(|now| now != earlier.digest && Some(now) != earlier.replaced)
    };
    let edited_now = earlier.as_ref().is_some_and(is_changed);
    let edited = edited_now || earlier.as_ref().is_some_and(|earlier| earlier.edited);
    // Of others' files what they have changed is in the new one as well.
    let aside = match &now {
        Some(now) if edited_now && planned.kind == Kind::Unit => Some(keep(host, planned, now, EDITED)?),
        _ => None,
    };
    let before = match (&earlier, &now) {
        (Some(earlier), _) => earlier.before.clone(),
        (None, None) => None,
        (None, Some(now)) => Some(keep(host, planned, now, KEPT)?),
    };
    let Planned { kind, path, content, .. } = planned;
    let (kind, path, digest) = (*kind, path.clone(), Digest::of(content));
    let written = Written { kind, path, before, digest, replaced, edited };
    Ok(Some(Replaced { written, earlier, aside, bytes: now }))
}

/// A copy of a file beside it.
pub fn keep(host: &Host, planned: &Planned, now: &[u8], suffix: &str) -> Result<PathBuf, InstallError> {
    let mode = mode_of(&host.at(&planned.path)?).unwrap_or(planned.mode);
    let kept = free_name(host, &planned.path, suffix)?;
    replace(&host.at(&kept)?, now, mode)?;
    Ok(kept)
}

/// Moves a file to a name beside it, which is returned.
pub fn move_aside(host: &Host, path: &Path, suffix: &str) -> Result<PathBuf, InstallError> {
    let (place, aside) = (host.at(path)?, free_name(host, path, suffix)?);
    let renamed = fs::rename(&place, place.with_file_name(aside.file_name().unwrap_or_default()));
    renamed.map_err(|source| InstallError::Io { path: place, source })?;
    Ok(aside)
}

/// What a file holds; `None`, if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| InstallError::Io { path: path.to_owned(), source }),
    }
}

/// Puts a file in place, whole, with the owner and mode of the one before, if there was one. `path` is no link:
/// [`Host::at`] has followed them.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let fail = |source| InstallError::Io { path: path.to_owned(), source };
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

/// The permission bits of a file, if it is there.
pub fn mode_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|stat| stat.mode() & 0o7777)
}

fn free_name(host: &Host, path: &Path, suffix: &str) -> Result<PathBuf, InstallError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Beside the file itself, should the path be a link.
    let place = host.at(path)?;
    let numbered = |number: u32| match number {
        0 => format!("{name}.{suffix}"),
        number => format!("{name}.{suffix}-{number}"),
    };
    let free = (0..u32::MAX).map(numbered).find(|name| !place.with_file_name(name).exists());
    Ok(host.within(&place.with_file_name(free.unwrap_or_else(|| numbered(u32::MAX)))))
}
