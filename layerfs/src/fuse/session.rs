//! Serving a mount that another process made, from its first request or in the middle of its life.
//!
//! The library that decodes requests opens a session with a handshake and knows no other beginning. The
//! kernel's handshake is long over, so the library is given one end of a socket pair in which a synthetic
//! FUSE_INIT waits ([`Negotiated::synthetic_request`]); its answer is taken out at the other end and
//! checked; then the real device is put in the socket's place (`dup3`). The library holds one descriptor
//! number throughout and notices nothing. Its option to clone descriptors must stay off: requests taken
//! through a clone die with it and could not be sent again.
//!
//! Requests that a predecessor had taken and not answered are asked for once more before the first read
//! (Linux 6.9 and later). On an older kernel they are answered EIO, as far as the predecessor noted them ([`super::in_flight`]);
//! without such notes, their callers wait until the connection is aborted.

use std::collections::BTreeSet;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use fuser::{Config, Filesystem, Notifier, Session, SessionACL};
use rustix::io::{DupFlags, Errno};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zerocopy::IntoBytes;

use super::abi::{NOTIFY_RESEND, OutHeader, len_of};
use super::in_flight::InFlight;
use super::init::{InitError, Negotiated};
use super::noting::Noting;
use super::numbers::Told;
use super::push::{PageSink, Push};
use crate::fs::{Condemned, LayerFs};

/// Serves `device` with `fs` on `threads` threads, until the file system is unmounted and out of use.
///
/// No other process may be reading from the device: its requests would be asked for again and answered
/// twice.
pub fn serve<F: Filesystem>(
    fs: F,
    device: OwnedFd,
    negotiated: &Negotiated,
    threads: usize,
) -> Result<SessionHandle, SessionError> {
    serve_noting(fs, device, negotiated, None, threads)
}

/// The same with a table of requests in which `fs` notes those that it is slow to answer. What is in it from an earlier process
/// gets an error, if the kernel does not send it again.
pub fn serve_noting<F: Filesystem>(
    fs: F,
    device: OwnedFd,
    negotiated: &Negotiated,
    in_flight: Option<&InFlight>,
    threads: usize,
) -> Result<SessionHandle, SessionError> {
    let session = adopt(Noting { fs, table: in_flight.cloned() }, negotiated, threads)?;
    put_in_place_of(&session, &device)?;
    if negotiated.can_resend() {
        resend(&session).map_err(SessionError::Resend)?;
    } else if let Some(table) = in_flight {
        let failed = table.fail_all(&session).map_err(SessionError::Resend)?;
        if failed > 0 {
            tracing::warn!(
                failed,
                "requests that an earlier process had taken failed: this kernel does not send them again"
            );
        }
    }
    drop(device);
    let notifier = session.notifier();
    let thread = std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || session.run())
        .map_err(SessionError::Threads)?;
    Ok(SessionHandle { thread, notifier, forgotten: Mutex::default(), pushed: Mutex::default() })
}

/// Asks the kernel to send every request again that was taken from `device` and not answered.
///
/// Fails with `EINVAL` before Linux 6.9.
pub fn resend(device: impl AsFd) -> io::Result<()> {
    let notification = OutHeader { len: len_of::<OutHeader>(), error: NOTIFY_RESEND, unique: 0 };
    rustix::io::write(device, notification.as_bytes())?;
    Ok(())
}

/// A mount being served.
///
/// Dropping it changes nothing: the threads go on until the file system is out of use.
#[derive(Debug)]
pub struct SessionHandle {
    thread: JoinHandle<io::Result<()>>,
    notifier: Notifier,
    /// What is not believed any more, and the kernel has nothing of.
    forgotten: Mutex<BTreeSet<Condemned>>,
    pushed: Mutex<Option<Push>>,
}

impl SessionHandle {
    /// Whether the session is over, because the file system is out of use or the device failed.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the session; an error is the device's.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the session panicked")))
    }

    /// Has the kernel forget what it has read of what is not believed any more, if it has not yet. Reads of them that are
    /// under way are waited for: not to be called by who answers them. Says of how many files.
    ///
    /// # Errors
    /// The kernel refuses: it may still give what it has read.
    pub fn forget_condemned(&self, fs: &LayerFs) -> io::Result<usize> {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        let condemned: BTreeSet<Condemned> = fs.condemned().difference(&forgotten).copied().collect();
        let mut files = 0;
        if !condemned.is_empty() {
            self.stop_pushing();
            let numbers = Told::new(fs);
            for ino in fs.files_of(&condemned) {
                // From the first byte to the last.
                self.notifier.inval_inode(numbers.number(ino), 0, 0)?;
                files += 1;
            }
            forgotten.extend(condemned);
        }
        Ok(files)
    }

    /// Has `sink` put what the chain's boot pack brings into the kernel's page cache as it comes. To be called on a runtime.
    pub fn push(&self, fs: &Arc<LayerFs>, sink: Box<dyn PageSink>) {
        let pushed = Push::begin(fs.clone(), sink);
        *self.pushed.lock().unwrap_or_else(PoisonError::into_inner) = Some(pushed);
    }

    /// Whether that goes on.
    pub fn is_pushing(&self) -> bool {
        let pushed = self.pushed.lock().unwrap_or_else(PoisonError::into_inner);
        pushed.as_ref().is_some_and(|pushed| !pushed.is_over())
    }

    /// Ends that. Before, the mount may be in use by it.
    pub fn stop_pushing(&self) {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Tells the kernel to drop things it has cached.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }
}

/// A session that has had its handshake, on a socket that nobody will write to any more.
fn adopt<F: Filesystem>(fs: F, negotiated: &Negotiated, threads: usize) -> Result<Session<F>, SessionError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(SessionError::Socket)?;
    rustix::net::send(&ours, &negotiated.synthetic_request(), SendFlags::NOSIGNAL)
        .map_err(SessionError::Socket)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    config.clone_fd = false;
    let acl = config.acl;
    let session = Session::from_fd(fs, theirs, acl, config).map_err(SessionError::Start)?;
    let mut reply = [0; 256];
    let (len, _) = rustix::net::recv(&ours, &mut reply, RecvFlags::DONTWAIT).map_err(SessionError::Socket)?;
    negotiated.check_reply(&reply[..len])?;
    Ok(session)
}

/// Makes the session's descriptor refer to `device`.
#[allow(unsafe_code)]
fn put_in_place_of<F: Filesystem>(session: &Session<F>, device: &OwnedFd) -> Result<(), SessionError> {
    // SAFETY: the descriptor is open, because the session owns it and outlives this function;
    // ManuallyDrop leaves the closing to the session, so there is one owner at every moment. `dup3` swaps
    // what the number refers to in one step, and no thread of the session runs yet.
    let mut theirs = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(session.as_fd().as_raw_fd()) });
    rustix::io::dup3(device, &mut theirs, DupFlags::CLOEXEC).map_err(SessionError::Socket)
}

/// A mount that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No socket for the handshake.
    #[error("cannot prepare a FUSE session: {0}")]
    Socket(#[source] Errno),
    /// The file system's own start failed.
    #[error("cannot start a FUSE session: {0}")]
    Start(#[source] io::Error),
    /// What the session would do is not what was agreed with the kernel.
    #[error(transparent)]
    Handshake(#[from] InitError),
    /// The kernel would not send requests again.
    #[error("cannot take over the requests of a FUSE connection: {0}")]
    Resend(#[source] io::Error),
    /// No thread to serve on.
    #[error("cannot start the threads of a FUSE session: {0}")]
    Threads(#[source] io::Error),
}
