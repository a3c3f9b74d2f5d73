//! A file system that fails: for a mount whose snapshot is gone while somebody still uses it.
//!
//! Unanswered, its readers would hang for ever.

use std::ffi::OsStr;

use fuser::{
    Errno, FileHandle, Filesystem, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEntry, Request,
};

/// Answers EIO.
pub struct Orphan;

impl Filesystem for Orphan {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EIO);
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.error(Errno::EIO);
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(Errno::EIO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.error(Errno::EIO);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, reply: ReplyDirectory) {
        reply.error(Errno::EIO);
    }

    fn readdirplus(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, reply: ReplyDirectoryPlus) {
        reply.error(Errno::EIO);
    }
}
