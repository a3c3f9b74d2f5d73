//! The service manager, as far as there is one (systemd): what it is told, and what it keeps for the next supervisor.
//!
//! sd_notify(3) and sd_listen_fds(3): datagrams to the socket in `NOTIFY_SOCKET`; descriptors that were kept arrive from
//! number 3 on, named by `LISTEN_FDNAMES`. A descriptor is kept when the datagram has been sent: the manager reads it, whether
//! its sender lives by then or not.
//!
//! Invariant: a manager that is missing, deaf or slow stops nothing. What it does not take is told in the log.

mod inherited;

use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

pub(super) use inherited::{Inherited, inherited};

/// What of the environment is the supervisor's alone.
pub(super) const VARIABLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "FDSTORE",
];

/// How long a manager that does not read may hold the supervisor up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who started us and looks after us; nobody, by default.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Duration>,
    keeps: bool,
}

impl ServiceManager {
    /// The one that the environment tells of.
    pub(super) fn from_env() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        match connect(&address) {
            Ok(socket) => Self { socket: Some(socket), watchdog: watchdog(), keeps: keeps() },
            Err(error) => {
                tracing::warn!(?address, %error, "the service manager cannot be told anything");
                Self::default()
            }
        }
    }

    /// Whether descriptors outlive this process with it, as far as it says.
    pub(super) fn keeps(&self) -> bool {
        self.socket.is_some() && self.keeps
    }

    /// How often it wants to hear of us.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Service works from now on.
    pub(super) fn ready(&self) {
        self.send("READY=1", &[]);
    }

    /// We live.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1", &[]);
    }

    /// It is going to end.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1", &[]);
    }

    /// What `systemctl status` shows.
    pub(super) fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")), &[]);
    }

    /// Has a descriptor kept. It must not look at it: each request would wake whoever polls a `/dev/fuse`.
    pub(super) fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) {
        if self.keeps() {
            self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), descriptors);
        }
    }

    /// Waits until all that was sent has been read, because what a process sends that has ended may be dropped (sd_notify_barrier(3)).
    pub(super) fn await_taken(&self) {
        if self.socket.is_none() {
            return;
        }
        match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
            Ok((read, write)) => {
                self.send("BARRIER=1", &[write.as_fd()]);
                drop(write);
                let patience = Timespec::try_from(PATIENCE).ok();
                let closed = poll(&mut [PollFd::new(&read, PollFlags::empty())], patience.as_ref());
                if closed != Ok(1) {
                    tracing::warn!(?closed, "the service manager has not read all that it was sent");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot wait for the service manager"),
        }
    }

    /// Has every descriptor of that name closed.
    pub(super) fn forget(&self, name: &str) {
        if self.keeps() {
            self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
        }
    }

    fn send(&self, message: &str, descriptors: &[BorrowedFd<'_>]) {
        let Some((socket, address)) = &self.socket else { return };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            tracing::error!(message, "too many descriptors at once for the service manager");
            return;
        }
        let bytes = [IoSlice::new(message.as_bytes())];
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg_addr(socket, address, &bytes, &mut control, SendFlags::NOSIGNAL)
        });
        if let Err(error) = sent {
            tracing::warn!(message, %error, "the service manager does not listen");
        }
    }
}

/// A path, or `@` and a name without one.
fn connect(address: &OsString) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    Ok((socket, address))
}

/// A third of what it waits for: one message may be late.
fn watchdog() -> Option<Duration> {
    let pid = std::env::var("WATCHDOG_PID").ok();
    if pid.is_some_and(|pid| pid.parse() != Ok(std::process::id())) {
        return None;
    }
    let limit = std::env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|limit| *limit > 0)?;
    Some(Duration::from_micros(limit) / 3)
}

/// From version 254 on, systemd says how many descriptors it keeps. Before, whoever wrote the unit knows.
fn keeps() -> bool {
    std::env::var("FDSTORE").ok().and_then(|most| most.parse::<u64>().ok()) != Some(0)
}
