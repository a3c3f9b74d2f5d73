//! FUSE as an adapter: decode, one call into [`LayerFs`], reply. No decision about content is made here.
//!
//! The tree never changes, so everything that can be cached is, without end: entries, attributes, the absence of
//! a name, pages, directories. Requests that would carry no news are answered ENOSYS once and never come
//! again: OPEN and OPENDIR (there is no state to open), FLUSH, and, where the chain has none, extended
//! attributes. A read that misses is handed to the runtime: it never holds a FUSE thread.
//!
//! A mount over a chain that was complete from its beginning may answer OPEN instead: large files are then read by the
//! kernel itself ([`super::backing`]), the others as before.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request,
};
use jaunt_formats::launch::{Attributes, InodeType};
use jaunt_formats::{Timestamp, Xattr};
use rustix::fs::OFlags;
use tokio::runtime::Handle;

use super::backing::BackingIds;
use super::in_flight::InFlight;
use super::init::{InitError, Negotiated};
use super::numbers::Told;
use super::reading::answer;
use super::told::logged;
use crate::fs::{CompleteChain, FsError, Ino, LayerFs};

/// How long the kernel may keep what it was told: the tree is immutable, so a hundred years.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Inode numbers are never reused within a mount.
const GENERATION: Generation = Generation(0);
/// What Linux file systems report for a directory of ordinary size.
const DIRECTORY_SIZE: u64 = 4096;
const BLOCK_SIZE: u32 = 4096;
/// Files have no state while they are open.
const NO_HANDLE: FileHandle = FileHandle(0);

/// Serves a [`LayerFs`] to the kernel.
pub struct Adapter {
    fs: Arc<LayerFs>,
    numbers: Told,
    runtime: Handle,
    passthrough: Option<Passthrough>,
    /// Where reads are noted that wait for something to be fetched.
    in_flight: Option<InFlight>,
}

/// What OPEN is answered from.
struct Passthrough {
    /// Not there any more where the chain was found damaged since the mount was made.
    chain: Option<CompleteChain>,
    ids: BackingIds,
}

impl Adapter {
    /// An adapter for a new mount that fetches on `runtime`.
    pub fn new(fs: Arc<LayerFs>, runtime: Handle) -> Self {
        Self { numbers: Told::new(&fs), fs, runtime, passthrough: None, in_flight: None }
    }

    /// One for a mount that another process may have served, of this version or another.
    ///
    /// # Errors
    /// The kernel knows its inodes by numbers that this version does not.
    pub fn resuming(fs: Arc<LayerFs>, runtime: Handle, negotiated: &Negotiated) -> Result<Self, InitError> {
        let numbers = Told::on(&fs, negotiated.numbering)?;
        Ok(Self { numbers, fs, runtime, passthrough: None, in_flight: None })
    }

    /// The same for a mount with passthrough ([`Negotiated::has_passthrough`]), over
    /// the complete chain.
    #[must_use]
    pub fn with_passthrough(self, chain: Option<CompleteChain>, ids: BackingIds) -> Self {
        Self { passthrough: Some(Passthrough { chain, ids }), ..self }
    }

    /// The same, with reads that wait noted in a table: see [`super::serve_noting`].
    #[must_use]
    pub fn noting(self, in_flight: Option<InFlight>) -> Self {
        Self { in_flight, ..self }
    }

    /// Registers the inode's file with the kernel, if it has one.
    fn register(&self, chain: Option<&CompleteChain>, ino: Ino, reply: &ReplyOpen) -> Option<u32> {
        let file = match self.fs.backing(chain?, ino) {
            Ok(file) => file?,
            Err(error) => {
                let _ = logged(&self.fs, ino, "open", &error);
                return None;
            }
        };
        match reply.open_backing(&file) {
            Ok(id) => Some(id.into_raw()),
            // A file system that cannot be stacked upon, or too many files: read through us, it is the same bytes.
            Err(error) => {
                tracing::debug!(image = self.fs.name(), inode = ino.0, %error, "the kernel does not take a file");
                None
            }
        }
    }

    fn attr(&self, ino: Ino) -> Result<FileAttr, FsError> {
        Ok(file_attr(self.numbers.number(ino), &self.fs.attributes(ino)?))
    }

    fn xattr_named(&self, ino: Ino, name: &OsStr) -> Result<Option<Xattr>, FsError> {
        let xattrs = self.fs.xattrs(ino)?;
        Ok(xattrs.into_iter().find(|xattr| *xattr.name == *name.as_bytes()))
    }
}

impl Filesystem for Adapter {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = self.numbers.ino(parent);
        let found = self.fs.lookup(parent, name.as_bytes());
        match found.and_then(|ino| ino.map(|ino| self.attr(ino)).transpose()) {
            Ok(Some(attr)) => reply.entry(&FOREVER, &attr, GENERATION),
            // Inode 0 with a time to live: the kernel remembers that there is no such name.
            Ok(None) => reply.entry(&FOREVER, &no_such_file(), GENERATION),
            Err(error) => reply.error(logged(&self.fs, parent, "lookup", &error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ino = self.numbers.ino(ino);
        match self.attr(ino) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(error) => reply.error(logged(&self.fs, ino, "getattr", &error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let ino = self.numbers.ino(ino);
        match self.fs.symlink_target(ino) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(logged(&self.fs, ino, "readlink", &error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let Some(passthrough) = &self.passthrough else { return reply.error(Errno::ENOSYS) };
        let ino = self.numbers.ino(ino);
        let register = || self.register(passthrough.chain.as_ref(), ino, &reply);
        match passthrough.ids.of(ino, register) {
            // The kernel refuses KEEP_CACHE beside a backing file: there is nothing of ours to keep.
            Ok(Some(id)) => reply_backed(reply, id),
            Ok(None) => reply.opened(NO_HANDLE, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            Err(error) => reply.error(logged(&self.fs, ino, "open", &FsError::Backing(error))),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let ino = self.numbers.ino(ino);
        // As the file was opened: of an OPEN that nobody answers, nobody hears.
        if flags.0.cast_unsigned() & OFlags::DIRECT.bits() != 0 {
            self.fs.note_direct_read();
        }
        match self.fs.read_local(ino, offset, size).transpose() {
            Some(read) => answer(&self.fs, &self.runtime, (ino, offset), read, reply),
            None => {
                let (fs, runtime) = (self.fs.clone(), self.runtime.clone());
                let taken = self.in_flight.as_ref().map(|table| table.take(request.unique().0));
                self.runtime.spawn(async move {
                    // Until it is answered.
                    let _taken = taken;
                    let read = fs.read(ino, offset, size).await;
                    answer(&fs, &runtime, (ino, offset), read, reply);
                });
            }
        }
        if let Some(ahead) = self.fs.ahead(ino, offset, size) {
            self.runtime.spawn(ahead);
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let ino = self.numbers.ino(ino);
        let entries = match self.fs.entries(ino, offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(logged(&self.fs, ino, "readdir", &error)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return reply.error(logged(&self.fs, ino, "readdir", &error)),
            };
            let (number, name) = (self.numbers.number(entry.ino), OsStr::from_bytes(entry.name));
            if reply.add(number, entry.next, file_type(entry.kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ino = self.numbers.ino(ino);
        let entries = match self.fs.entries(ino, offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(logged(&self.fs, ino, "readdir", &error)),
        };
        for entry in entries {
            let (entry, attr) = match entry.and_then(|entry| Ok((entry, self.attr(entry.ino)?))) {
                Ok(both) => both,
                Err(error) => return reply.error(logged(&self.fs, ino, "readdir", &error)),
            };
            if reply.add(attr.ino, entry.next, OsStr::from_bytes(entry.name), &FOREVER, &attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let ino = self.numbers.ino(ino);
        if !self.fs.answers_xattrs() {
            return reply.error(Errno::ENOSYS);
        }
        match self.xattr_named(ino, name) {
            Ok(Some(xattr)) => reply_xattr(reply, &xattr.value, size),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(logged(&self.fs, ino, "getxattr", &error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = self.numbers.ino(ino);
        if !self.fs.answers_xattrs() {
            return reply.error(Errno::ENOSYS);
        }
        match self.fs.xattrs(ino) {
            Ok(xattrs) => {
                let names: Vec<u8> =
                    xattrs.iter().flat_map(|xattr| [&xattr.name[..], b"\0"].concat()).collect();
                reply_xattr(reply, &names, size);
            }
            Err(error) => reply.error(logged(&self.fs, ino, "listxattr", &error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // What limits the content is the disk it is kept on.
        match rustix::fs::statvfs(self.fs.store_path()) {
            Ok(disk) => {
                let block = u32::try_from(disk.f_frsize).unwrap_or(BLOCK_SIZE);
                let name_max = u32::try_from(disk.f_namemax).unwrap_or(255);
                let (blocks, free, available) = (disk.f_blocks, disk.f_bfree, disk.f_bavail);
                reply.statfs(blocks, free, available, disk.f_files, disk.f_ffree, block, name_max, block);
            }
            Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
        }
    }
}

/// Opens a file that the kernel reads by itself.
#[allow(unsafe_code)]
fn reply_backed(reply: ReplyOpen, id: u32) {
    // SAFETY: the number was registered on this connection, by this process or by one before it, and no number is ever
    // closed before the connection ends: `into_raw` gives up the right to do so.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(NO_HANDLE, FopenFlags::FOPEN_NOFLUSH, &backing);
    let _ = backing.into_raw();
}

fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn no_such_file() -> FileAttr {
    let nothing = Attributes {
        kind: InodeType::Regular,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp::default(),
        nlink: 0,
    };
    file_attr(INodeNo(0), &nothing)
}

fn file_attr(ino: INodeNo, attributes: &Attributes) -> FileAttr {
    let time = system_time(attributes.mtime);
    let size = if attributes.kind == InodeType::Directory { DIRECTORY_SIZE } else { attributes.size };
    let rdev = match attributes.kind {
        InodeType::CharDevice { major, minor } | InodeType::BlockDevice { major, minor } => {
            encode_device(major, minor)
        }
        _ => 0,
    };
    FileAttr {
        ino,
        size,
        blocks: blocks(attributes.kind, size),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        // At most 0o7777, by the promise of `Attributes`.
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or_default(),
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Blocks of 512 bytes, as on the usual disk: whole blocks of its own, holes written out, and a short link's target
/// in its inode.
fn blocks(kind: InodeType, size: u64) -> u64 {
    const SHORT_TARGET: u64 = 60;
    match kind {
        InodeType::Symlink if size < SHORT_TARGET => 0,
        _ => size.div_ceil(BLOCK_SIZE.into()).saturating_mul(u64::from(BLOCK_SIZE) / 512),
    }
}

fn file_type(kind: InodeType) -> FileType {
    match kind {
        InodeType::Directory => FileType::Directory,
        InodeType::Regular => FileType::RegularFile,
        InodeType::Symlink => FileType::Symlink,
        InodeType::CharDevice { .. } => FileType::CharDevice,
        InodeType::BlockDevice { .. } => FileType::BlockDevice,
        InodeType::Fifo => FileType::NamedPipe,
    }
}

/// Linux's 32-bit device number: 12 bits of major between 8 low and 12 high bits of minor.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let seconds = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let exact =
        seconds.and_then(|seconds| seconds.checked_add(Duration::from_nanos(time.nanoseconds.into())));
    exact.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_times_are_as_linux_encodes_them() {
        assert_eq!(encode_device(8, 1), 0x801);
        assert_eq!(encode_device(0x123, 0x45678), 0x4561_2378);
        let time = Timestamp { seconds: 1, nanoseconds: 5 };
        assert_eq!(system_time(time), SystemTime::UNIX_EPOCH + Duration::new(1, 5));
        let before = Timestamp { seconds: -1, nanoseconds: 500_000_000 };
        assert_eq!(system_time(before), SystemTime::UNIX_EPOCH - Duration::from_millis(500));
    }
}
