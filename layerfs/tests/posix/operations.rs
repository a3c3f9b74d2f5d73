//! Random operations on a mount and on the same tree on a disk: whatever a program does, in whatever order, it is answered
//! alike, lazily and from a complete chain.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::Dir;

use crate::mounted::can_mount;
use crate::varied::{ACCESS, CAPABILITY, MTIME, mounted, names, runner, unpacked};

/// Operations of a case, at most.
pub const OPERATIONS: usize = 60;
/// Files that are open at a time.
const OPEN: usize = 4;

/// What a program may do. A path is any that there is, or one beside it or below it that there is not.
#[derive(Clone, Debug)]
pub enum Operation {
    Stat(Name),
    Follow(Name),
    ReadLink(Name),
    Xattr(Name, &'static str),
    Xattrs(Name),
    Open(usize, Name),
    Read(usize, Index, usize),
    Map(usize, Index, usize),
    /// Lists a directory; goes back to where it was after so many entries, and lists the rest once more.
    List(Name, Index),
}

/// A name of the tree, or one that is made of it.
#[derive(Clone, Debug)]
pub struct Name(Index, Absent);

#[derive(Clone, Copy, Debug)]
enum Absent {
    No,
    Beside,
    Below,
}

/// A name that mostly is there.
pub fn name() -> impl Strategy<Value = Name> + Clone {
    let absent = prop_oneof![8 => Just(Absent::No), 1 => Just(Absent::Beside), 1 => Just(Absent::Below)];
    (any::<Index>(), absent).prop_map(|(index, absent)| Name(index, absent))
}

/// How much is read or written at a time.
pub fn len() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![0..600_usize, 4000..9000_usize, 100_000..400_000_usize]
}

/// An attribute that some of the tree have.
pub fn xattr() -> impl Strategy<Value = &'static str> + Clone {
    proptest::sample::select(&["user.of-it", "user.none", "security.none", CAPABILITY, ACCESS][..])
}

pub fn operation() -> impl Strategy<Value = Operation> {
    let (name, len) = (name(), len());
    prop_oneof![
        1 => name.clone().prop_map(Operation::Stat),
        1 => name.clone().prop_map(Operation::Follow),
        1 => name.clone().prop_map(Operation::ReadLink),
        1 => (name.clone(), xattr()).prop_map(|(name, xattr)| Operation::Xattr(name, xattr)),
        1 => name.clone().prop_map(Operation::Xattrs),
        3 => (0..OPEN, name.clone()).prop_map(|(place, name)| Operation::Open(place, name)),
        6 => (0..OPEN, any::<Index>(), len.clone()).prop_map(|(place, at, len)| Operation::Read(place, at, len)),
        2 => (0..OPEN, any::<Index>(), len).prop_map(|(place, at, len)| Operation::Map(place, at, len)),
        1 => (name, any::<Index>()).prop_map(|(name, at)| Operation::List(name, at)),
    ]
}

/// What a program is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Mode, owner, group, device, the time unless it is new, size and links.
    Attributes(u32, u32, u32, u64, Option<(i64, i64)>, Option<(u64, u64)>),
    Bytes(usize, blake3::Hash),
    Names(BTreeSet<Vec<u8>>),
    Nothing,
    Error(Option<i32>),
}

/// A program with files open, below one root.
pub struct Program<'r> {
    root: &'r Path,
    names: &'r [String],
    open: [Option<File>; OPEN],
}

impl<'r> Program<'r> {
    pub fn new(root: &'r Path, names: &'r [String]) -> Self {
        Self { root, names, open: [const { None }; OPEN] }
    }

    pub fn run(&mut self, operation: &Operation) -> Told {
        self.try_run(operation).unwrap_or_else(|error| Told::Error(error.raw_os_error()))
    }

    fn try_run(&mut self, operation: &Operation) -> io::Result<Told> {
        match operation {
            Operation::Stat(name) => Ok(attributes(&std::fs::symlink_metadata(self.path(name))?)),
            Operation::Follow(name) => Ok(attributes(&std::fs::metadata(self.path(name))?)),
            Operation::ReadLink(name) => {
                Ok(bytes(std::fs::read_link(self.path(name))?.as_os_str().as_bytes()))
            }
            Operation::Xattr(name, xattr) => {
                let mut value = [0; 64];
                let len = rustix::fs::lgetxattr(self.path(name), *xattr, &mut value)?;
                Ok(bytes(&value[..len]))
            }
            Operation::Xattrs(name) => {
                let mut names = [0; 4096];
                let len = rustix::fs::llistxattr(self.path(name), &mut names)?;
                Ok(Told::Names(names[..len].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()))
            }
            Operation::Open(place, name) => {
                self.open[*place] = None;
                self.open[*place] = Some(open(&self.path(name))?);
                Ok(Told::Nothing)
            }
            Operation::Read(place, at, len) => {
                let Some(file) = &self.open[*place] else { return Ok(Told::Nothing) };
                let mut room = vec![0; *len];
                let at = at.index(usize::try_from(file.metadata()?.len()).unwrap() + 5000);
                let len = file.read_at(&mut room, at as u64)?;
                Ok(bytes(&room[..len]))
            }
            Operation::Map(place, at, len) => self.map(*place, at, *len),
            Operation::List(name, at) => list(&self.path(name), at),
        }
    }

    #[allow(unsafe_code)]
    fn map(&self, place: usize, at: &Index, len: usize) -> io::Result<Told> {
        let Some(file) = self.open[place].as_ref() else { return Ok(Told::Nothing) };
        let size = usize::try_from(file.metadata()?.len()).unwrap();
        if !file.metadata()?.is_file() || size == 0 {
            return Ok(Told::Nothing);
        }
        // SAFETY: nobody writes to the file, on whichever file system.
        let map = unsafe { memmap2::Mmap::map(file)? };
        let at = at.index(size);
        Ok(bytes(&map[at..size.min(at + len)]))
    }

    pub fn path(&self, Name(index, absent): &Name) -> PathBuf {
        let path = self.root.join(index.get(self.names));
        match absent {
            Absent::No => path,
            Absent::Beside => path.with_extension("absent"),
            Absent::Below => path.join("absent"),
        }
    }
}

pub fn attributes(stat: &std::fs::Metadata) -> Told {
    // A directory's size and links are the file system's own.
    let counted = (!stat.is_dir()).then(|| (stat.size(), stat.nlink()));
    // What a program changes has the time of its change, a moment later here than there.
    let time = (stat.mtime() <= MTIME.0).then(|| (stat.mtime(), stat.mtime_nsec()));
    Told::Attributes(stat.mode(), stat.uid(), stat.gid(), stat.rdev(), time, counted)
}

/// Opens without waiting for the other end of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

pub fn bytes(bytes: &[u8]) -> Told {
    Told::Bytes(bytes.len(), blake3::hash(bytes))
}

fn list(path: &Path, at: &Index) -> io::Result<Told> {
    let mut entries = Dir::new(open(path)?)?;
    let mut all = Vec::new();
    while let Some(entry) = entries.read() {
        let entry = entry?;
        all.push((entry.file_name().to_bytes().to_vec(), entry.offset()));
    }
    // Behind any entry: from there on, the same comes again.
    let at = at.index(all.len());
    entries.seek(all[at].1)?;
    let mut again = Vec::new();
    while let Some(entry) = entries.read() {
        again.push(entry?.file_name().to_bytes().to_vec());
    }
    let expected: Vec<_> = all[at + 1..].iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(again, expected, "seekdir in {}", path.display());
    let names: BTreeSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), all.len(), "a name comes twice in {}", path.display());
    Ok(Told::Names(names))
}

#[test]
fn whatever_a_program_does_it_is_told_what_a_disk_tells() {
    if !can_mount() {
        return;
    }
    let names = names();
    let disk = tempfile::tempdir().unwrap();
    let reference = unpacked(disk.path());
    let sequences = prop::collection::vec(operation(), 1..OPERATIONS);
    let outcome = runner().run(&sequences, |operations| {
        // A new one each time: nothing is there before it is asked for.
        let mounted = mounted();
        let mut on_disk = Program::new(&reference, &names);
        let told: Vec<Told> = operations.iter().map(|operation| on_disk.run(operation)).collect();
        for root in mounted.roots() {
            let mut here = Program::new(&root, &names);
            for (operation, expected) in operations.iter().zip(&told) {
                let found = here.run(operation);
                prop_assert_eq!(&found, expected, "{:?} in {}", operation, root.display());
            }
        }
        Ok(())
    });
    outcome.unwrap();
}
