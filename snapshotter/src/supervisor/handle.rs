//! The worker's end: what a worker gets from its supervisor.
//!
//! The socket is the worker's standard input: the one descriptor that reaches a child without a trick.
//! [`SUPERVISOR_FD`] says so. Once taken, standard input is `/dev/null` again.
//!
//! A worker does not outlive its supervisor ([`Handle::from_env`] arranges for that): alone, it could
//! neither be replaced nor unmount anything, and it would keep the next supervisor out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jaunt_layerfs::erofs::Detached;
use jaunt_layerfs::fuse::{InFlight, Negotiated, SessionError, SessionHandle, fuser, serve_noting};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::memory::Memory;
use super::protocol::{self, MountKey, MountNeeds, MountRecord, Reply, Request, Unmounted};

/// Environment variable that names the descriptor of the supervisor's socket; always 0.
pub const SUPERVISOR_FD: &str = "JAUNT_SUPERVISOR_FD";

/// Environment variable that says for how many seconds no worker could serve; absent when the last one could.
pub(super) const UNFIT_SECONDS: &str = "JAUNT_UNFIT_SECONDS";

/// Characters of a reason that are passed on.
const UNFIT_MAX: usize = 2000;

/// A worker's connection to its supervisor. Calls block for as long as a mount takes: well under a
/// millisecond. They come one at a time, whatever the number of threads.
/// Clones share it.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: Mutex<OwnedFd>,
    listener: UnixListener,
    /// Held, not used: while a worker lives, no other supervisor may take the directories.
    _locks: Vec<OwnedFd>,
}

/// A mount that the supervisor holds, with what it is served by.
#[derive(Debug)]
pub struct HeldMount {
    /// Its name.
    pub key: MountKey,
    /// Where it is mounted.
    pub path: PathBuf,
    /// None, where the kernel reads it by itself ([`jaunt_layerfs::erofs`]).
    pub connection: Option<Connection>,
    /// Whether `path` still leads to it; when not, it is only waiting for its last user.
    pub attached: bool,
}

/// What a FUSE mount is served by.
#[derive(Debug)]
pub struct Connection {
    /// The `/dev/fuse` descriptor, initialised. Closing it does not end the mount.
    pub device: OwnedFd,
    /// What was agreed with the kernel.
    pub negotiated: Negotiated,
    /// Where requests under way are noted, if the kernel does not send them again.
    pub in_flight: Option<InFlight>,
}

impl Handle {
    /// Takes up the connection that the supervisor gave to this process. To be called once, on the main
    /// thread: the kernel binds the promise to die with the supervisor to the thread that makes it.
    pub fn from_env() -> Result<Self, HandleError> {
        if std::env::var_os(SUPERVISOR_FD).is_none_or(|fd| fd != "0") {
            return Err(HandleError::NotAWorker);
        }
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
        // A supervisor that died before the promise was made has left a closed socket behind.
        Self::greet(socket)
    }

    fn greet(socket: OwnedFd) -> Result<Self, HandleError> {
        let (reply, descriptors) = ask(&socket, &Request::Hello { version: protocol::VERSION }, &[])?;
        let Reply::Hello { .. } = reply else { return Err(HandleError::unexpected(reply)) };
        let mut descriptors = descriptors.into_iter();
        let listener = descriptors.next().ok_or(HandleError::Incomplete("listener"))?;
        let listener = listener.into();
        let shared = Shared { socket: Mutex::new(socket), listener, _locks: descriptors.collect() };
        Ok(Self(Arc::new(shared)))
    }

    /// The connection itself, once more. The supervisor kills a worker whose connection has ended: who holds this
    /// until the process ends has time to say why it does.
    pub fn connection(&self) -> io::Result<OwnedFd> {
        self.0.socket.lock().unwrap_or_else(PoisonError::into_inner).try_clone()
    }

    /// The socket on which containerd calls. Connections wait in it while no worker accepts them.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.0.listener.try_clone()
    }

    /// Every mount that the supervisor holds, those that wait for their last user included: all of
    /// them are this worker's to serve.
    pub fn mounts(&self) -> Result<Vec<HeldMount>, HandleError> {
        let mut mounts: Vec<HeldMount> = Vec::new();
        loop {
            let after = mounts.last().map(|m| m.key.clone());
            match self.ask(&Request::Next { after })? {
                (Reply::End, _) => return Ok(mounts),
                (Reply::Mount(record), device) => mounts.push(HeldMount::new(record, device)?),
                (other, _) => return Err(HandleError::unexpected(other)),
            }
        }
    }

    /// A new mount on `<run-dir>/mnt/<key>`, to be served at once: whoever looks at it waits until then.
    /// A key that is held already is an error.
    pub fn mount(&self, key: &MountKey, needs: MountNeeds) -> Result<HeldMount, HandleError> {
        match self.ask(&Request::Mount { key: key.clone(), needs })? {
            (Reply::Mount(record), device) => HeldMount::new(record, device),
            (other, _) => Err(HandleError::unexpected(other)),
        }
    }

    /// Has a mount that this process made put on `<run-dir>/mnt/<key>`. A key that is held already is an error.
    pub fn attach(&self, key: &MountKey, mount: &Detached) -> Result<HeldMount, HandleError> {
        match self.ask_with(&Request::Attach { key: key.clone() }, &[mount.as_fd()])? {
            (Reply::Mount(record), descriptors) => HeldMount::new(record, descriptors),
            (other, _) => Err(HandleError::unexpected(other)),
        }
    }

    /// Ends a mount that is not in use. Keep serving until the session ends by itself.
    pub fn unmount(&self, key: &MountKey) -> Result<Unmounted, HandleError> {
        match self.ask(&Request::Unmount { key: key.clone() })? {
            (Reply::Unmounted { outcome }, _) => Ok(outcome),
            (other, _) => Err(HandleError::unexpected(other)),
        }
    }

    /// Tells that this worker serves. To be said every few seconds: one that falls silent is killed.
    pub fn serving(&self) -> Result<(), HandleError> {
        self.tell(&Request::Serving)
    }

    /// Tells why this worker, and any other as things are, cannot serve.
    pub fn unfit(&self, why: &str) -> Result<(), HandleError> {
        // The reason of a reason may be as long as it likes; a message may not.
        self.tell(&Request::Unfit { why: why.chars().take(UNFIT_MAX).collect() })
    }

    /// Where the memory is that workers leave to each other.
    pub fn memory() -> Option<PathBuf> {
        Memory::from_env()
    }

    /// For how long no worker could serve, if the last one could not.
    pub fn unfit_for() -> Option<Duration> {
        let seconds = std::env::var(UNFIT_SECONDS).ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    fn tell(&self, request: &Request) -> Result<(), HandleError> {
        match self.ask(request)? {
            (Reply::Noted, _) => Ok(()),
            (other, _) => Err(HandleError::unexpected(other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), HandleError> {
        self.ask_with(request, &[])
    }

    fn ask_with(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), HandleError> {
        // A panic elsewhere cannot have left half a message: packets are whole.
        let socket = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&socket, request, descriptors)
    }
}

impl Connection {
    /// Serves it in this process ([`jaunt_layerfs::fuse::serve_noting`]).
    pub fn serve<F: fuser::Filesystem>(self, fs: F, threads: usize) -> Result<SessionHandle, SessionError> {
        serve_noting(fs, self.device, &self.negotiated, self.in_flight.as_ref(), threads)
    }
}

impl HeldMount {
    fn new(record: MountRecord, descriptors: Vec<OwnedFd>) -> Result<Self, HandleError> {
        let connection = match &record.negotiated {
            None => None,
            Some(negotiated) => {
                let mut descriptors = descriptors.into_iter();
                let device = descriptors.next().ok_or(HandleError::Incomplete("device"))?;
                let in_flight = descriptors.next().map(InFlight::open).transpose()?;
                let negotiated = Negotiated::from_bytes(negotiated)
                    .map_err(|source| HandleError::Record { key: record.key.clone(), source })?;
                Some(Connection { device, negotiated, in_flight })
            }
        };
        Ok(Self { key: record.key, path: record.path, connection, attached: record.attached })
    }
}

fn ask(
    socket: &OwnedFd,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), HandleError> {
    protocol::send(socket.as_fd(), request, descriptors, SendFlags::empty())?;
    protocol::receive(socket, RecvFlags::empty())?.ok_or(HandleError::Gone)
}

/// What a worker cannot get from its supervisor.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// This process was not started by a supervisor.
    #[error("not started by a supervisor ({SUPERVISOR_FD}=0 is missing): run `jaunt-snapshotter serve`")]
    NotAWorker,
    /// The supervisor has ended.
    #[error("the supervisor is gone")]
    Gone,
    /// The socket failed.
    #[error("talking to the supervisor: {0}")]
    Io(#[from] io::Error),
    /// The supervisor tried and failed, or would not.
    #[error("{0}")]
    Refused(String),
    /// A reply of the wrong kind.
    #[error("the supervisor's reply does not fit the question: {0}")]
    Unexpected(String),
    /// A reply without the descriptor it is about.
    #[error("the supervisor's reply lacks its {0}")]
    Incomplete(&'static str),
    /// A mount whose record cannot be read.
    #[error("mount {key}: {source}")]
    Record {
        /// The mount.
        key: MountKey,
        /// What is wrong with it.
        source: jaunt_layerfs::fuse::init::InitError,
    },
}

impl HandleError {
    fn unexpected(reply: Reply) -> Self {
        match reply {
            Reply::Error { message } => Self::Refused(message),
            other => Self::Unexpected(format!("{other:?}")),
        }
    }
}
