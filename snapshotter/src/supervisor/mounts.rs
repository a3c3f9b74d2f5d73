//! The mounts that the supervisor holds.
//!
//! ```text
//!            mount                 unmount                  last user leaves
//!   (none) ---------> Attached ------------------> Lingers ------------------> (gone)
//!                        |  ^ busy: nothing changes                               ^
//!                        +--+                                                     |
//!                        +------------- unmount, or end seen from outside --------+
//! ```
//!
//! A mount that the kernel reads by itself knows no lingering: it has no descriptor, and harms nobody when it stays. Those
//! that a dead supervisor has left are held again, and so are those whose descriptors a service manager has kept
//! ([`recovery`]).
//!
//! Invariant: a descriptor is closed only after the kernel has said that its file system is out of use,
//! because closing it is what breaks a running container for good. umount(2) succeeding is no such
//! word: overlayfs, which is how containers use these mounts, holds the file system and not the path.

mod recovery;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use jaunt_layerfs::erofs::{self, AttachError, Detached};
use jaunt_layerfs::fuse::mount::{self, UnmountError};
use jaunt_layerfs::fuse::{InFlight, MountError, MountOptions, Negotiated};

use super::kept::{KeptMount, MountName};
use super::lock::{LockError, create_directory};
use super::protocol::{MountKey, MountNeeds, MountRecord, Unmounted};
use super::service_manager::ServiceManager;
use crate::mapped::MappedDirectories;

/// Every mount below one directory.
#[derive(Debug)]
pub(super) struct MountTable {
    directory: PathBuf,
    options: MountOptions,
    held: BTreeMap<MountKey, Held>,
    /// The worker's, over them.
    mapped: MappedDirectories,
    manager: Rc<ServiceManager>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// None, where the kernel reads it by itself.
    connection: Option<Connection>,
    attached: bool,
}

/// What somebody must serve.
#[derive(Debug)]
struct Connection {
    device: OwnedFd,
    /// Requests under way, where the kernel does not send them again.
    in_flight: Option<OwnedFd>,
    /// What it is called by the service manager, which keeps it.
    name: MountName,
}

impl MountTable {
    /// A table of the mounts that an earlier supervisor has left and that can be held again: those that the kernel reads by
    /// itself, and those that were `kept`. The directory is cleared of all others.
    pub(super) fn new(
        run_dir: &Path,
        options: MountOptions,
        kept: Vec<KeptMount>,
        manager: Rc<ServiceManager>,
    ) -> Result<Self, LockError> {
        let (directory, mapped) = (run_dir.join("mnt"), MappedDirectories::below(run_dir));
        create_directory(&directory)?;
        let held = recovery::recover(&directory, kept, &manager);
        Ok(Self { directory, options, held, mapped, manager })
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// How many somebody must serve.
    pub(super) fn served(&self) -> usize {
        self.held.values().filter(|held| held.connection.is_some()).count()
    }

    pub(super) fn keys(&self) -> String {
        self.held.keys().map(MountKey::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Whether a file system is held only for its last user.
    pub(super) fn any_lingers(&self) -> bool {
        self.held.values().any(|held| !held.attached)
    }

    /// Makes a mount, and the directory for it.
    pub(super) fn mount(&mut self, key: &MountKey, needs: MountNeeds) -> Result<MountRecord, TableError> {
        let path = self.free_place(key)?;
        let MountNeeds { posix_acl, passthrough } = needs;
        let options = MountOptions { posix_acl, passthrough, ..self.options.clone() };
        let mounted = mount::mount(&path, &options).inspect_err(|_| remove_directory(&path))?;
        tracing::info!(%key, path = %path.display(), "mounted");
        let (minor, negotiated) = (mounted.device_number.minor, mounted.negotiated);
        let name = MountName { key: key.clone(), minor, negotiated };
        let in_flight = if mounted.negotiated.can_resend() { None } else { table_of_requests(key) };
        let connection = Connection { device: mounted.device, in_flight, name };
        connection.keep(&self.manager);
        Ok(self.hold(key, path, Some(connection)))
    }

    /// Gives a mount its place that the worker has made.
    pub(super) fn attach(&mut self, key: &MountKey, mount: OwnedFd) -> Result<MountRecord, TableError> {
        let mount = Detached::from_fd(mount)?;
        let path = self.free_place(key)?;
        mount.attach(&path).inspect_err(|_| remove_directory(&path))?;
        tracing::info!(%key, path = %path.display(), "attached");
        Ok(self.hold(key, path, None))
    }

    /// The directory for a new mount.
    fn free_place(&mut self, key: &MountKey) -> Result<PathBuf, TableError> {
        self.release_ended();
        if let Some(held) = self.held.get(key) {
            let key = key.clone();
            return Err(if held.attached { TableError::Held(key) } else { TableError::Lingers(key) });
        }
        let path = self.directory.join(key.as_str());
        create_directory(&path)?;
        Ok(path)
    }

    fn hold(&mut self, key: &MountKey, path: PathBuf, connection: Option<Connection>) -> MountRecord {
        let held = Held { path, connection, attached: true };
        let record = held.record(key);
        self.held.insert(key.clone(), held);
        record
    }

    /// The mount whose key follows `after`, or the first.
    pub(super) fn next(&self, after: Option<&MountKey>) -> Option<MountRecord> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (key, held) = self.held.range::<MountKey, _>((from, Bound::Unbounded)).next()?;
        Some(held.record(key))
    }

    /// The descriptors of a mount: its device and, where there is one, its table of requests.
    pub(super) fn descriptors(&self, key: &MountKey) -> Vec<BorrowedFd<'_>> {
        let connection = self.held.get(key).and_then(|held| held.connection.as_ref());
        let both = connection.map(|connection| (&connection.device, &connection.in_flight));
        both.into_iter()
            .flat_map(|(device, table)| [Some(device), table.as_ref()])
            .flatten()
            .map(AsFd::as_fd)
            .collect()
    }

    /// Ends one mount unless it is in use.
    pub(super) fn unmount(&mut self, key: &MountKey) -> Result<Unmounted, TableError> {
        let Some(held) = self.held.get_mut(key) else { return Ok(Unmounted::Done) };
        let was_attached = held.attached;
        if was_attached {
            match mount::unmount(&held.path) {
                Err(UnmountError::Busy(_)) => return Ok(Unmounted::Busy),
                // Somebody else has unmounted it: as good as done by us.
                Ok(()) | Err(UnmountError::NotMounted(_)) => {}
                Err(error) => return Err(error.into()),
            }
            held.attached = false;
            remove_directory(&held.path);
        }
        if !held.is_in_use() {
            held.forget(&self.manager);
            self.held.remove(key);
            tracing::info!(%key, "unmounted");
            return Ok(Unmounted::Done);
        }
        if was_attached {
            tracing::info!(%key, "unmounted, but still read from: kept until its last user is gone");
        }
        Ok(Unmounted::Lingers)
    }

    /// Ends every mount that is not in use.
    pub(super) fn unmount_idle(&mut self) {
        // Whoever is to end must not be kept by those that nobody may ever mount.
        if let Err(error) = self.mapped.remove_all() {
            tracing::warn!(%error, "cannot let go of directories with mapped ids");
        }
        for key in self.held.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.unmount(&key) {
                tracing::warn!(%key, %error, "cannot unmount");
            }
        }
    }

    /// Lets go of the mounts whose file system is out of use.
    pub(super) fn release_ended(&mut self) {
        self.held.retain(|key, held| {
            let lives = held.is_in_use();
            if !lives && held.attached {
                tracing::warn!(%key, path = %held.path.display(), "a mount was ended by somebody else");
                let _ = mount::detach(&held.path);
                remove_directory(&held.path);
            } else if !lives {
                tracing::info!(%key, "the last user of an unmounted file system is gone");
            }
            if !lives {
                held.forget(&self.manager);
            }
            lives
        });
    }

    /// Has all of them outlive this process.
    pub(super) fn keep_all(&self) {
        let connections = self.held.values().filter_map(|held| held.connection.as_ref());
        connections.for_each(|connection| connection.keep(&self.manager));
    }

    /// Takes every mount off its path, in use or not. Closing the descriptors then breaks the users.
    pub(super) fn detach_all(&mut self) {
        for held in self.held.values_mut().filter(|held| held.attached && held.connection.is_some()) {
            if let Err(error) = mount::detach(&held.path) {
                tracing::warn!(%error, "cannot detach");
            }
            held.attached = false;
            remove_directory(&held.path);
        }
        self.held.values().for_each(|held| held.forget(&self.manager));
    }
}

impl Connection {
    /// Has it outlive this process.
    fn keep(&self, manager: &ServiceManager) {
        manager.keep(&self.name.to_string(), &[self.device.as_fd()]);
        if let Some(table) = &self.in_flight {
            manager.keep(&self.name.table().to_string(), &[table.as_fd()]);
        }
    }
}

/// Without one, requests that a dead worker had taken wait for ever.
fn table_of_requests(key: &MountKey) -> Option<OwnedFd> {
    InFlight::create()
        .inspect_err(
            |error| tracing::warn!(%key, %error, "requests of a worker that dies will not be failed"),
        )
        .ok()
}

impl Held {
    /// By its mount or, as far as somebody must serve it, by anything stacked on it.
    fn is_in_use(&self) -> bool {
        match &self.connection {
            Some(connection) => mount::is_connected(&connection.device),
            None => self.attached && erofs::is_mounted_on(&self.path),
        }
    }

    fn minor(&self) -> Option<u32> {
        self.connection.as_ref().map(|connection| connection.name.minor)
    }

    fn negotiated(&self) -> Option<&Negotiated> {
        self.connection.as_ref().map(|connection| &connection.name.negotiated)
    }

    /// Nobody needs it any more.
    fn forget(&self, manager: &ServiceManager) {
        if let Some(connection) = &self.connection {
            manager.forget(&connection.name.to_string());
            if connection.in_flight.is_some() {
                manager.forget(&connection.name.table().to_string());
            }
        }
    }

    fn record(&self, key: &MountKey) -> MountRecord {
        MountRecord {
            key: key.clone(),
            path: self.path.clone(),
            negotiated: self.negotiated().map(|negotiated| negotiated.to_bytes().to_vec()),
            attached: self.attached,
        }
    }
}

/// An empty directory more or less harms nobody; the next mount of that key takes it over.
fn remove_directory(path: &Path) {
    if let Err(error) = std::fs::remove_dir(path) {
        tracing::debug!(path = %path.display(), %error, "cannot remove a mount's directory");
    }
}

/// A mount that cannot be made or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    #[error("mount {0} is held already")]
    Held(MountKey),
    #[error("mount {0} is unmounted but still read from")]
    Lingers(MountKey),
    #[error(transparent)]
    Directory(#[from] LockError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Unmount(#[from] UnmountError),
}
