//! Making, sparing and ending FUSE mounts.
//!
//! [`mount`] returns a descriptor whose handshake with the kernel is done and which nobody serves yet.
//! The mount lives as long as some process holds that descriptor.
//!
//! Invariant: nothing here sends a request to the file system that is mounted (no plain `stat`, no
//! `statfs`), because there may be nobody to answer it, and the caller would block for ever.
//!
//! An ended mount is not yet an unused one: overlayfs keeps a file system in use after its mount point
//! is gone, and [`unmount`] succeeds then. [`is_connected`] tells when it is really over.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::init::{InitError, InitRequest, KernelFeatures, Negotiated, negotiate};
use super::read_ahead::{READ_AHEAD_KIB, ReadAhead};

/// The type that the mount table shows; the part after the dot is free.
pub const FS_TYPE: &str = "fuse.jaunt";

/// The kernel sends FUSE_INIT from within mount(2), so this only bounds the time of a broken kernel.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel refuses reads from the device into less (FUSE_MIN_READ_BUFFER).
const READ_BUFFER: usize = 8192;

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What the mount table names as the source.
    pub fsname: String,
    /// Read-ahead of the kernel in KiB.
    pub read_ahead_kib: u32,
    /// The kernel features that may be used.
    pub features: KernelFeatures,
    /// Whether access lists are enforced. Costs a request for each file whose permissions are checked.
    pub posix_acl: bool,
    /// Whether files may be handed to the kernel (Linux 6.9). Costs two requests for each file that is opened.
    pub passthrough: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            fsname: "jaunt".to_owned(),
            read_ahead_kib: READ_AHEAD_KIB,
            features: KernelFeatures::ALL,
            posix_acl: false,
            passthrough: false,
        }
    }
}

/// A new mount, initialised and unserved.
#[derive(Debug)]
pub struct Mounted {
    /// The descriptor of `/dev/fuse` by which it is served, and which keeps it alive.
    pub device: OwnedFd,
    /// What was agreed with the kernel.
    pub negotiated: Negotiated,
    /// The device number that `stat` shows for files in it.
    pub device_number: DeviceNumber,
}

/// Number of the anonymous device behind a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Major number, 0 for FUSE.
    pub major: u32,
    /// Minor number; also the name of the connection below `/sys/fs/fuse/connections`.
    pub minor: u32,
}

/// Mounts a read-only FUSE file system over the directory `point` and does the handshake.
///
/// Set-user-ID programs and device nodes work in it, as they must in a root file system; permissions are
/// checked by the kernel.
pub fn mount(point: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(MountError::Device)?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let data = CString::new(data).map_err(|_| MountError::Name(options.fsname.clone()))?;
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    rustix::mount::mount(options.fsname.as_str(), point, FS_TYPE, flags, data.as_c_str())
        .map_err(|errno| MountError::Mount { point: point.to_owned(), errno })?;
    let armed = DetachOnDrop::new(point);
    let mounted = initialise(point, device, options)?;
    armed.disarm();
    Ok(mounted)
}

/// Unmounts `point` unless a process has something below it open, in use as its working directory, or
/// mounted: that is [`UnmountError::Busy`].
pub fn unmount(point: &Path) -> Result<(), UnmountError> {
    umount(point, UnmountFlags::NOFOLLOW)
}

/// Takes the mount away from `point` at once; whoever has files of it open keeps them.
pub fn detach(point: &Path) -> Result<(), UnmountError> {
    umount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// Ends the connection behind `point`: whatever waits on it, and all that comes later, fails.
/// For tests and last resorts; needs the mount point, but neither a server nor sysfs.
pub fn abort(point: &Path) -> Result<(), UnmountError> {
    umount(point, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH)
}

/// Whether the file system behind `device` is still in use, by its mount or by anything stacked on it.
pub fn is_connected(device: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&device, PollFlags::empty())];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(0) => true,
        Ok(_) => !polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
        // Doubt must not close a descriptor that keeps containers alive.
        Err(_) => true,
    }
}

fn initialise(point: &Path, device: OwnedFd, options: &MountOptions) -> Result<Mounted, MountError> {
    let mut file = File::from(device);
    let handshake = |source| MountError::Handshake { point: point.to_owned(), source };
    await_readable(&file).map_err(handshake)?;
    let mut buffer = [0; READ_BUFFER];
    let len = file.read(&mut buffer).map_err(handshake)?;
    let offer = InitRequest::parse(&buffer[..len])
        .map_err(|source| MountError::Init { point: point.to_owned(), source })?;
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    let acl = if options.posix_acl { options.features } else { options.features.without_posix_acl() };
    let features = if options.passthrough { acl } else { acl.without_passthrough() };
    let negotiated = negotiate(&offer, features, page);
    // One write is one message; the device takes all of it or none.
    let _ = file.write(&negotiated.reply(offer.unique)).map_err(handshake)?;
    let device_number = device_number(point)?;
    set_read_ahead(device_number, options.read_ahead_kib);
    Ok(Mounted { device: file.into(), negotiated, device_number })
}

fn await_readable(device: &File) -> io::Result<()> {
    let timeout = Timespec::try_from(HANDSHAKE_TIMEOUT).map_err(io::Error::other)?;
    let ready =
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&timeout)))?;
    if ready == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}

/// With nothing asked for and synchronisation waived, the kernel answers without the file system.
pub(super) fn device_number(point: &Path) -> Result<DeviceNumber, MountError> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, point, flags, StatxFlags::empty())
        .map_err(|errno| MountError::Lost { point: point.to_owned(), errno })?;
    Ok(DeviceNumber { major: found.stx_dev_major, minor: found.stx_dev_minor })
}

/// The handshake can only lower the kernel's read-ahead; sysfs raises it. Where sysfs is read-only (some
/// containers), reads are slower and nothing else is wrong.
fn set_read_ahead(number: DeviceNumber, kib: u32) {
    if let Err(error) = ReadAhead::of(number).and_then(|read_ahead| read_ahead.set(kib)) {
        let DeviceNumber { major, minor } = number;
        tracing::warn!(device = %format_args!("{major}:{minor}"), kib, %error, "cannot raise the read-ahead of a mount");
    }
}

fn umount(point: &Path, flags: UnmountFlags) -> Result<(), UnmountError> {
    rustix::mount::unmount(point, flags).map_err(|errno| {
        let point = point.to_owned();
        match errno {
            Errno::BUSY => UnmountError::Busy(point),
            Errno::INVAL | Errno::NOENT => UnmountError::NotMounted(point),
            errno => UnmountError::Failed { point, errno },
        }
    })
}

/// Takes a mount back that will have nobody to serve it, unless it is disarmed before.
pub struct DetachOnDrop<'a>(Option<&'a Path>);

impl<'a> DetachOnDrop<'a> {
    /// Guards the mount at `point`.
    pub fn new(point: &'a Path) -> Self {
        Self(Some(point))
    }

    /// The mount stays.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for DetachOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(point) = self.0 {
            // The error that made us come here is the one to report.
            let _ = detach(point);
        }
    }
}

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// FUSE is missing from this machine, or may not be used.
    #[error("cannot open /dev/fuse: {0} (is the fuse module loaded?)")]
    Device(#[source] Errno),
    /// A name that mount(2) cannot take.
    #[error("not a name for a mount's source: {0:?}")]
    Name(String),
    /// mount(2) refused.
    #[error("cannot mount FUSE on {}: {errno}", point.display())]
    Mount {
        /// The mount point.
        point: PathBuf,
        /// mount(2)'s reason.
        #[source]
        errno: Errno,
    },
    /// The device failed during the handshake.
    #[error("FUSE handshake for {} failed: {source}", point.display())]
    Handshake {
        /// The mount point.
        point: PathBuf,
        /// What reading or writing the device said.
        source: io::Error,
    },
    /// The kernel's side of the handshake is not to be understood.
    #[error("FUSE handshake for {} failed: {source}", point.display())]
    Init {
        /// The mount point.
        point: PathBuf,
        /// What is wrong with it.
        source: InitError,
    },
    /// The mount went away at once.
    #[error("cannot look at the new mount {}: {errno}", point.display())]
    Lost {
        /// The mount point.
        point: PathBuf,
        /// statx(2)'s reason.
        #[source]
        errno: Errno,
    },
}

/// A mount that is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Somebody works in it.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
    /// There is no mount.
    #[error("nothing is mounted on {}", .0.display())]
    NotMounted(PathBuf),
    /// umount(2) refused for another reason.
    #[error("cannot unmount {}: {errno}", point.display())]
    Failed {
        /// The mount point.
        point: PathBuf,
        /// umount(2)'s reason.
        #[source]
        errno: Errno,
    },
}
