//! Extended attributes and access lists.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use jaunt_layerfs::fuse::{KernelFeatures, MountOptions};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::exec::can_read_as;
use crate::fixture::{Image, dir, file, noise, symlink};
use crate::mounted::{Mounted, can_mount};

fn value(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut room = vec![0; 64 << 10];
    let len = lgetxattr(path, CString::new(name).unwrap(), &mut room)?;
    room.truncate(len);
    Ok(room)
}

fn names(path: &Path) -> Result<Vec<String>, Errno> {
    let mut room = vec![0; 64 << 10];
    let len = llistxattr(path, &mut room)?;
    let text = String::from_utf8(room[..len].to_vec()).unwrap();
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// S16: Extended attributes have their values up to 64 KiB and their names up to 255 bytes, also after a copy into a
/// container's layer.
#[test]
fn attributes_may_have_all_the_length_that_linux_allows() {
    if !can_mount() {
        return;
    }
    let large = noise(9, 64 << 10);
    let mounted = Mounted::lazily(Image::new(vec![vec![file("large", "x").xattr("user.large", &large)]]));
    for root in mounted.lazy_roots() {
        assert!(value(&root.join("large"), "user.large").unwrap() == large);
    }
}

/// S16: Extended attributes have their values up to 64 KiB and their names up to 255 bytes, also after a copy into a
/// container's layer.
#[test]
fn attributes_have_the_values_they_were_packed_with() {
    if !can_mount() {
        return;
    }
    let many = (0..1000).fold(file("many", ""), |node, at| node.xattr(&format!("user.{at:04}"), b"x"));
    let mounted = Mounted::new(Image::new(vec![vec![
        dir("d").xattr("user.of-a-directory", b"d"),
        file("f", "x")
            .xattr("user.key", b"value\0\xff")
            .xattr("user.empty", b"")
            .xattr("security.other", b"s"),
        many,
        file("none", "x"),
        symlink("link", "f").xattr("security.of-a-link", b"l"),
        file(format!("long-{}", "n".repeat(250)), "x").xattr(&format!("user.{}", "n".repeat(250)), b"x"),
    ]]));
    for root in mounted.roots() {
        let file = root.join("f");
        assert_eq!(names(&file).unwrap(), ["security.other", "user.empty", "user.key"]);
        assert_eq!(value(&file, "user.key").unwrap(), b"value\0\xff");
        assert_eq!(value(&file, "user.empty").unwrap(), b"");
        assert_eq!(value(&file, "user.missing"), Err(Errno::NODATA));
        let mut small = [0; 3];
        assert_eq!(lgetxattr(&file, c"user.key", &mut small), Err(Errno::RANGE));
        assert_eq!(llistxattr(&file, &mut small), Err(Errno::RANGE));
        assert_eq!(names(&root.join("many")).unwrap().len(), 1000);
        assert_eq!(names(&root.join("none")).unwrap(), Vec::<String>::new());
        assert_eq!(value(&root.join("none"), "user.key"), Err(Errno::NODATA));
        assert_eq!(value(&root.join("link"), "security.of-a-link").unwrap(), b"l");
        assert_eq!(value(&root.join("d"), "user.of-a-directory").unwrap(), b"d");
        let long = root.join(format!("long-{}", "n".repeat(250)));
        assert_eq!(value(&long, &format!("user.{}", "n".repeat(250))).unwrap(), b"x");
    }
    // A copy in the container's own layer takes them along, the kernel asking first how long they are.
    let changed = mounted.merged().join("f");
    fs::write(&changed, "y").unwrap();
    assert_eq!(names(&changed).unwrap(), ["security.other", "user.empty", "user.key"]);
    assert_eq!(value(&changed, "user.key").unwrap(), b"value\0\xff");
}

#[test]
fn more_names_than_linux_lists_are_an_error_as_on_a_disk() {
    if !can_mount() {
        return;
    }
    let crowded = (0..400)
        .fold(file("f", ""), |node, at| node.xattr(&format!("user.{at:03}{}", "n".repeat(200)), b"x"));
    let mounted = Mounted::new(Image::new(vec![vec![crowded]]));
    let path = mounted.direct().join("f");
    assert_eq!(names(&path), Err(Errno::TOOBIG));
    assert_eq!(value(&path, &format!("user.399{}", "n".repeat(200))).unwrap(), b"x");
}

/// S17: An image in which no file has an extended attribute answers every question for one with EOPNOTSUPP.
#[test]
fn an_image_without_attributes_answers_that_it_has_none_to_give() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![file("f", "x")]]));
    for root in mounted.complete_roots() {
        assert_eq!(value(&root.join("f"), "user.key"), Err(Errno::NODATA));
    }
    for root in mounted.lazy_roots() {
        // The kernel asks once and remembers: a container's start is thousands of requests shorter for it.
        for _ in 0..2 {
            assert_eq!(value(&root.join("f"), "user.key"), Err(Errno::OPNOTSUPP));
        }
    }
    // A file of the container's own has what it is given.
    let path = mounted.merged().join("f");
    rustix::fs::setxattr(&path, c"user.key", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(value(&path, "user.key").unwrap(), b"v");
}

/// `user::rw-, user:65534:<bits>, group::r--, mask::rw-, other::---`, as setfacl(1) writes it.
pub fn acl(bits: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [(1, 6, NOBODY), (2, bits, 65_534), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(bits.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn with_acls() -> Image {
    let listed = |name: &str, bits| file(name, "x").mode(0o660).xattr("system.posix_acl_access", &acl(bits));
    Image::new(vec![vec![listed("granted", 6), listed("denied", 0), file("plain", "x").mode(0o660)]])
}

/// S19: Access lists (POSIX ACLs) are shown and enforced.
#[test]
fn access_lists_are_shown_and_enforced() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with(with_acls(), &MountOptions { posix_acl: true, ..MountOptions::default() });
    for root in mounted.roots() {
        let may = ["granted", "denied", "plain"].map(|name| can_read_as(65_534, &root.join(name)));
        assert_eq!(may, [true, false, false], "{}", root.display());
        assert_eq!(value(&root.join("granted"), "system.posix_acl_access").unwrap(), acl(6));
        assert_eq!(value(&root.join("plain"), "system.posix_acl_access"), Err(Errno::NODATA));
    }
}

#[test]
fn without_the_kernels_help_access_lists_are_only_shown() {
    if !can_mount() {
        return;
    }
    let features = KernelFeatures::ALL.without_posix_acl();
    let mounted =
        Mounted::with(with_acls(), &MountOptions { posix_acl: true, features, ..MountOptions::default() });
    let root = mounted.direct();
    assert!(!can_read_as(65_534, &root.join("granted")));
    assert_eq!(value(&root.join("granted"), "system.posix_acl_access").unwrap(), acl(6));
}
