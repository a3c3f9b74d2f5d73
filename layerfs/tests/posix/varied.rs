//! A tree that has something of each kind, as an image and on a disk, for random operations on both.
//!
//! The same operations in each run. `JAUNT_RANDOM_OPERATIONS=n` tries so many sequences of them, and others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jaunt_layerfs::fuse::MountOptions;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::fixture::{Image, Node, char_device, dir, fifo, file, hard_link, noise, sparse, symlink};
use crate::mounted::Mounted;
use crate::xattrs::acl;

const CASES: u32 = 24;
/// When all of the tree was changed last.
pub const MTIME: (i64, u32) = (1_500_000_000, 987_654_321);
pub const CAPABILITY: &str = "security.capability";
pub const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
/// A sparse file's size, and where its only data is, with its length.
const SPARSE: (u64, u64, usize) = (3_000_000, 1 << 20, 1 << 16);

/// What is in the tree, in the order in which it can be made.
#[derive(Clone, Debug)]
enum Made {
    Dir(u32),
    File(u64, usize),
    Sparse(u64),
    Link(&'static str),
    Hard(&'static str),
    /// As /dev/zero is.
    Zero,
    Fifo,
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
        named("sparse", Made::Sparse(7)),
        named("zero", Made::Zero),
        named("d/pipe", Made::Fifo),
        named("capable", Made::File(8, 5000)),
        named("d/listed", Made::File(9, 6000)),
        named("inherits", Made::Dir(0o770)),
        named("inherits/one", Made::File(10, 700)),
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

/// All names of the tree.
pub fn names() -> Vec<String> {
    let names: BTreeSet<String> = made().into_iter().flatten().map(|(name, _)| name).collect();
    names.into_iter().collect()
}

/// The extended attributes of an entry.
fn xattrs(name: &str, made: &Made) -> Vec<(&'static str, Vec<u8>)> {
    /// `cap_net_raw=ep`, as setcap(8) writes it.
    const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    match (name, made) {
        ("capable", _) => vec![(CAPABILITY, NET_RAW.to_vec())],
        ("d/listed", _) => vec![(ACCESS, acl(6))],
        ("inherits", _) => vec![(DEFAULT, acl(4))],
        (_, Made::File(..) | Made::Sparse(_) | Made::Hard(_)) => vec![("user.of-it", b"value".to_vec())],
        _ => Vec::new(),
    }
}

/// The mode of an entry; an access list's mask stands in it.
fn mode(name: &str, made: &Made) -> u32 {
    match (name, made) {
        ("capable", _) => 0o755,
        ("d/listed", _) => 0o660,
        (_, Made::Dir(mode)) => *mode,
        (_, Made::Link(_)) => 0o777,
        (_, Made::Zero) => 0o666,
        _ => 0o640,
    }
}

fn nodes(layer: &[(String, Made)]) -> Vec<Node> {
    let node = |(name, made): &(String, Made)| {
        let node = match made {
            Made::Dir(_) => dir(name),
            Made::File(seed, len) => file(name, noise(*seed, *len)),
            Made::Sparse(seed) => sparse(name, SPARSE.0, &[(SPARSE.1, &noise(*seed, SPARSE.2))]),
            Made::Link(target) => symlink(name, *target),
            Made::Hard(target) => hard_link(name, target),
            Made::Zero => char_device(name, 1, 5),
            Made::Fifo => fifo(name),
        };
        let node = node.mode(mode(name, made)).owner(7, 8).mtime(MTIME.0, MTIME.1);
        xattrs(name, made).iter().fold(node, |node, (xattr, value)| node.xattr(xattr, value))
    };
    layer.iter().map(node).collect()
}

/// The tree as an image that nothing of is local yet.
pub fn mounted() -> Mounted {
    let image = Image::new(made().iter().map(|layer| nodes(layer)).collect());
    Mounted::with(image, &MountOptions { posix_acl: true, ..MountOptions::default() })
}

/// The same tree, written to a disk.
pub fn unpacked(disk: &Path) -> PathBuf {
    let root = disk.join("tree");
    fs::create_dir(&root).unwrap();
    let all: Vec<_> = made().into_iter().flatten().collect();
    for (name, made) in &all {
        write_out(&root, name, made);
    }
    // When everything is made and owned: an owner's change takes capabilities away, a directory's list is inherited.
    for (name, made) in &all {
        for (xattr, value) in xattrs(name, made) {
            rustix::fs::lsetxattr(root.join(name), xattr, &value, XattrFlags::empty()).unwrap();
        }
    }
    // Last, for what is made in a directory changes its time.
    for (name, _) in &all {
        let time = Timespec { tv_sec: MTIME.0, tv_nsec: MTIME.1.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    root
}

fn write_out(root: &Path, name: &str, made: &Made) {
    let path = root.join(name);
    match made {
        Made::Dir(_) => fs::create_dir(&path).unwrap(),
        Made::File(seed, len) => fs::write(&path, noise(*seed, *len)).unwrap(),
        Made::Sparse(seed) => {
            let open = fs::File::create(&path).unwrap();
            open.set_len(SPARSE.0).unwrap();
            open.write_all_at(&noise(*seed, SPARSE.2), SPARSE.1).unwrap();
        }
        Made::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
        Made::Hard(target) => fs::hard_link(root.join(target), &path).unwrap(),
        Made::Zero => {
            let device = rustix::fs::makedev(1, 5);
            rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), device).unwrap();
        }
        Made::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::empty(), 0).unwrap(),
    }
    std::os::unix::fs::lchown(&path, Some(7), Some(8)).unwrap();
    if !matches!(made, Made::Link(_)) {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode(name, made))).unwrap();
    }
}

/// What tries sequences of operations.
pub fn runner() -> TestRunner {
    let more = std::env::var("JAUNT_RANDOM_OPERATIONS").ok().map(|cases| cases.parse().unwrap());
    let config = Config { cases: more.unwrap_or(CASES), failure_persistence: None, ..Config::default() };
    match more {
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        Some(_) => TestRunner::new(config),
    }
}
