//! A file system whose requests are noted while it answers them ([`super::in_flight`]).
//!
//! What it answers later than it returns, it notes by itself.

use std::ffi::OsStr;

use fuser::{
    FileHandle, Filesystem, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::in_flight::{InFlight, Taken};

/// Passes everything on that a read-only file system is asked. Without a table, nothing is noted.
pub(super) struct Noting<F> {
    pub fs: F,
    pub table: Option<InFlight>,
}

impl<F> Noting<F> {
    fn take(&self, request: &Request) -> Option<Taken> {
        Some(self.table.as_ref()?.take(request.unique().0))
    }
}

impl<F: Filesystem> Filesystem for Noting<F> {
    fn init(&mut self, request: &Request, config: &mut fuser::KernelConfig) -> std::io::Result<()> {
        self.fs.init(request, config)
    }

    fn destroy(&mut self) {
        self.fs.destroy();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _taken = self.take(request);
        self.fs.lookup(request, parent, name, reply);
    }

    fn forget(&self, request: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(request, ino, count);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let _taken = self.take(request);
        self.fs.getattr(request, ino, handle, reply);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let _taken = self.take(request);
        self.fs.readlink(request, ino, reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _taken = self.take(request);
        self.fs.open(request, ino, flags, reply);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _taken = self.take(request);
        self.fs.read(request, ino, handle, offset, size, flags, owner, reply);
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _taken = self.take(request);
        self.fs.flush(request, ino, handle, owner, reply);
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        flush: bool,
        reply: ReplyEmpty,
    ) {
        let _taken = self.take(request);
        self.fs.release(request, ino, handle, flags, owner, flush, reply);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _taken = self.take(request);
        self.fs.opendir(request, ino, flags, reply);
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let _taken = self.take(request);
        self.fs.readdir(request, ino, handle, offset, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let _taken = self.take(request);
        self.fs.readdirplus(request, ino, handle, offset, reply);
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let _taken = self.take(request);
        self.fs.statfs(request, ino, reply);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _taken = self.take(request);
        self.fs.getxattr(request, ino, name, size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _taken = self.take(request);
        self.fs.listxattr(request, ino, size, reply);
    }
}
