//! Random operations on a mount and on the same tree on a disk: whatever a program does, in whatever order, it is answered
//! alike, lazily and from a complete chain.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{AtFlags, Dir, Timespec, Timestamps, XattrFlags};

use crate::fixture::{Image, Node, dir, file, hard_link, noise, symlink};
use crate::mounted::{Mounted, can_mount};

const CASES: u32 = 24;
const OPERATIONS: usize = 60;
/// Files that are open at a time.
const OPEN: usize = 4;
const MTIME: (i64, u32) = (1_500_000_000, 987_654_321);

/// What is in the tree, in the order in which it can be made.
#[derive(Clone, Debug)]
enum Made {
    Dir(u32),
    File(u64, usize),
    Link(&'static str),
    Hard(&'static str),
}

/// The files of each layer; what the second one names again takes the place of what the first one has.
fn made() -> [Vec<(String, Made)>; 2] {
    let named = |name: &str, made| (name.to_owned(), made);
    let mut lower = vec![
        named("d", Made::Dir(0o755)),
        named("d/e", Made::Dir(0o1777)),
        named("many", Made::Dir(0o700)),
        named("empty", Made::File(0, 0)),
        named("d/large", Made::File(1, 2_500_001)),
        named("d/page", Made::File(2, 4096)),
        named("d/e/odd", Made::File(3, 70_003)),
        named("hard", Made::Hard("d/e/odd")),
        named("link", Made::Link("d/e/../page")),
        named("loop", Made::Link("loop")),
        named("d/away", Made::Link("/no/where")),
        named("changed", Made::File(4, 9000)),
    ];
    lower.extend((0..150_usize).map(|at| (format!("many/{at:0>width$}", width = 1 + at), Made::File(0, at))));
    let upper = vec![
        named("changed", Made::File(5, 140_000)),
        named("d/e/added", Made::File(6, 300_000)),
        named("d/f", Made::Dir(0o710)),
        named("d/f/below", Made::Link("../large")),
    ];
    [lower, upper]
}

fn nodes(made: &[(String, Made)]) -> Vec<Node> {
    let node = |(name, made): &(String, Made)| {
        let node = match made {
            Made::Dir(mode) => dir(name).mode(*mode),
            Made::File(seed, len) => file(name, noise(*seed, *len)).mode(0o640).xattr("user.of-it", b"value"),
            Made::Link(target) => symlink(name, *target),
            Made::Hard(target) => hard_link(name, target).mode(0o640).xattr("user.of-it", b"value"),
        };
        node.owner(7, 8).mtime(MTIME.0, MTIME.1)
    };
    made.iter().map(node).collect()
}

/// The same tree, written to a disk.
fn write_out(root: &Path, layers: &[Vec<(String, Made)>]) {
    std::fs::create_dir(root).unwrap();
    for (name, made) in layers.iter().flatten() {
        let path = root.join(name);
        match made {
            Made::Dir(mode) => {
                std::fs::create_dir(&path).unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(*mode)).unwrap();
            }
            Made::File(seed, len) => {
                std::fs::write(&path, noise(*seed, *len)).unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
                rustix::fs::setxattr(&path, "user.of-it", b"value", XattrFlags::empty()).unwrap();
            }
            Made::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
            Made::Hard(target) => std::fs::hard_link(root.join(target), &path).unwrap(),
        }
        std::os::unix::fs::lchown(&path, Some(7), Some(8)).unwrap();
    }
    // Last, for what is made in a directory changes its time.
    for (name, _) in layers.iter().flatten() {
        let time = Timespec { tv_sec: MTIME.0, tv_nsec: MTIME.1.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What a program may do. A path is any that there is, or one beside it or below it that there is not.
#[derive(Clone, Debug)]
enum Operation {
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

#[derive(Clone, Debug)]
struct Name(Index, Absent);

#[derive(Clone, Copy, Debug)]
enum Absent {
    No,
    Beside,
    Below,
}

fn operation() -> impl Strategy<Value = Operation> {
    let absent = prop_oneof![8 => Just(Absent::No), 1 => Just(Absent::Beside), 1 => Just(Absent::Below)];
    let name = (any::<Index>(), absent).prop_map(|(index, absent)| Name(index, absent));
    let len = prop_oneof![0..600_usize, 4000..9000_usize, 100_000..400_000_usize];
    let xattr = prop_oneof![Just("user.of-it"), Just("user.none"), Just("security.none")];
    prop_oneof![
        1 => name.clone().prop_map(Operation::Stat),
        1 => name.clone().prop_map(Operation::Follow),
        1 => name.clone().prop_map(Operation::ReadLink),
        1 => (name.clone(), xattr).prop_map(|(name, xattr)| Operation::Xattr(name, xattr)),
        1 => name.clone().prop_map(Operation::Xattrs),
        3 => (0..OPEN, name.clone()).prop_map(|(place, name)| Operation::Open(place, name)),
        6 => (0..OPEN, any::<Index>(), len.clone()).prop_map(|(place, at, len)| Operation::Read(place, at, len)),
        2 => (0..OPEN, any::<Index>(), len).prop_map(|(place, at, len)| Operation::Map(place, at, len)),
        1 => (name, any::<Index>()).prop_map(|(name, at)| Operation::List(name, at)),
    ]
}

/// What a program is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Attributes(u32, u32, u32, i64, i64, Option<(u64, u64)>),
    Bytes(usize, blake3::Hash),
    Names(BTreeSet<Vec<u8>>),
    Nothing,
    Error(Option<i32>),
}

/// A program with files open, below one root.
struct Program<'r> {
    root: &'r Path,
    names: &'r [String],
    open: [Option<File>; OPEN],
}

impl<'r> Program<'r> {
    fn new(root: &'r Path, names: &'r [String]) -> Self {
        Self { root, names, open: [const { None }; OPEN] }
    }

    fn run(&mut self, operation: &Operation) -> Told {
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
                self.open[*place] = Some(File::open(self.path(name))?);
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

    fn path(&self, Name(index, absent): &Name) -> PathBuf {
        let path = self.root.join(index.get(self.names));
        match absent {
            Absent::No => path,
            Absent::Beside => path.with_extension("absent"),
            Absent::Below => path.join("absent"),
        }
    }
}

fn attributes(stat: &std::fs::Metadata) -> Told {
    // A directory's size and links are the file system's own.
    let counted = (!stat.is_dir()).then(|| (stat.size(), stat.nlink()));
    Told::Attributes(stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec(), counted)
}

fn bytes(bytes: &[u8]) -> Told {
    Told::Bytes(bytes.len(), blake3::hash(bytes))
}

fn list(path: &Path, at: &Index) -> io::Result<Told> {
    let mut entries = Dir::new(File::open(path)?)?;
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
    let layers = made();
    let names: Vec<String> =
        layers.iter().flatten().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let disk = tempfile::tempdir().unwrap();
    let reference = disk.path().join("tree");
    write_out(&reference, &layers);
    let sequences = prop::collection::vec(operation(), 1..OPERATIONS);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&sequences, |operations| {
        // A new one each time: nothing is there before it is asked for.
        let mounted = Mounted::new(Image::new(layers.iter().map(|made| nodes(made)).collect()));
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
