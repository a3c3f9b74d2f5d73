//! The supervisor: a small process that owns what must not die with the daemon.
//!
//! It holds the directories' locks, the socket that containerd calls, and the `/dev/fuse` descriptor of
//! every mount. The worker, a child of it, does everything else with copies of those. When a worker
//! dies, whoever reads from a mount and whoever calls the socket waits; the next worker takes the
//! copies, asks the kernel for the requests that were lost, and answers.
//!
//! ```text
//!   containerd --> socket --+                 +--> snapshots service
//!                           | supervisor ---> worker
//!   readers --> /dev/fuse --+  (holds)        +--> serves reads
//! ```
//!
//! Invariants: the supervisor waits for nobody: not for the worker, not for the network, and it never
//! looks into the mounts that are served. It has one thread. It ends a mount only when it is out of use. If the
//! supervisor itself is killed, its worker dies with it and the mounts break: so it does next to nothing
//! that could fail. Where a service manager keeps descriptors ([`service_manager`], [`kept`]), it has copies of them all, and
//! the next supervisor takes them up: containers wait meanwhile, and notice nothing else.
//!
//! Mounts that the kernel reads by itself (EROFS) are made by the worker and given their place here. They outlive worker
//! and supervisor; the next supervisor takes them over.
//!
//! Stopping (SIGTERM, SIGINT): mounts out of use are unmounted; while some are in use, a worker goes on
//! serving them and their unmounting is tried again; with the last one gone the worker is stopped, and
//! then the supervisor. A second signal ends everything at once, and breaks what is in use; with a service manager,
//! which may repeat itself, it does not.
//!
//! Handing over (SIGUSR1), where a service manager keeps descriptors: nothing is unmounted, the worker is stopped, and the
//! supervisor ends; the next one goes on. So a new version of this program takes the place of the old one.

mod event_loop;
mod handle;
mod kept;
mod listener;
mod lock;
mod memory;
mod mounts;
mod protocol;
mod service_manager;
mod signals;
mod worker;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jaunt_layerfs::fuse::MountOptions;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

pub use handle::{Connection, Handle, HandleError, HeldMount, SUPERVISOR_FD};
pub use listener::ListenError;
pub(crate) use listener::bind as bind_socket;
pub(crate) use lock::DirectoryLock;
pub use lock::LockError;
pub use memory::Memory;
pub use protocol::{InvalidKey, MountKey, MountNeeds, Unmounted};
pub use worker::{Backoff, WorkerCommand};

use event_loop::{End, EventLoop};
use kept::{Kept, KeptName};
use lock::create_directory;
use mounts::MountTable;
use service_manager::ServiceManager;

/// How long one that was asked to hand over is waited for: longer than it gives its worker.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(20);
const HAND_OVER_POLL: Duration = Duration::from_millis(20);

/// What to supervise.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where state is kept; locked.
    pub root: PathBuf,
    /// Where mounts (`mnt/`) and, by custom, sockets are; locked.
    pub run_dir: PathBuf,
    /// The socket that containerd calls.
    pub socket: PathBuf,
    /// The process that does the work; see [`Handle::from_env`].
    pub worker: WorkerCommand,
    /// How to start it again.
    pub backoff: Backoff,
    /// How to mount.
    pub mount: MountOptions,
    /// How long a worker that was asked to stop may take before it is killed.
    pub stop_timeout: Duration,
    /// How long a worker that has served may say nothing before it is killed.
    pub silence: Duration,
}

impl Options {
    /// The usual: this program with `worker_args` as the worker, whatever the kernel offers.
    pub fn new(root: PathBuf, run_dir: PathBuf, socket: PathBuf, worker_args: Vec<OsString>) -> Self {
        Self {
            root,
            run_dir,
            socket,
            worker: WorkerCommand::this_program(worker_args),
            backoff: Backoff::default(),
            mount: MountOptions::default(),
            stop_timeout: Duration::from_secs(10),
            silence: Duration::from_secs(60),
        }
    }
}

/// Runs until it is told to stop, and everything it held is out of use.
///
/// To be called on the main thread: a worker dies with the thread that started it.
pub fn run(options: Options) -> Result<(), SupervisorError> {
    let inherited = service_manager::inherited();
    let manager = Rc::new(ServiceManager::from_env());
    let root = lock(&options.root, &manager)?;
    let run_dir = canonical(&options.run_dir)?;
    // One directory may well serve for both.
    let same = canonical(&options.root)? == run_dir;
    let run_lock = if same { None } else { Some(lock(&run_dir, &manager)?) };
    raise_descriptor_limit();
    let kept = Kept::sort(inherited, &options.socket, &manager);
    let mounts = MountTable::new(&run_dir, options.mount, kept.mounts, manager.clone())?;
    let listener = kept.listener.map_or_else(|| listener::bind(&options.socket), Ok)?;
    manager.keep(&KeptName::Listener.to_string(), &[listener.as_fd()]);
    tracing::info!(
        root = %options.root.display(), run_dir = %run_dir.display(), socket = %options.socket.display(),
        "supervisor started"
    );
    let memory = kept.memory.map_or_else(Memory::new, Ok).map_err(SupervisorError::Memory)?;
    manager.keep(&KeptName::Memory.to_string(), &[memory.as_fd()]);
    let worker = worker::Worker::new(options.worker, options.backoff, memory);
    let held = Held { listener, locks: [Some(root), run_lock].into_iter().flatten().collect() };
    let patience = Patience { stop: options.stop_timeout, silence: options.silence };
    let end = EventLoop::new(held, mounts, worker, patience, manager.clone())?.run();
    if !matches!(end, Ok(End::HandedOver)) {
        [KeptName::Listener, KeptName::Memory].iter().for_each(|name| manager.forget(&name.to_string()));
        // Ours still: the directory is locked, and nobody replaces a socket that is listened on.
        let _ = std::fs::remove_file(&options.socket);
    }
    end.map(|_| ())
}

/// Locks a directory. A daemon that has it and is ending, but still serves what is in use, is asked to hand over; its service
/// manager, which is ours, then gives what it held to who is started next. It is waited for, so that the next one may come at once.
fn lock(directory: &Path, manager: &ServiceManager) -> Result<DirectoryLock, LockError> {
    DirectoryLock::acquire(directory).inspect_err(|error| {
        let LockError::Held { pid, .. } = error else { return };
        let pid = pid.parse().ok().and_then(Pid::from_raw).filter(|_| manager.keeps());
        if let Some(pid) = pid {
            tracing::warn!(pid = pid.as_raw_nonzero(), "asking the daemon that is still there to hand over");
            let _ = kill_process(pid, Signal::USR1);
            let start = Instant::now();
            while DirectoryLock::is_held(directory) && start.elapsed() < HAND_OVER_LIMIT {
                std::thread::sleep(HAND_OVER_POLL);
            }
        }
    })
}

/// How long is waited for a worker.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// To its end, when it was asked to stop.
    stop: Duration,
    /// For a word of it.
    silence: Duration,
}

/// What a worker gets copies of at once.
#[derive(Debug)]
struct Held {
    listener: UnixListener,
    locks: Vec<DirectoryLock>,
}

/// The path as the mount table and containerd will see it. It travels in text messages.
fn canonical(directory: &Path) -> Result<PathBuf, SupervisorError> {
    create_directory(directory)?;
    let path = directory
        .canonicalize()
        .map_err(|source| LockError::Unusable { directory: directory.to_owned(), source })?;
    if path.to_str().is_none() { Err(SupervisorError::NotText(path)) } else { Ok(path) }
}

/// A mount is a descriptor, here and in the worker, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "cannot raise the limit of open descriptors");
    }
}

/// Why a supervisor does not run, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A directory is another daemon's, or of no use.
    #[error(transparent)]
    Directory(#[from] LockError),
    /// A directory whose name containerd could not be told.
    #[error("the path {0:?} is not UTF-8")]
    NotText(PathBuf),
    /// The socket is another daemon's, or of no use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no memory for workers.
    #[error("cannot take memory for workers: {0}")]
    Memory(#[source] io::Error),
    /// Signals or poll(2) do not work.
    #[error("cannot wait for events: {0}")]
    Events(#[source] io::Error),
    /// The worker cannot work as things are.
    #[error("{0}")]
    Unfit(String),
    /// A second signal ended it while mounts were in use.
    #[error("ended by a second signal; {0} mounts that were in use are broken")]
    Abandoned(usize),
}
