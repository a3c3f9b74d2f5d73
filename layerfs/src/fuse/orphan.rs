//! A file system that fails: for a mount that is in use and cannot be served, because its snapshot is gone or its
//! index is damaged.
//!
//! Unanswered, its readers would hang for ever. Nothing is answered ENOSYS that a later worker may answer: the
//! kernel remembers that for the life of the connection, and file capabilities would be gone for good.

use std::ffi::OsStr;

use fuser::{
    Errno, FileHandle, Filesystem, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEntry, ReplyXattr, Request,
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

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EIO);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EIO);
    }
}
