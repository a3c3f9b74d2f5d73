//! A file system whose reads can be made to wait, and whose bytes tell where they come from.
//!
//! `/data` and `/gated` hold [`content`]; a read of `/gated` is answered once the gate file exists.
//! `/pid` holds the number of the process that answers. Nothing is cached, so each read is a request.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jaunt_layerfs::fuse::InFlight;
use jaunt_layerfs::fuse::fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, Request,
};

/// Length of `/data` and of `/gated`.
pub const FILE_LEN: u64 = 8 << 20;

const TTL: Duration = Duration::from_secs(3600);
const DATA: INodeNo = INodeNo(2);
const GATED: INodeNo = INodeNo(3);
const PID: INodeNo = INodeNo(4);
const FILES: [(INodeNo, &str); 3] = [(DATA, "data"), (GATED, "gated"), (PID, "pid")];

/// The bytes at `offset`: each aligned group of eight is a hash of its own position.
pub fn content(offset: u64, len: usize) -> Vec<u8> {
    let word = |i: u64| (i / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[(i % 8) as usize];
    let end = FILE_LEN.min(offset + len as u64);
    (offset.min(end)..end).map(word).collect()
}

/// The file system.
pub struct GatedFs {
    /// Reads of `/gated` wait for this file.
    pub gate: PathBuf,
    /// Where reads that wait are noted.
    pub in_flight: Option<InFlight>,
}

impl Filesystem for GatedFs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match FILES.iter().find(|(_, n)| name == *n) {
            Some((ino, _)) => reply.entry(&TTL, &attr(*ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino == PID {
            let pid = if offset == 0 { std::process::id().to_string() } else { String::new() };
            return reply.data(pid.as_bytes());
        }
        if ino == DATA {
            return reply.data(&content(offset, size as usize));
        }
        let gate = self.gate.clone();
        let taken = self.in_flight.as_ref().map(|table| table.take(request.unique().0));
        std::thread::spawn(move || {
            let _taken = taken;
            while !gate.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            reply.data(&content(offset, size as usize));
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (next, (ino, name)) in (1..).zip(FILES).skip(offset as usize) {
            if reply.add(ino, next, name, &TTL, &attr(ino), Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

fn attr(ino: INodeNo) -> FileAttr {
    let directory = ino == INodeNo::ROOT;
    FileAttr {
        ino,
        size: FILE_LEN,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: if directory { FileType::Directory } else { FileType::RegularFile },
        perm: if directory { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
