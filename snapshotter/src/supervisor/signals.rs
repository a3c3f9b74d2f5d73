//! Signals as readable descriptors, for an event loop that sleeps in poll(2).

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGUSR1};

/// A set of signals, each of which makes the descriptor readable.
#[derive(Debug)]
pub(super) struct SignalPipe {
    reader: UnixStream,
    registered: Vec<SigId>,
}

impl SignalPipe {
    /// SIGTERM and SIGINT.
    pub(super) fn stop() -> io::Result<Self> {
        Self::new(&[SIGTERM, SIGINT])
    }

    /// SIGUSR1.
    pub(super) fn hand_over() -> io::Result<Self> {
        Self::new(&[SIGUSR1])
    }

    /// SIGCHLD.
    pub(super) fn child() -> io::Result<Self> {
        Self::new(&[SIGCHLD])
    }

    fn new(signals: &[i32]) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        let mut pipe = Self { reader, registered: Vec::new() };
        for signal in signals {
            let writer = writer.try_clone()?;
            pipe.registered.push(signal_hook::low_level::pipe::register(*signal, writer)?);
        }
        Ok(pipe)
    }

    /// How many came since the last call.
    pub(super) fn drain(&mut self) -> usize {
        let mut count = 0;
        let mut bytes = [0; 64];
        loop {
            match self.reader.read(&mut bytes) {
                Ok(0) => return count,
                Ok(len) => count += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more, or nothing at all ever again; the pipe's other end is in this process.
                Err(_) => return count,
            }
        }
    }
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for SignalPipe {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
