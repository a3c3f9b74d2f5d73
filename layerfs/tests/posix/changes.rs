//! Random changes through overlayfs on a mount and on the same tree on a disk: what a container does to an image's
//! files comes out alike, lazily and from a complete chain, and leaves the image as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::fixture::noise;
use crate::mounted::{can_mount, overlay};
use crate::operations::{
    Name, OPERATIONS, Operation, Program, Told, attributes, bytes, len, name, operation, xattr,
};
use crate::varied::{ACCESS, mounted, names, runner, unpacked};

/// What a container's program may do to a tree.
#[derive(Clone, Debug)]
enum Change {
    Look(Operation),
    Write(Name, Index, usize),
    Append(Name, usize),
    Truncate(Name, Index),
    Create(Name, usize),
    MakeDir(Name, u32),
    MakePipe(Name),
    Link(Name, Name),
    Symlink(&'static str, Name),
    Rename(Name, Name, RenameFlags),
    Unlink(Name),
    RemoveDir(Name),
    RemoveAll(Name),
    Chmod(Name, u32),
    Chown(Name, u32),
    Xattr(Name, &'static str, usize),
    RemoveXattr(Name, &'static str),
}

fn change() -> impl Strategy<Value = Change> {
    let modes = || select(&[0o600_u32, 0o4755, 0o2711, 0o1777][..]);
    let flags = select(vec![RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE]);
    let targets = select(&["d/page", "many", "no/where"][..]);
    prop_oneof![
        12 => operation().prop_map(|operation| Change::Look(unmapped(operation))),
        4 => (name(), any::<Index>(), len()).prop_map(|(name, at, len)| Change::Write(name, at, len)),
        2 => (name(), len()).prop_map(|(name, len)| Change::Append(name, len)),
        3 => (name(), any::<Index>()).prop_map(|(name, at)| Change::Truncate(name, at)),
        2 => (name(), len()).prop_map(|(name, len)| Change::Create(name, len)),
        2 => (name(), modes()).prop_map(|(name, mode)| Change::MakeDir(name, mode)),
        1 => name().prop_map(Change::MakePipe),
        3 => (name(), name()).prop_map(|(from, to)| Change::Link(from, to)),
        1 => (targets, name()).prop_map(|(target, name)| Change::Symlink(target, name)),
        4 => (name(), name(), flags).prop_map(|(from, to, flags)| Change::Rename(from, to, flags)),
        3 => name().prop_map(Change::Unlink),
        1 => name().prop_map(Change::RemoveDir),
        1 => name().prop_map(Change::RemoveAll),
        2 => (name(), modes()).prop_map(|(name, mode)| Change::Chmod(name, mode)),
        2 => (name(), 0..3_u32).prop_map(|(name, owner)| Change::Chown(name, owner)),
        2 => (name(), xattr(), 0..2000_usize).prop_map(|(name, xattr, len)| Change::Xattr(name, xattr, len)),
        1 => (name(), xattr()).prop_map(|(name, xattr)| Change::RemoveXattr(name, xattr)),
    ]
}

/// The same without a mapping: one of an open file that was made longer through another descriptor has pages that the
/// file below does not.
fn unmapped(operation: Operation) -> Operation {
    match operation {
        Operation::Map(place, at, len) => Operation::Read(place, at, len),
        other => other,
    }
}

fn run(program: &mut Program<'_>, change: &Change) -> Told {
    match change {
        Change::Look(operation) => program.run(operation),
        change => match try_run(program, change) {
            Ok(()) => Told::Nothing,
            Err(error) => Told::Error(error.raw_os_error()),
        },
    }
}

fn try_run(program: &Program<'_>, change: &Change) -> io::Result<()> {
    let path = |name: &Name| program.path(name);
    match change {
        Change::Look(_) => {}
        Change::Write(name, at, len) => {
            let open = opened(fs::File::options().write(true), &path(name))?;
            open.write_all_at(&noise(1, *len), place(&open, at)?)?;
        }
        Change::Append(name, len) => {
            opened(fs::File::options().append(true), &path(name))?.write_all(&noise(2, *len))?;
        }
        Change::Truncate(name, at) => {
            let open = opened(fs::File::options().write(true), &path(name))?;
            open.set_len(place(&open, at)?)?;
        }
        Change::Create(name, len) => {
            let mut open = opened(fs::File::options().write(true).create_new(true), &path(name))?;
            open.write_all(&noise(3, *len))?;
        }
        Change::MakeDir(name, mode) => rustix::fs::mkdir(path(name), Mode::from_raw_mode(*mode))?,
        Change::MakePipe(name) => {
            rustix::fs::mknodat(CWD, path(name), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
        }
        Change::Link(from, to) => fs::hard_link(path(from), path(to))?,
        Change::Symlink(target, name) => std::os::unix::fs::symlink(target, path(name))?,
        Change::Rename(from, to, flags) => {
            rustix::fs::renameat_with(CWD, path(from), CWD, path(to), *flags)?;
        }
        Change::Unlink(name) => fs::remove_file(path(name))?,
        Change::RemoveDir(name) => fs::remove_dir(path(name))?,
        Change::RemoveAll(name) => fs::remove_dir_all(path(name))?,
        Change::Chmod(name, mode) => fs::set_permissions(path(name), fs::Permissions::from_mode(*mode))?,
        Change::Chown(name, owner) => std::os::unix::fs::lchown(path(name), Some(*owner), Some(9))?,
        Change::Xattr(name, xattr, len) => {
            rustix::fs::lsetxattr(path(name), *xattr, &noise(4, *len), XattrFlags::empty())?;
        }
        Change::RemoveXattr(name, xattr) => match rustix::fs::lremovexattr(path(name), *xattr) {
            // What overlayfs says over EROFS of a list that is not there (S24).
            Err(Errno::OPNOTSUPP) if *xattr == ACCESS => Err(Errno::NODATA)?,
            removed => removed?,
        },
    }
    Ok(())
}

/// Opens without waiting for the other end of a FIFO.
fn opened(options: &mut fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// Any place in a file, or a little behind it.
fn place(open: &fs::File, at: &Index) -> io::Result<u64> {
    let len = usize::try_from(open.metadata()?.len()).unwrap();
    Ok(at.index(len + 5000) as u64)
}

/// All that a tree has: of each name what it is, its attributes with their values, and its content.
fn walk(root: &Path) -> BTreeMap<PathBuf, Vec<Told>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        let mut seen = xattrs(&full);
        if stat.is_dir() {
            let below = fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name()));
            pending.extend(below);
        } else if stat.is_symlink() {
            seen.push(bytes(fs::read_link(&full).unwrap().as_os_str().as_bytes()));
        } else if stat.is_file() {
            seen.push(bytes(&fs::read(&full).unwrap()));
        }
        // The root itself is no part of the tree.
        if path != Path::new("") {
            seen.push(attributes(&stat));
            found.insert(path, seen);
        }
    }
    found
}

fn xattrs(path: &Path) -> Vec<Told> {
    let mut names = [0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut names: Vec<&[u8]> = names[..len].split(|byte| *byte == 0).collect();
    names.sort_unstable();
    let value = |name: &&[u8]| {
        let mut value = [0; 4096];
        let len = rustix::fs::lgetxattr(path, *name, &mut value).unwrap();
        bytes(&[name, &b"="[..], &value[..len]].concat())
    };
    names.iter().filter(|name| !name.is_empty()).map(value).collect()
}

/// An overlayfs over the tree on a disk; unmounted whatever happens.
struct OnDisk(tempfile::TempDir);

impl OnDisk {
    fn new(lower: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        overlay(lower, directory.path());
        Self(directory)
    }

    fn merged(&self) -> PathBuf {
        self.0.path().join("merged")
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.merged(), UnmountFlags::DETACH);
    }
}

/// S9: The file system is read-only, and a container's own layer on top of it takes every change.
#[test]
fn whatever_a_container_changes_comes_out_as_on_a_disk_and_leaves_the_image_as_it_is() {
    if !can_mount() {
        return;
    }
    let names = names();
    let disk = tempfile::tempdir().unwrap();
    let lower = unpacked(disk.path());
    let untouched = walk(&lower);
    let sequences = prop::collection::vec(change(), 1..OPERATIONS);
    let outcome = runner().run(&sequences, |changes| {
        let (mounted, on_disk) = (mounted(), OnDisk::new(&lower));
        let reference = on_disk.merged();
        let mut there = Program::new(&reference, &names);
        let told: Vec<Told> = changes.iter().map(|change| run(&mut there, change)).collect();
        let expected = walk(&reference);
        let complete = mounted.complete_roots();
        for root in complete.get(1).into_iter().chain([&mounted.merged()]) {
            let mut here = Program::new(root, &names);
            for (change, expected) in changes.iter().zip(&told) {
                let found = run(&mut here, change);
                prop_assert_eq!(&found, expected, "{:?} in {}", change, root.display());
            }
            let found = walk(root);
            for path in found.keys().chain(expected.keys()) {
                prop_assert_eq!(
                    found.get(path),
                    expected.get(path),
                    "{} of {}",
                    path.display(),
                    root.display()
                );
            }
        }
        for root in [Some(&mounted.direct()), complete.first()].into_iter().flatten() {
            prop_assert!(walk(root) == untouched, "{} was changed", root.display());
        }
        Ok(())
    });
    outcome.unwrap();
}
