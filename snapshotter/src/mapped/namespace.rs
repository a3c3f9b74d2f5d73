//! User namespaces that nobody is in: for the maps that they have.
//!
//! A namespace comes into being with a process in it, has its maps written from outside, and lives on without the process, for as
//! long as somebody has a descriptor or a mount of it. A process of several threads cannot enter one, so a child does: a copy of
//! this process that makes system calls alone, runs no signal handler, and has closed every descriptor but the one that it
//! waits on. (A copy of the device of a mount, or of another child's pipe, would keep that from ending.)
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::IdMaps;

/// clone3(2)'s flag for a child without signal handlers, which libc's type of it has no room for.
const CLEAR_SIGHAND: u64 = 1 << 32;

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
    /// It ends when this is closed, which the death of this process does as well.
    _end: OwnedFd,
}

impl Child {
    fn start() -> io::Result<Self> {
        let (wait, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let wait_number = wait.as_raw_fd();
        // SAFETY: numbers and pointers; all may be zero.
        let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
        how.flags = CLEAR_SIGHAND | u64::from(libc::CLONE_NEWUSER.unsigned_abs());
        how.exit_signal = libc::SIGCHLD.unsigned_abs().into();
        // SAFETY: the child has a copy of this memory and its own stack, as by fork(2), and never returns from `live`.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of::<libc::clone_args>()) };
        if pid == 0 {
            live(wait_number);
        }
        let failed = io::Error::last_os_error();
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(failed)?;
        Ok(Self { pid, _end: end })
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
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()));
    }
}

/// The child's life: it waits for the end of its parent's end. Only what is safe in a signal handler may be called here.
fn live(wait: RawFd) -> ! {
    let number = libc::c_long::from(wait);
    let last = libc::c_long::from(u32::MAX);
    // SAFETY: system calls on numbers of descriptors that this process alone has, and on memory of its own stack.
    unsafe {
        let below =
            if wait == 0 { 0 } else { libc::syscall(libc::SYS_close_range, 0_i64, number - 1, 0_i64) };
        let above = libc::syscall(libc::SYS_close_range, number + 1, last, 0_i64);
        if below == 0 && above == 0 {
            let mut byte = 0_u8;
            libc::read(wait, (&raw mut byte).cast(), 1);
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;

    use rustix::io::fcntl_dupfd_cloexec;

    use super::*;

    #[test]
    fn the_child_keeps_no_descriptors_and_no_signal_handlers() {
        let (mut told, tell) =
            pipe_with(PipeFlags::CLOEXEC).map(|(one, two)| (File::from(one), two)).unwrap();
        let far = fcntl_dupfd_cloexec(&tell, 300).unwrap();
        let child = match Child::start() {
            Err(error) => return println!("skipped: {}: {error}", module_path!()),
            Ok(child) => child,
        };
        drop((tell, far));
        assert_eq!(told.read(&mut [0]).unwrap(), 0, "it ends when the child has closed all copies");
        let caught = |status: &str| {
            let status = fs::read_to_string(status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap()
        };
        assert_ne!(caught("/proc/self/status"), 0, "the standard library catches overflows of the stack");
        assert_eq!(caught(&child.file("status")), 0);
        assert_eq!(fs::read_dir(child.file("fd")).unwrap().count(), 1);
    }

    #[test]
    fn children_end_in_any_order() {
        let start = || match Child::start() {
            Err(error) => {
                println!("skipped: {}: {error}", module_path!());
                None
            }
            Ok(child) => Some(child),
        };
        let (Some(first), Some(second)) = (start(), start()) else { return };
        let place = first.file("ns/user");
        drop(first);
        assert!(!fs::exists(place).unwrap());
        assert!(fs::exists(second.file("ns/user")).unwrap());
    }
}
