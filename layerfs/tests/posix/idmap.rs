//! Mounts seen through a user namespace's mapping of users (Linux 6.12 and later).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jaunt_layerfs::fuse::{KernelFeatures, MountOptions};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::exec::can_read_as;
use crate::fixture::{Image, dir, file};
use crate::mounted::{Mounted, can_mount};

/// Root of the namespace on the host.
const BASE: u32 = 100_000;

/// A user namespace, kept by a process that sleeps in it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--user", "sleep", "600"]).stdout(Stdio::null()).spawn();
        let namespace = Self(child.unwrap());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while fs::read_link(namespace.proc("ns/user")).is_ok_and(|link| link == own) {
            assert!(Instant::now() < deadline, "unshare(1) does nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(namespace.proc(map), format!("0 {BASE} 65536")).unwrap();
        }
        namespace
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mount that goes again.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// mount_setattr(2)'s argument.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Mounts `from` on `to` as the namespace sees it.
fn bind_mapped(from: &Path, to: &Path, namespace: &Namespace) -> io::Result<Bound> {
    let users = File::open(namespace.proc("ns/user"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, from, flags)?;
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).unwrap(),
    };
    // SAFETY: the descriptors are open, the path is a C string, and the size is that of the argument.
    let done = unsafe {
        let (path, size) = (c"".as_ptr(), size_of::<MountAttr>());
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), path, libc::AT_EMPTY_PATH, &attr, size)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::create_dir_all(to)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, to, flags)?;
    Ok(Bound(to.to_owned()))
}

fn image() -> Image {
    Image::new(vec![vec![
        dir("d").mode(0o700),
        file("d/f", "mapped").mode(0o600),
        file("theirs", "x").mode(0o600).owner(33, 34),
    ]])
}

/// S22: Mounts can be id-mapped for user namespaces, from Linux 6.12 on.
#[test]
fn a_mount_can_be_seen_through_a_user_namespace() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    let namespace = Namespace::new();
    if !is_mapped(&mounted, &mounted.direct(), "lazy", &namespace) {
        return eprintln!("skipped: this kernel does not map users of FUSE mounts (Linux 6.12 does)");
    }
    // Where the kernel mounts EROFS from files, it maps their users as well.
    if let Some(complete) = mounted.complete_roots().first() {
        assert!(is_mapped(&mounted, complete, "complete", &namespace));
    }
}

/// Maps the users of a mount and looks at it, by itself and below overlayfs; not where the kernel refuses to map them.
fn is_mapped(mounted: &Mounted, from: &Path, name: &str, namespace: &Namespace) -> bool {
    let path = |what: &str| mounted.path(&format!("{what}-{name}"));
    let mapped = path("mapped");
    let bound = match bind_mapped(from, &mapped, namespace) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return false,
        bound => bound.unwrap(),
    };
    let owner = |root: &Path, name: &str| {
        let found = fs::metadata(root.join(name)).unwrap();
        (found.uid(), found.gid())
    };
    let (overlay, empty) = (path("overlay"), path("empty"));
    fs::create_dir(&overlay).unwrap();
    fs::create_dir(&empty).unwrap();
    let options = CString::new(format!("lowerdir={}:{}", mapped.display(), empty.display())).unwrap();
    let options = options.as_c_str();
    rustix::mount::mount("overlay", &overlay, "overlay", MountFlags::RDONLY, options).unwrap();
    let stacked = Bound(overlay);
    for root in [&mapped, &stacked.0] {
        assert_eq!(owner(root, "d/f"), (BASE, BASE));
        assert_eq!(owner(root, "theirs"), (BASE + 33, BASE + 34));
        assert_eq!(fs::read(root.join("d/f")).unwrap(), b"mapped");
        // The namespace's root owns what the image's root owns, and nobody else may look at it.
        let may = [BASE, BASE + 1, 65_534].map(|user| can_read_as(user, &root.join("d/f")));
        assert_eq!(may, [true, false, false]);
        assert!(can_read_as(BASE + 33, &root.join("theirs")));
    }
    assert_eq!(owner(from, "d/f"), (0, 0));
    drop((stacked, bound));
    true
}

#[test]
fn an_older_kernel_refuses_to_map_users() {
    if !can_mount() {
        return;
    }
    let features = KernelFeatures::ALL.without_id_mapping();
    let mounted = Mounted::with(image(), &MountOptions { features, ..MountOptions::default() });
    let refused = bind_mapped(&mounted.direct(), &mounted.path("mapped"), &Namespace::new());
    assert_eq!(refused.err().and_then(|error| error.raw_os_error()), Some(libc::EINVAL));
    assert_eq!(fs::read(mounted.merged().join("d/f")).unwrap(), b"mapped");
}
