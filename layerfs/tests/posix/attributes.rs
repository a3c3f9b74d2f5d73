//! stat(2): times, owners, sizes, links, inode numbers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixture::{Image, block_device, char_device, dir, fifo, file, hard_link, noise, sparse, symlink};
use crate::mounted::{Mounted, can_mount};

/// S11: `atime` and `ctime` equal `mtime`, and never change.
#[test]
fn every_kind_of_entry_is_shown_as_it_was_packed() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![
        dir("d").mode(0o1777).owner(12, 34).mtime(1_234_567_890, 987_654_321),
        file("d/file", noise(1, 300_000)).mode(0o4755).owner(3_000_000, u32::MAX - 1).mtime(1, 999_999_999),
        symlink("link", "d/file").mtime(7, 8),
        char_device("null", 1, 3).mode(0o666),
        block_device("disk", 259, 70_000).mode(0o640),
        fifo("pipe").mode(0o600),
        file("last", "x").mtime(9_223_372_036, 0),
        file("old", "x").mtime(-1, 0),
        file("never", "x").mtime(9_223_372_037, 0),
    ]]));
    for root in mounted.roots() {
        let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        let (d, f) = (stat("d"), stat("d/file"));
        assert_eq!((d.mode(), d.uid(), d.gid()), (0o041_777, 12, 34));
        assert_eq!((d.mtime(), d.mtime_nsec()), (1_234_567_890, 987_654_321));
        assert_eq!((f.mode(), f.uid(), f.gid(), f.size()), (0o104_755, 3_000_000, u32::MAX - 1, 300_000));
        assert_eq!((f.mtime(), f.mtime_nsec()), (1, 999_999_999));
        assert_eq!((f.atime(), f.ctime(), f.ctime_nsec()), (1, 1, 999_999_999));
        assert_eq!((stat("link").mtime(), stat("link").mtime_nsec()), (7, 8));
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("d/file"));
        assert!(stat("null").file_type().is_char_device() && stat("disk").file_type().is_block_device());
        assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(stat("disk").rdev(), rustix::fs::makedev(259, 70_000));
        assert!(stat("pipe").file_type().is_fifo());
        assert_eq!(["last", "old", "never"].map(|name| stat(name).mtime()), [9_223_372_036, 0, 0]);
        assert!(fs::read(root.join("link")).unwrap() == noise(1, 300_000));
        assert_eq!(fs::symlink_metadata(root.join("missing")).unwrap_err().raw_os_error(), Some(2));
        let read = stat("d/file");
        assert_eq!((read.atime(), read.atime_nsec(), read.ctime()), (1, 999_999_999, 1), "it has been read");
        assert!(read.created().is_err(), "there is no time of birth");
    }
}

/// S10: `st_blocks` counts whole blocks of 4 KiB, as a file that was written out has them.
#[test]
fn blocks_are_counted_as_on_a_disk() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::lazily(Image::new(vec![vec![
        file("empty", ""),
        file("byte", "x"),
        file("page", vec![1; 4096]),
        file("more", vec![1; 4097]),
        sparse("sparse", 1 << 20, &[(0, b"data")]),
        symlink("short", "t".repeat(59)),
        symlink("long", "t".repeat(60)),
    ]]));
    // The reference: the same on the disk that the test runs on, where that is one of the usual kind.
    let local = mounted.path("local");
    fs::create_dir(&local).unwrap();
    for (name, size) in [("empty", 0), ("byte", 1), ("page", 4096), ("more", 4097)] {
        fs::write(local.join(name), vec![1; size]).unwrap();
    }
    let blocks = |path: PathBuf| fs::symlink_metadata(path).unwrap().blocks();
    for root in mounted.roots() {
        let names = ["empty", "byte", "page", "more", "sparse", "short", "long"];
        assert_eq!(names.map(|name| blocks(root.join(name))), [0, 8, 8, 16, 2048, 0, 8]);
        for name in &names[..4] {
            assert_eq!(blocks(root.join(name)), blocks(local.join(name)), "{name}");
        }
        assert_eq!(fs::metadata(root.join("byte")).unwrap().blksize(), 4096);
    }
}

#[test]
fn hard_links_are_one_file_in_whatever_directory() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![
        dir("a"),
        dir("b"),
        dir("b/c"),
        file("a/f", "one file"),
        hard_link("b/g", "a/f"),
        hard_link("b/c/h", "b/g"),
        file("other", "one file"),
        symlink("s", "x"),
        hard_link("s2", "s"),
    ]]));
    for root in mounted.roots() {
        let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        let names = ["a/f", "b/g", "b/c/h"];
        assert_eq!(names.map(|name| stat(name).nlink()), [3; 3]);
        assert_eq!(names.map(|name| stat(name).ino()), [stat("a/f").ino(); 3]);
        assert_ne!(stat("other").ino(), stat("a/f").ino());
        assert_eq!((stat("s").ino(), stat("s").nlink()), (stat("s2").ino(), 2));
    }
}

/// S5: Link counts are those that overlayfs shows: of a file, the names that its layer gave it; of a directory, its
/// subdirectories and 2, or 1 where several layers are merged in it.
#[test]
fn directories_count_their_subdirectories() {
    if !can_mount() {
        return;
    }
    let below = vec![dir("one"), dir("one/a"), dir("one/b"), file("one/f", "x"), dir("two"), dir("two/a")];
    let mounted = Mounted::new(Image::new(vec![below, vec![dir("two"), dir("two/b")]]));
    for root in mounted.roots() {
        let links = |name: &str| fs::metadata(root.join(name)).unwrap().nlink();
        assert_eq!(["one", "one/a", "two", "two/b"].map(links), [4, 2, 1, 2]);
    }
}

/// S7: Inode numbers are the same after a restart, on every node, and once all of an image is local.
#[test]
fn inode_numbers_are_the_same_after_a_restart_and_in_a_complete_mount() {
    if !can_mount() {
        return;
    }
    let mut nodes = vec![dir("d")];
    nodes.extend((0..300).map(|at| file(format!("d/{at}"), format!("{at}"))));
    let mut mounted = Mounted::new(Image::new(vec![nodes, vec![file("d/7", "anew"), dir("e")]]));
    let numbers = |root: PathBuf| -> BTreeMap<PathBuf, u64> {
        let entries = ["d", "e", ""].into_iter().flat_map(|dir| {
            let dir = root.join(dir);
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        });
        let number = |path: &PathBuf| fs::symlink_metadata(path).unwrap().ino();
        entries.map(|path| (path.strip_prefix(&root).unwrap().to_owned(), number(&path))).collect()
    };
    let all = |mounted: &Mounted| mounted.roots().into_iter().map(numbers).collect::<Vec<_>>();
    let before = all(&mounted);
    mounted.again();
    let after = all(&mounted);
    assert_eq!(before, after);
    // By itself and below overlayfs: the lazy mount, then the complete one where the kernel has it.
    for (lazy, complete) in before[..2].iter().zip(&before[2..]) {
        assert_eq!(lazy, complete);
    }
    let distinct: std::collections::BTreeSet<u64> = before[0].values().copied().collect();
    assert_eq!((distinct.len(), before[0].len()), (302, 302));
}

/// S7: Inode numbers are the same after a restart, on every node, and once all of an image is local.
#[test]
fn inode_numbers_are_the_same_on_another_node_and_below_one_device() {
    if !can_mount() {
        return;
    }
    let image = || Image::new(vec![vec![dir("d"), file("d/f", "x")], vec![file("d/g", "y"), dir("e")]]);
    let (one, another) = (Mounted::new(image()), Mounted::new(image()));
    let seen = |root: PathBuf| {
        ["", "d", "d/f", "d/g", "e"]
            .map(|name| fs::metadata(root.join(name)).unwrap())
            .map(|stat| (stat.ino(), stat.dev()))
    };
    for (here, there) in one.roots().into_iter().map(seen).zip(another.roots().into_iter().map(seen)) {
        // The root of a container is its own.
        assert_eq!(here.map(|(number, _)| number)[1..], there.map(|(number, _)| number)[1..]);
        let devices: std::collections::BTreeSet<u64> = here.iter().map(|(_, device)| *device).collect();
        assert_eq!(devices.len(), 1);
    }
    // Also of what a container has changed.
    let merged = one.merged();
    fs::write(merged.join("d/f"), "changed").unwrap();
    fs::write(merged.join("d/new"), "").unwrap();
    let device = |name: &str| fs::metadata(merged.join(name)).unwrap().dev();
    assert_eq!(["d", "d/f", "d/g", "d/new"].map(device), [device(""); 4]);
}

/// S20: Permissions are checked as on a disk, by owner, group and mode.
#[test]
fn permissions_are_those_of_the_image() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![
        file("open", "1").mode(0o644),
        file("closed", "1").mode(0o600),
        file("ours", "1").mode(0o400).owner(65_534, 0),
        file("groups", "1").mode(0o040).owner(0, 65_534),
        dir("locked").mode(0o700),
        file("locked/open", "1"),
    ]]));
    for root in mounted.roots() {
        let readable = |name: &str| {
            let mut command = Command::new("chroot");
            command.arg("--userspec=65534:65534").arg("/").arg("cat").arg(root.join(name));
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        };
        let names = ["open", "closed", "ours", "groups", "locked/open"];
        assert_eq!(names.map(readable), [true, false, true, true, false]);
    }
}

/// S6: `statfs` tells of the disk that content is kept on.
/// S9: The file system is read-only, and a container's own layer on top of it takes every change.
#[test]
fn the_file_system_is_read_only_and_says_what_its_disk_has() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![dir("d"), file("d/f", "x")]]));
    let root = mounted.direct();
    assert_eq!(fs::read_dir(root.parent().unwrap()).unwrap().count(), 1);
    let refused = Some(rustix::io::Errno::ROFS.raw_os_error());
    let file = root.join("d/f");
    assert_eq!(fs::write(&file, "y").unwrap_err().raw_os_error(), refused);
    assert_eq!(fs::write(root.join("new"), "y").unwrap_err().raw_os_error(), refused);
    assert_eq!(fs::remove_file(&file).unwrap_err().raw_os_error(), refused);
    assert_eq!(fs::create_dir(root.join("new")).unwrap_err().raw_os_error(), refused);
    let mode = fs::Permissions::from_mode(0o600);
    assert_eq!(fs::set_permissions(&file, mode).unwrap_err().raw_os_error(), refused);
    let (ours, disk) = (rustix::fs::statvfs(&root).unwrap(), rustix::fs::statvfs(mounted.path("")).unwrap());
    assert_eq!((ours.f_blocks, ours.f_bsize, ours.f_files), (disk.f_blocks, disk.f_bsize, disk.f_files));
    assert!(ours.f_blocks > 0 && ours.f_namemax == 255);
    // A container's layer on top takes all of this.
    let merged = mounted.merged();
    fs::write(merged.join("d/f"), "y").unwrap();
    fs::write(merged.join("new"), "y").unwrap();
    assert_eq!(fs::read(merged.join("d/f")).unwrap(), b"y");
    assert_eq!(fs::read(&file).unwrap(), b"x");
}
