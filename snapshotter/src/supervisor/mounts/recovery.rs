//! What an earlier supervisor has left: mounts in the table, and descriptors that a service manager has kept.
//!
//! | mount | descriptor | |
//! |---|---|---|
//! | yes | yes | held, as it was |
//! | no | yes | held for its last user: it was unmounted, and something stacked on it still reads from it |
//! | yes | no | detached: nobody can serve it any more, every access fails |
//! | EROFS | - | held: the kernel reads it by itself |
//!
//! A mount belongs to a descriptor by the number of its device, not by its path alone.

use std::collections::BTreeMap;
use std::path::Path;

use jaunt_layerfs::erofs;
use jaunt_layerfs::fuse::mount;

use super::{Connection, Held, remove_directory};
use crate::mountinfo::{self, Mount};
use crate::supervisor::kept::KeptMount;
use crate::supervisor::protocol::MountKey;
use crate::supervisor::service_manager::ServiceManager;

/// Brings together what is mounted below `directory` and what was kept.
pub(super) fn recover(
    directory: &Path,
    kept: Vec<KeptMount>,
    manager: &ServiceManager,
) -> BTreeMap<MountKey, Held> {
    let mut held = hold_again(directory, kept, manager);
    let mounts = mountinfo::below(directory).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for mounts of an earlier daemon");
        Vec::new()
    });
    // Of mounts stacked on one path, the last is on top.
    for mount in mounts.iter().rev() {
        let key =
            mount.point.strip_prefix(directory).ok().and_then(|key| key.to_str()?.to_owned().try_into().ok());
        match key {
            Some(key) if mount.fs_type == erofs::FS_TYPE => {
                let mount = Held { path: mount.point.clone(), connection: None, attached: true };
                held.entry(key).or_insert(mount);
            }
            Some(key) if attach(&mut held, &key, mount) => {
                tracing::info!(%key, "holds a mount again that was kept for it");
            }
            _ => detach(mount),
        }
    }
    for (key, held) in held.iter().filter(|(_, held)| !held.attached) {
        tracing::warn!(%key, path = %held.path.display(), "kept, but not mounted any more: held for its last user");
        remove_directory(&held.path);
    }
    held
}

/// Every descriptor under its mount's key. Of two with one key, the first has it, and the other a name that nobody knows:
/// the worker answers its users with errors.
fn hold_again(directory: &Path, kept: Vec<KeptMount>, manager: &ServiceManager) -> BTreeMap<MountKey, Held> {
    let mut held: BTreeMap<MountKey, Held> = BTreeMap::new();
    for KeptMount { name, device, in_flight } in kept {
        let is_same = |held: &Held| held.minor() == Some(name.minor);
        let mut key = name.key.clone();
        if held.get(&key).is_some_and(is_same) {
            tracing::warn!(%key, "a mount was kept twice");
            continue;
        }
        if held.contains_key(&key) {
            let Ok(stray) = MountKey::try_from(format!("stray-{}", name.minor)) else { continue };
            tracing::error!(%key, %stray, "two mounts were kept under one key: reads from the second fail");
            key = stray;
        }
        // It may have been forgotten with another of its name.
        let connection = Connection { device, in_flight, name };
        connection.keep(manager);
        let path = directory.join(key.as_str());
        held.insert(key, Held { path, connection: Some(connection), attached: false });
    }
    held
}

/// Whether the mount is that of the descriptor under this key.
fn attach(held: &mut BTreeMap<MountKey, Held>, key: &MountKey, mount: &Mount) -> bool {
    match held.get_mut(key) {
        Some(held) if held.minor() == Some(mount.minor) => {
            held.attached = true;
            true
        }
        _ => false,
    }
}

fn detach(Mount { point, .. }: &Mount) {
    match mount::detach(point) {
        Ok(()) => tracing::warn!(path = %point.display(), "detached a dead mount of an earlier daemon"),
        Err(error) => tracing::warn!(%error, "cannot detach a dead mount of an earlier daemon"),
    }
    remove_directory(point);
}
