//! What the supervisor does: sleep in poll(2), and act on signals, the worker's requests and timers, one
//! at a time.
//!
//! ```text
//!   Running --signal--> Draining --nothing in use any more--> Stopping --worker gone--> (end)
//!                          |                                     |
//!                          +---- second signal: end at once -----+
//! ```
//!
//! The devices are not among what it sleeps on: whoever polls a `/dev/fuse`, even for nothing but its end,
//! is woken by every request on it (measured on Linux 6.18: 9,962 wake-ups for 10,000 reads). Whether a
//! file system has ended is looked at once a second, while there is one whose end is awaited.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::Signal;

use super::mounts::MountTable;
use super::protocol::{self, MountRecord, Reply, Request, VERSION};
use super::signals::SignalPipe;
use super::worker::Worker;
use super::{Held, SupervisorError};

/// How often awaited ends are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The supervisor at work.
#[derive(Debug)]
pub(super) struct EventLoop {
    held: Held,
    mounts: MountTable,
    worker: Worker,
    stop_timeout: Duration,
    stop: SignalPipe,
    child: SignalPipe,
    phase: Phase,
    /// When awaited ends are looked for next.
    check: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Working.
    Running,
    /// Told to stop; `told` mounts were in use when this was last said.
    Draining { told: usize },
    /// The worker has been told to stop, and is killed at `deadline`.
    Stopping { deadline: Instant },
}

impl EventLoop {
    pub(super) fn new(
        held: Held,
        mounts: MountTable,
        worker: Worker,
        stop_timeout: Duration,
    ) -> Result<Self, SupervisorError> {
        let stop = SignalPipe::stop().map_err(SupervisorError::Events)?;
        let child = SignalPipe::child().map_err(SupervisorError::Events)?;
        let (phase, check) = (Phase::Running, Instant::now());
        Ok(Self { held, mounts, worker, stop_timeout, stop, child, phase, check })
    }

    pub(super) fn run(mut self) -> Result<(), SupervisorError> {
        loop {
            if !self.is_stopping() {
                self.worker.start_if_due();
            }
            let asked = self.wait().map_err(SupervisorError::Events)?;
            if self.child.drain() > 0 {
                self.worker.reap();
            }
            if asked {
                self.answer_worker();
            }
            if self.stop.drain() > 0 {
                self.stop_signal()?;
            }
            self.on_time();
            if self.is_stopping() && !self.worker.is_running() {
                tracing::info!("supervisor stopped");
                return Ok(());
            }
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    /// Sleeps until there is something to do; tells whether the worker has asked for something.
    fn wait(&self) -> io::Result<bool> {
        let socket = self.worker.socket();
        let mut polled =
            vec![PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.child, PollFlags::IN)];
        polled.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        match poll(&mut polled, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(polled.get(2).is_some_and(|fd| !fd.revents().is_empty())),
            Err(errno) => Err(errno.into()),
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let deadline = match self.phase {
            Phase::Stopping { deadline } => Some(deadline),
            Phase::Running | Phase::Draining { .. } => None,
        };
        let check = self.awaits_ends().then_some(self.check);
        let due = self.worker.due().filter(|_| !self.is_stopping());
        let next = [deadline, check, due].into_iter().flatten().min()?;
        // Rounded up, so as not to wake a moment too early and spin.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    fn awaits_ends(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. }) || self.mounts.any_lingers()
    }

    fn stop_signal(&mut self) -> Result<(), SupervisorError> {
        if self.phase == Phase::Running {
            tracing::info!("stopping: unmounting what is not in use");
            self.phase = Phase::Draining { told: 0 };
            self.check = Instant::now();
            return Ok(());
        }
        self.worker.kill();
        self.phase = Phase::Stopping { deadline: Instant::now() };
        self.mounts.unmount_idle();
        let in_use = self.mounts.served();
        if in_use == 0 {
            return Ok(());
        }
        tracing::error!(in_use, mounts = self.mounts.keys(), "ended at once: these mounts are broken now");
        self.mounts.detach_all();
        Err(SupervisorError::Abandoned(in_use))
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.awaits_ends() && now >= self.check {
            self.mounts.release_ended();
            self.check = now + CHECK_INTERVAL;
            if let Phase::Draining { told } = self.phase {
                self.drain(told);
            }
        }
        match self.phase {
            Phase::Stopping { deadline } if now >= deadline && self.worker.is_running() => {
                tracing::warn!(timeout = ?self.stop_timeout, "the worker does not stop: killed");
                self.worker.kill();
            }
            _ => {}
        }
    }

    fn drain(&mut self, told: usize) {
        self.mounts.unmount_idle();
        let in_use = self.mounts.served();
        if in_use == 0 {
            self.worker.signal(Signal::TERM);
            self.phase = Phase::Stopping { deadline: Instant::now() + self.stop_timeout };
            return;
        }
        if in_use != told {
            tracing::warn!(in_use, mounts = self.mounts.keys(), "mounts are in use: serving them on");
        }
        self.phase = Phase::Draining { told: in_use };
    }

    /// Takes one request off the worker's socket and answers it.
    fn answer_worker(&mut self) {
        let Some(socket) = self.worker.socket() else { return };
        let request = match protocol::receive::<Request>(socket, RecvFlags::DONTWAIT) {
            Ok(Some(request)) => Ok(request),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Without its socket it is of no use; most often it is about to be reaped.
            Ok(None) => return self.worker.give_up(),
            Err(error) => Err(error.to_string()),
        };
        let answer = request
            .and_then(|(request, descriptors)| self.act(request, descriptors))
            .unwrap_or_else(|message| {
                tracing::warn!(message, "refusing a request of the worker");
                Reply::Error { message }
            });
        let Some(socket) = self.worker.socket() else { return };
        if let Err(error) = self.send(socket, &answer) {
            // The next one finds every mount in its list.
            tracing::error!(%error, "the worker does not take its answers: killed");
            self.worker.give_up();
        }
    }

    fn act(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply, String> {
        match request {
            Request::Hello { version: VERSION } => Ok(Reply::Hello { mounts: self.mounts.len() }),
            Request::Hello { version } => {
                Err(format!("the worker speaks version {version}, the supervisor {VERSION}"))
            }
            Request::Next { after } => Ok(self.mounts.next(after.as_ref()).map_or(Reply::End, Reply::Mount)),
            Request::Mount { .. } | Request::Attach { .. } if self.phase != Phase::Running => {
                Err("the daemon is stopping: no new mounts".to_owned())
            }
            Request::Mount { key, needs } => {
                self.mounts.mount(&key, needs).map(Reply::Mount).map_err(|error| error.to_string())
            }
            Request::Attach { key } => {
                let mount = descriptors.into_iter().next().ok_or("a mount to be attached is missing")?;
                self.mounts.attach(&key, mount).map(Reply::Mount).map_err(|error| error.to_string())
            }
            Request::Unmount { key } => {
                let outcome = self.mounts.unmount(&key).map_err(|error| error.to_string())?;
                Ok(Reply::Unmounted { outcome })
            }
        }
    }

    /// Sends a reply together with the descriptors that it is about.
    fn send(&self, socket: BorrowedFd<'_>, reply: &Reply) -> io::Result<()> {
        let mut descriptors = Vec::new();
        match reply {
            Reply::Hello { .. } => {
                descriptors.push(self.held.listener.as_fd());
                descriptors.extend(self.held.locks.iter().map(AsFd::as_fd));
            }
            Reply::Mount(MountRecord { key, .. }) => descriptors.extend(self.mounts.device(key)),
            Reply::End | Reply::Unmounted { .. } | Reply::Error { .. } => {}
        }
        protocol::send(socket, reply, &descriptors, SendFlags::DONTWAIT)
    }
}
