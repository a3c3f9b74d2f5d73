//! The process that stores a boot pack's pages in the kernel, one a mount and for as long as that takes: the hidden command `push`.
//!
//! Its standard input brings the pages, and in the place of its standard output it has the mount's connection. It ends with its input, so
//! also with the worker that started it.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use jaunt_layerfs::fuse::{Breaker, PageSink};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Bytes that the pipe takes: those of one record.
const PIPE: usize = 1 << 20;

/// A running one.
pub(super) struct Pusher {
    child: Child,
    /// Names the process, also when it has ended.
    handle: Arc<OwnedFd>,
}

impl Pusher {
    /// Starts one for the mount with this connection, whose chain's root directory is `root`.
    pub fn start(root: &Path, device: OwnedFd) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("push").arg(root).stdin(Stdio::piped()).stdout(device);
        let mut child = command.spawn()?;
        if let Some(pipe) = &child.stdin {
            // As it is, it takes a sixteenth of that before each side waits for the other.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
        }
        let handle = pid(&child).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match handle {
            Ok(handle) => Ok(Self { child, handle: Arc::new(handle) }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

fn pid(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("a process without a number"))
}

impl Write for Pusher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PageSink for Pusher {
    fn close(&mut self) {
        self.child.stdin.take();
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn breaker(&self) -> Breaker {
        let handle = self.handle.clone();
        Box::new(move || {
            let _ = pidfd_send_signal(&*handle, Signal::KILL);
        })
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.child.stdin.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
