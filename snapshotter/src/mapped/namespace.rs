//! User namespaces that nobody is in: for the maps that they have.
//!
//! A namespace comes into being with a process in it, has its maps written from outside, and lives on without the process, for as
//! long as somebody has a descriptor or a mount of it. A process of several threads cannot enter one, so a child does.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::IdMaps;

/// A user namespace with these maps.
pub(super) fn user_namespace(maps: &IdMaps) -> io::Result<OwnedFd> {
    let (uids, gids) = (lines(&maps.uids)?, lines(&maps.gids)?);
    let child = Child::start()?;
    child.write("uid_map", &uids)?;
    child.write("gid_map", &gids)?;
    Ok(File::open(child.file("ns/user"))?.into())
}

/// As the kernel reads them: one range a line.
fn lines(maps: &str) -> io::Result<String> {
    let line = |range: &str| {
        let numbers: Vec<u32> = range.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [inside, outside, count] = numbers[..] else { return None };
        Some(format!("{inside} {outside} {count}\n"))
    };
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, format!("{maps:?} maps no ids"));
    maps.split(',').map(line).collect::<Option<String>>().ok_or_else(refused)
}

/// A process in a namespace of its own, until this is dropped.
struct Child {
    pid: Pid,
    /// It ends when this is closed, also by the death of this process.
    end: Option<OwnedFd>,
}

impl Child {
    fn start() -> io::Result<Self> {
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        let (wait, end) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the child makes system calls alone, and never returns from here.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            live([tell.as_raw_fd(), wait.as_raw_fd(), end.as_raw_fd()]);
        }
        let failed = io::Error::last_os_error();
        let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(failed)?;
        let child = Self { pid, end: Some(end) };
        drop(tell);
        let mut error = [0; 4];
        File::from(told).read_exact(&mut error)?;
        match i32::from_ne_bytes(error) {
            0 => Ok(child),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid.as_raw_nonzero())
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.file(name))?.write_all(text.as_bytes())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end = None;
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()));
    }
}

/// The child's life: it enters a namespace, says what came of it, and waits for the end of its parent's end.
fn live([tell, wait, end]: [RawFd; 3]) -> ! {
    // SAFETY: system calls on descriptors that are open and on memory of its own stack.
    unsafe {
        libc::close(end);
        let error: i32 = if libc::unshare(libc::CLONE_NEWUSER) == 0 { 0 } else { *libc::__errno_location() };
        libc::write(tell, (&raw const error).cast(), size_of::<i32>());
        let mut byte = 0_u8;
        libc::read(wait, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}
