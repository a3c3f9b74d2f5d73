//! Lower directories as a user namespace sees them, for overlays over lazy chains.
//!
//! ```text
//! <run-dir>/mapped/<snapshot id>/<n>     an id-mapped, read-only clone of the snapshot's n-th lower directory
//! ```
//!
//! containerd maps ids by itself where one mount has all directories of an overlay: it clones the one that they have in
//! common, without what is mounted below that. A lazy chain is a mount of its own, so the clones are ours, and containerd is
//! told of no mapping. An overlay keeps clones of its own: these are for whoever mounts it, and may go while it is in
//! use. Until they go they keep their file system from ending.

mod clone;
mod namespace;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// How two kinds of ids are mapped: `container:host:count`, more of them after commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users.
    pub uids: String,
    /// Of groups.
    pub gids: String,
}

impl IdMaps {
    /// Options of a mount that containerd maps.
    pub fn into_options(self) -> Vec<String> {
        vec![format!("uidmap={}", self.uids), format!("gidmap={}", self.gids)]
    }
}

/// What cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No user namespace with such maps.
    #[error("cannot make a user namespace that maps users {uids:?} and groups {gids:?}", uids = .maps.uids, gids = .maps.gids)]
    Namespace {
        /// The maps.
        maps: IdMaps,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory whose file system cannot be mapped, or that is not there.
    #[error("cannot map the ids of {from}", from = .from.display())]
    Clone {
        /// The directory.
        from: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Names of clones; holds no state.
#[derive(Clone, Debug)]
pub struct MappedDirectories(PathBuf);

impl MappedDirectories {
    /// Those below a directory for what does not outlive the machine.
    pub fn below(run_dir: &Path) -> Self {
        Self(run_dir.join("mapped"))
    }

    /// The same directories, as `maps` show them. What was mapped for the snapshot before is used again.
    pub fn of(&self, id: u64, maps: &IdMaps, lowers: &[PathBuf]) -> Result<Vec<PathBuf>, MapError> {
        let snapshot = self.0.join(id.to_string());
        let places: Vec<_> = (0..lowers.len()).map(|number| snapshot.join(number.to_string())).collect();
        let missing: Vec<_> =
            lowers.iter().zip(&places).filter(|(from, place)| !shows(place, from)).collect();
        if missing.is_empty() {
            return Ok(places);
        }
        let namespace = namespace::user_namespace(maps)
            .map_err(|source| MapError::Namespace { maps: maps.clone(), source })?;
        for (from, place) in missing {
            let made = release(place)
                .and_then(|()| fs::create_dir_all(place))
                .and_then(|()| clone::mapped(from, place, namespace.as_fd()));
            made.map_err(|source| MapError::Clone { from: from.clone(), source })?;
        }
        Ok(places)
    }

    /// Lets go of a snapshot's.
    pub fn remove(&self, id: u64) -> io::Result<()> {
        release_below(&self.0.join(id.to_string()))
    }

    /// The snapshots that have some.
    pub fn ids(&self) -> io::Result<Vec<u64>> {
        Ok(names(&self.0)?.iter().filter_map(|name| name.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// Lets go of all.
    pub fn remove_all(&self) -> io::Result<()> {
        names(&self.0)?.iter().try_for_each(|snapshot| release_below(snapshot))?;
        ignore_absent(fs::remove_dir(&self.0))
    }
}

/// Whether a place is a clone of that directory. Of a file system that has ended, nothing can be said.
fn shows(place: &Path, from: &Path) -> bool {
    let which = |path| fs::symlink_metadata(path).map(|stat| (stat.dev(), stat.ino()));
    let from = fs::canonicalize(from);
    match (which(place), from.and_then(|from| fs::symlink_metadata(from).map(|s| (s.dev(), s.ino())))) {
        (Ok(place), Ok(from)) => place == from,
        _ => false,
    }
}

fn release_below(snapshot: &Path) -> io::Result<()> {
    names(snapshot)?.iter().try_for_each(|place| release(place))?;
    ignore_absent(fs::remove_dir(snapshot))
}

/// Takes away every mount on a place, and the place.
fn release(place: &Path) -> io::Result<()> {
    // EINVAL: nothing is mounted there any more.
    while unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    ignore_absent(fs::remove_dir(place))
}

fn names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn ignore_absent(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> IdMaps {
        IdMaps { uids: "0:100000:65536".to_owned(), gids: "0:200000:1000,1000:300000:1000".to_owned() }
    }

    #[test]
    fn directories_are_seen_with_other_owners_until_they_are_let_go_of() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: {}: needs root", module_path!());
        }
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for path in [&one, &two] {
            fs::create_dir(path).unwrap();
            std::os::unix::fs::chown(path, Some(7), Some(1001)).unwrap();
            fs::write(path.join("file"), path.to_str().unwrap()).unwrap();
        }
        std::os::unix::fs::symlink(&two, dir.path().join("link")).unwrap();
        let mapped = MappedDirectories::below(dir.path());
        let lowers = [one.clone(), dir.path().join("link")];
        let places = match mapped.of(9, &maps(), &lowers) {
            Err(error @ MapError::Clone { .. }) => return println!("skipped: {error:?}"),
            places => places.unwrap(),
        };
        for (place, from) in places.iter().zip([&one, &two]) {
            let seen = fs::metadata(place).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (100_007, 300_001));
            assert_eq!(fs::read_to_string(place.join("file")).unwrap(), from.to_str().unwrap());
            assert!(fs::write(place.join("new"), "").is_err(), "lower directories are read");
        }
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap().matches("/mapped/9/").count();
        assert_eq!(mounts(), 2);
        assert_eq!(mapped.of(9, &maps(), &lowers).unwrap(), places);
        assert_eq!((mounts(), mapped.ids().unwrap()), (2, vec![9]), "used again");
        mapped.of(9, &maps(), std::slice::from_ref(&two)).unwrap();
        assert_eq!(fs::read_to_string(places[0].join("file")).unwrap(), two.to_str().unwrap());
        mapped.remove(9).unwrap();
        assert_eq!((mounts(), mapped.ids().unwrap()), (0, vec![]));
        mapped.remove(9).unwrap();
        mapped.of(10, &maps(), &lowers).unwrap();
        mapped.remove_all().unwrap();
        mapped.remove_all().unwrap();
        assert!(!dir.path().join("mapped").exists() && one.join("file").exists());
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mapped = MappedDirectories::below(dir.path());
        for (uids, gids) in [("", "0:1:1"), ("0:1:1", "0:1"), ("0:1:0", "0:1:1"), ("0:1:1,0:2:1", "0:1:1")] {
            let maps = IdMaps { uids: uids.to_owned(), gids: gids.to_owned() };
            let refused = mapped.of(1, &maps, &[dir.path().to_owned()]).unwrap_err();
            assert!(refused.to_string().contains(&format!("{gids:?}")), "{refused}");
        }
        assert_eq!(mapped.ids().unwrap(), [0; 0]);
    }
}
