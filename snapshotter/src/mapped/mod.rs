//! Lower directories as a user namespace sees them, for overlays over lazy chains.
//!
//! ```text
//! <run-dir>/mapped/<snapshot id>/<n>     an id-mapped, read-only clone of the snapshot's n-th lower directory
//! <run-dir>/mapped/<snapshot id>.aside   clones that are being made, or let go of
//! ```
//!
//! Invariant: whoever has been given a place finds a clone there, or nothing: never an empty directory, which an overlay
//! would take for an empty layer. So clones are made aside and exchanged with those that were there, and one request
//! works on a snapshot's at a time.
//!
//! containerd maps ids by itself where one mount has all directories of an overlay: it clones the one that they have in
//! common, without what is mounted below that. A lazy chain is a mount of its own, so the clones are ours, and containerd is
//! told of no mapping. An overlay keeps clones of its own: these are for whoever mounts it, and may go while it is in
//! use. Until they go they keep their file system from ending.

mod clone;
mod locks;
mod namespace;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use locks::Locks;
use rustix::fs::{CWD, RenameFlags, renameat_with};
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
    /// The place of the clones.
    #[error("cannot put directories with mapped ids at {snapshot}", snapshot = .snapshot.display())]
    Place {
        /// The snapshot's.
        snapshot: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Tries whether the file system of a directory can be seen with other ids. Leaves nothing behind.
pub fn try_to_map(directory: &Path) -> Result<(), MapError> {
    let ids = || "0:65536:65536".to_owned();
    let maps = IdMaps { uids: ids(), gids: ids() };
    let namespace =
        namespace::user_namespace(&maps).map_err(|source| MapError::Namespace { maps, source })?;
    let done = clone::clone(directory, namespace.as_fd());
    done.map(drop).map_err(|source| MapError::Clone { from: directory.to_owned(), source })
}

/// The clones below one directory. What is cloned from this value knows of each other's requests.
#[derive(Clone, Debug)]
pub struct MappedDirectories {
    directory: PathBuf,
    locks: Locks,
}

impl MappedDirectories {
    /// Those below a directory for what does not outlive the machine.
    pub fn below(run_dir: &Path) -> Self {
        Self { directory: run_dir.join("mapped"), locks: Locks::default() }
    }

    /// The same directories, as `maps` show them. What was mapped for the snapshot before is used again. Blocks while
    /// another request works on the snapshot's.
    pub fn of(&self, id: u64, maps: &IdMaps, lowers: &[PathBuf]) -> Result<Vec<PathBuf>, MapError> {
        self.locks.with(id, |made| {
            let snapshot = self.snapshot(id);
            let places: Vec<_> = (0..lowers.len()).map(|number| place(&snapshot, number)).collect();
            let is_shown = lowers.iter().zip(&places).all(|(from, place)| shows(place, from));
            if is_shown && made.as_ref() == Some(maps) {
                return Ok(places);
            }
            *made = None;
            self.make(id, maps, lowers)?;
            *made = Some(maps.clone());
            Ok(places)
        })
    }

    fn make(&self, id: u64, maps: &IdMaps, lowers: &[PathBuf]) -> Result<(), MapError> {
        let namespace = namespace::user_namespace(maps)
            .map_err(|source| MapError::Namespace { maps: maps.clone(), source })?;
        let (snapshot, aside) = (self.snapshot(id), self.aside(id));
        let place_error = |source| MapError::Place { snapshot: snapshot.clone(), source };
        release_below(&aside).map_err(place_error)?;
        let clones = lowers.iter().enumerate().try_for_each(|(number, from)| {
            let place = place(&aside, number);
            let made =
                fs::create_dir_all(&place).and_then(|()| clone::mapped(from, &place, namespace.as_fd()));
            made.map_err(|source| MapError::Clone { from: from.clone(), source })
        });
        let swapped = clones.and_then(|()| swap(&aside, &snapshot).map_err(place_error));
        // Those before, or those that are of no use.
        let released = release_below(&aside).map_err(place_error);
        swapped.and(released)
    }

    /// Lets go of a snapshot's. Blocks while another request works on them.
    pub fn remove(&self, id: u64) -> io::Result<()> {
        let (snapshot, aside) = (self.snapshot(id), self.aside(id));
        let done = self.locks.with(id, |made| {
            *made = None;
            release_below(&aside)?;
            ignore_absent(fs::rename(&snapshot, &aside))?;
            release_below(&aside)
        });
        self.locks.forget(id);
        done
    }

    fn snapshot(&self, id: u64) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn aside(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id}.aside"))
    }

    /// The snapshots that have some.
    pub fn ids(&self) -> io::Result<Vec<u64>> {
        let id = |name: &PathBuf| name.file_stem()?.to_str()?.parse().ok();
        Ok(names(&self.directory)?.iter().filter_map(id).collect())
    }

    /// Lets go of all, when there are no requests any more.
    pub fn remove_all(&self) -> io::Result<()> {
        names(&self.directory)?.iter().try_for_each(|snapshot| release_below(snapshot))?;
        ignore_absent(fs::remove_dir(&self.directory))
    }
}

fn place(snapshot: &Path, number: usize) -> PathBuf {
    snapshot.join(number.to_string())
}

/// Puts what was made in the place of what was there; that is aside then.
fn swap(made: &Path, there: &Path) -> io::Result<()> {
    match renameat_with(CWD, made, CWD, there, RenameFlags::EXCHANGE) {
        // Nothing was there; nor is anything made of no lower directories.
        Err(rustix::io::Errno::NOENT) => ignore_absent(fs::rename(made, there)),
        swapped => Ok(swapped?),
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

    /// Lets go of everything, also when the test fails.
    struct Cleared(MappedDirectories);

    impl Drop for Cleared {
        fn drop(&mut self) {
            let _ = self.0.remove_all();
        }
    }

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
        let _cleared = Cleared(mapped.clone());
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
    fn whoever_was_given_a_place_never_finds_it_empty() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: {}: needs root", module_path!());
        }
        let dir = tempfile::tempdir().unwrap();
        let lowers = ["one", "two"].map(|name| dir.path().join(name));
        for path in &lowers {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }
        let mapped = MappedDirectories::below(dir.path());
        let _cleared = Cleared(mapped.clone());
        if let Err(error @ MapError::Clone { .. }) = mapped.of(9, &maps(), &lowers) {
            return println!("skipped: {error:?}");
        }
        mapped.remove(9).unwrap();
        let others = IdMaps { uids: "0:500000:65536".to_owned(), ..maps() };
        let is_empty = |place: &PathBuf| fs::read_dir(place).is_ok_and(|mut names| names.next().is_none());
        let requests = |maps: &IdMaps, remove: bool| {
            for _ in 0..40 {
                let places = mapped.of(9, maps, &lowers).unwrap();
                assert!(!places.iter().any(is_empty), "an empty directory is no layer");
                if remove {
                    mapped.remove(9).unwrap();
                    assert!(!places.iter().any(is_empty), "it is gone, or another's");
                }
            }
        };
        std::thread::scope(|scope| {
            for (maps, remove) in [(maps(), false), (maps(), false), (others, false), (maps(), true)] {
                scope.spawn(move || requests(&maps, remove));
            }
        });
        let places = mapped.of(9, &maps(), &lowers).unwrap();
        assert!(places.iter().all(|place| fs::metadata(place).unwrap().uid() == 100_000));
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
        let below = format!("{}/mapped/", dir.path().display());
        assert_eq!(mounts().matches(&below).count(), lowers.len(), "none on another, and none aside");
        mapped.remove(9).unwrap();
        assert_eq!((mounts().matches(&below).count(), mapped.ids().unwrap()), (0, vec![]));
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mapped = MappedDirectories::below(dir.path());
        let _cleared = Cleared(mapped.clone());
        for (uids, gids) in [("", "0:1:1"), ("0:1:1", "0:1"), ("0:1:0", "0:1:1"), ("0:1:1,0:2:1", "0:1:1")] {
            let maps = IdMaps { uids: uids.to_owned(), gids: gids.to_owned() };
            let refused = mapped.of(1, &maps, &[dir.path().to_owned()]).unwrap_err();
            assert!(refused.to_string().contains(&format!("{gids:?}")), "{refused}");
        }
        assert_eq!(mapped.ids().unwrap(), [0; 0]);
    }
}
