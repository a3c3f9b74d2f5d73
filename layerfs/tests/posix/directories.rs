//! readdir(3), seekdir(3), and names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};

use crate::fixture::{Image, Node, dir, file, symlink};
use crate::mounted::{Mounted, can_mount};

fn open(path: &Path) -> Dir {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::new(rustix::fs::open(path, flags, Mode::empty()).unwrap()).unwrap()
}

/// Names and where each is followed on, as the kernel tells them.
fn listing(dir: &mut Dir) -> Vec<(Vec<u8>, i64)> {
    dir.map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_bytes().to_vec(), entry.offset()))
        .collect()
}

fn large_directory(count: usize) -> Image {
    let entries = (0..count).map(|at| match at % 10 {
        0 => dir(format!("d/entry-{at:06}")),
        1 => symlink(&format!("d/entry-{at:06}"), "x"),
        _ => file(format!("d/entry-{at:06}"), ""),
    });
    Image::new(vec![[dir("d")].into_iter().chain(entries).collect::<Vec<Node>>()])
}

#[test]
fn a_hundred_thousand_entries_are_each_listed_once() {
    if !can_mount() {
        return;
    }
    let count = 100_000;
    let mounted = Mounted::new(large_directory(count));
    for root in mounted.roots() {
        let mut dir = open(&root.join("d"));
        // Twice: from the file system, and from what the kernel has kept of it.
        for _ in 0..2 {
            let names: BTreeSet<Vec<u8>> = listing(&mut dir).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), count + 2);
            assert!(names.contains(&b"entry-099999"[..]) && names.contains(&b".."[..]));
            dir.rewind();
        }
    }
}

/// S12: A directory of any size lists each of its names once, and `seekdir` returns to where `telldir` was, after a
/// restart too.
#[test]
fn a_place_in_a_directory_can_be_returned_to() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(large_directory(100_000));
    // By themselves, as FUSE and as EROFS have them: overlayfs has places of its own, which are for whoever has it open.
    let roots = |mounted: &Mounted| {
        [Some(mounted.direct()), mounted.complete_roots().first().cloned()].into_iter().flatten()
    };
    let before: Vec<_> = roots(&mounted).map(|root| listing(&mut open(&root.join("d")))).collect();
    // Also by who has not read what comes before, and after a restart.
    mounted.again();
    for (root, all) in roots(&mounted).zip(&before) {
        let mut dir = open(&root.join("d"));
        for at in [0, 1, 2, 99_999, 500, 12_345, 3, 100_001, 77_777] {
            dir.seek(all[at].1).unwrap();
            let next = dir.next().map(|entry| entry.unwrap().file_name().to_bytes().to_vec());
            assert_eq!(next.as_ref(), all.get(at + 1).map(|(name, _)| name), "after entry {at}");
        }
    }
    for merged in [Some(&mounted.merged()), mounted.complete_roots().get(1)].into_iter().flatten() {
        let mut merged = open(&merged.join("d"));
        let all = listing(&mut merged);
        for at in [99_000, 5, 50_000] {
            merged.seek(all[at].1).unwrap();
            assert_eq!(merged.next().unwrap().unwrap().file_name().to_bytes(), all[at + 1].0);
        }
    }
}

#[test]
fn a_listing_tells_the_type_and_number_that_stat_tells() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(large_directory(300));
    for root in mounted.roots() {
        let directory = root.join("d");
        for entry in open(&directory) {
            let entry = entry.unwrap();
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let found = fs::symlink_metadata(directory.join(name)).unwrap();
            assert_eq!(entry.ino(), found.ino(), "{name:?}");
            let types = (entry.file_type().is_dir(), entry.file_type().is_symlink());
            assert_eq!(types, (found.is_dir(), found.is_symlink()), "{name:?}");
        }
    }
}

/// S13: Names have up to 255 bytes, targets of symbolic links up to 4095, paths up to 4096, of any bytes that Linux
/// allows.
#[test]
fn names_and_paths_are_as_long_as_linux_allows() {
    if !can_mount() {
        return;
    }
    let long = "n".repeat(255);
    let target = "t/".repeat(2047) + "t";
    let deep = "d/".repeat(1000) + "end";
    let mounted = Mounted::new(Image::new(vec![vec![
        file(&long, "long"),
        symlink("link", target.clone()),
        file(&deep, "deep"),
        file(b"not-utf8-\xff\xfe\n", "odd"),
    ]]));
    for root in mounted.roots() {
        assert_eq!(fs::read(root.join(&long)).unwrap(), b"long");
        assert_eq!(fs::read_link(root.join("link")).unwrap().as_os_str().len(), 4095);
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new(&target));
        assert_eq!(fs::read(root.join(&deep)).unwrap(), b"deep");
        assert_eq!(fs::read(root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe\n"))).unwrap(), b"odd");
        let too_long = fs::read(root.join("n".repeat(256))).unwrap_err();
        assert_eq!(too_long.raw_os_error(), Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
    }
}

#[test]
fn dot_dot_leads_up_and_out_of_the_mount() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![dir("a"), dir("a/b"), file("a/b/f", "x")]]));
    for root in mounted.roots() {
        let number = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        assert_eq!(number("a/b/.."), number("a"));
        assert_eq!(number("a/b/../.."), number(""));
        let listed = open(&root.join("a/b")).map(|entry| entry.unwrap());
        let up = listed.into_iter().find(|entry| entry.file_name() == c"..").unwrap();
        assert_eq!(up.ino(), number("a"));
    }
    let above = mounted.direct().join("../..");
    assert_eq!(fs::metadata(above).unwrap().ino(), fs::metadata(mounted.path("")).unwrap().ino());
}
