//! What the supervisor does: sleep in poll(2), and act on signals, the worker's requests and timers, one
//! at a time.
//!
//! ```text
//!   Running --signal--> Draining --nothing in use any more--> Stopping --worker gone--> (end)
//!                          |                                     |
//!                          +---- second signal: end at once -----+
//!
//! Running or Draining --hand over--> Leaving --worker gone--> (end, everything as it is)
//! ```
//!
//! The devices are not among what it sleeps on: whoever polls a `/dev/fuse`, even for nothing but its end,
//! is woken by every request on it (measured on Linux 6.18: 9,962 wake-ups for 10,000 reads). Whether a
//! file system has ended is looked at once a second, while there is one whose end is awaited.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::Signal;

use super::kept::KeptName;
use super::mounts::MountTable;
use super::protocol::{self, MountRecord, Reply, Request, VERSION};
use super::service_manager::ServiceManager;
use super::signals::SignalPipe;
use super::worker::Worker;
use super::{Held, Patience, SupervisorError};

/// How often awaited ends are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The supervisor at work.
#[derive(Debug)]
pub(super) struct EventLoop {
    held: Held,
    mounts: MountTable,
    worker: Worker,
    manager: Rc<ServiceManager>,
    patience: Patience,
    stop: SignalPipe,
    child: SignalPipe,
    hand_over: SignalPipe,
    phase: Phase,
    /// When awaited ends are looked for next.
    check: Instant,
    /// When the service manager is told next that this loop turns.
    pulse: Option<Instant>,
    /// Whether a worker has ever served.
    ready: bool,
    /// Why the worker cannot serve, if it has said so since one last did.
    unfit: Option<Unfit>,
}

/// A worker that cannot serve.
#[derive(Debug)]
struct Unfit {
    why: String,
    /// When the first one said so.
    since: Instant,
}

/// How a supervisor ended that has done what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing is in use any more.
    Stopped,
    /// The next one goes on with what is in use.
    HandedOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Working.
    Running,
    /// Told to stop; `told` mounts were in use when this was last said.
    Draining { told: usize },
    /// The worker has been told to stop, and is killed at `deadline`.
    Stopping { deadline: Instant },
    /// The same, and what is in use stays for the next supervisor.
    Leaving { deadline: Instant },
}

impl EventLoop {
    pub(super) fn new(
        held: Held,
        mounts: MountTable,
        worker: Worker,
        patience: Patience,
        manager: Rc<ServiceManager>,
    ) -> Result<Self, SupervisorError> {
        let stop = SignalPipe::stop().map_err(SupervisorError::Events)?;
        let child = SignalPipe::child().map_err(SupervisorError::Events)?;
        let hand_over = SignalPipe::hand_over().map_err(SupervisorError::Events)?;
        let (phase, check) = (Phase::Running, Instant::now());
        let pulse = manager.watchdog().map(|_| check);
        let (ready, unfit) = (false, None);
        Ok(Self {
            held,
            mounts,
            worker,
            manager,
            patience,
            stop,
            child,
            hand_over,
            phase,
            check,
            pulse,
            ready,
            unfit,
        })
    }

    pub(super) fn run(mut self) -> Result<End, SupervisorError> {
        loop {
            if self.deadline().is_none() {
                self.worker.start_if_due(self.unfit.as_ref().map(|unfit| unfit.since.elapsed()));
            }
            let asked = self.wait().map_err(SupervisorError::Events)?;
            if self.child.drain() > 0 {
                // What it said last is still in its socket.
                while self.answer_worker() {}
                self.worker.reap();
            } else if asked {
                self.answer_worker();
            }
            if let Some(Unfit { why, .. }) = self.unfit.take_if(|_| !self.ready && self.mounts.served() == 0)
            {
                self.worker.kill();
                return Err(SupervisorError::Unfit(why));
            }
            if self.stop.drain() > 0 {
                self.stop_signal()?;
            }
            if self.hand_over.drain() > 0 {
                self.hand_over_signal();
            }
            self.on_time();
            match self.phase {
                _ if self.worker.is_running() => {}
                Phase::Stopping { .. } => {
                    tracing::info!(left_to_the_kernel = self.mounts.len(), "supervisor stopped");
                    return Ok(End::Stopped);
                }
                Phase::Leaving { .. } => {
                    tracing::info!(
                        mounts = self.mounts.len(),
                        "supervisor ended; mounts stay for the next one"
                    );
                    return Ok(End::HandedOver);
                }
                Phase::Running | Phase::Draining { .. } => {}
            }
        }
    }

    /// When a worker that was told to stop is killed.
    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopping { deadline } | Phase::Leaving { deadline } => Some(deadline),
            Phase::Running | Phase::Draining { .. } => None,
        }
    }

    /// Sleeps until there is something to do; tells whether the worker has asked for something.
    fn wait(&self) -> io::Result<bool> {
        let socket = self.worker.socket();
        let mut polled =
            [&self.stop, &self.child, &self.hand_over].map(|pipe| PollFd::new(pipe, PollFlags::IN)).to_vec();
        polled.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        match poll(&mut polled, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(polled.get(3).is_some_and(|fd| !fd.revents().is_empty())),
            Err(errno) => Err(errno.into()),
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let check = self.awaits_ends().then_some(self.check);
        let due = self.worker.due().filter(|_| self.deadline().is_none());
        let silent = self.worker.silent_at(self.patience.silence);
        let next = [self.deadline(), check, due, silent, self.pulse].into_iter().flatten().min()?;
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
            self.manager.stopping();
            self.phase = Phase::Draining { told: 0 };
            self.check = Instant::now();
            return Ok(());
        }
        if matches!(self.phase, Phase::Leaving { .. }) {
            return Ok(());
        }
        if self.manager.keeps() && self.deadline().is_none() {
            // systemd repeats itself before it leaves a service alone.
            tracing::warn!(in_use = self.mounts.served(), "told to stop again: what is in use is served on");
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

    /// Has the next supervisor go on, if there is somebody who keeps what it needs.
    fn hand_over_signal(&mut self) {
        if self.deadline().is_some() {
            return;
        }
        if !self.manager.keeps() {
            tracing::warn!("told to hand over, but no service manager keeps the mounts: going on");
            return;
        }
        let mounts = self.mounts.len();
        tracing::info!(mounts, "handing over: mounts stay, and reads wait for the next supervisor");
        self.manager.stopping();
        self.manager.status(&format!("handing over {mounts} mounts"));
        // A manager that took this for stopped may have let go of what it had.
        self.manager.keep(&KeptName::Listener.to_string(), &[self.held.listener.as_fd()]);
        self.mounts.keep_all();
        self.manager.await_taken();
        self.worker.signal(Signal::TERM);
        self.phase = Phase::Leaving { deadline: Instant::now() + self.patience.stop };
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
        if self.deadline().is_some_and(|deadline| now >= deadline) && self.worker.is_running() {
            tracing::warn!(timeout = ?self.patience.stop, "the worker does not stop: killed");
            self.worker.kill();
        }
        if self.worker.silent_at(self.patience.silence).is_some_and(|silent| now >= silent) {
            tracing::error!(limit = ?self.patience.silence, "the worker says nothing any more: killed");
            self.worker.give_up();
        }
        // The worker is looked after above: what remains to be told is that somebody does.
        if self.pulse.is_some_and(|pulse| now >= pulse) {
            self.manager.alive();
            self.pulse = self.manager.watchdog().map(|interval| now + interval);
        }
    }

    fn drain(&mut self, told: usize) {
        self.mounts.unmount_idle();
        let in_use = self.mounts.served();
        let by_kernel = self.mounts.len() - in_use;
        if in_use == 0 {
            if by_kernel > 0 {
                let mounts = self.mounts.keys();
                tracing::info!(
                    by_kernel,
                    mounts,
                    "mounts stay in use: the kernel reads them by itself, and they go on"
                );
            }
            self.worker.signal(Signal::TERM);
            self.phase = Phase::Stopping { deadline: Instant::now() + self.patience.stop };
            return;
        }
        if in_use != told {
            tracing::warn!(
                in_use,
                mounts = self.mounts.keys(),
                by_kernel,
                "mounts are in use: serving them on"
            );
            self.manager.status(&format!(
                "stopping: {in_use} mounts are in use and go on being served until their containers end; \
                 {by_kernel} more need nobody to serve them"
            ));
        }
        self.phase = Phase::Draining { told: in_use };
    }

    /// Remembers whether the worker can serve, and tells who wants to know.
    fn worker_said(&mut self, unfit: Option<String>) {
        let Some(why) = unfit else {
            if self.unfit.take().is_some() || !self.ready {
                self.manager.status(&format!("serving; {} mounts held", self.mounts.len()));
            }
            if !self.ready {
                self.manager.ready();
            }
            self.ready = true;
            return;
        };
        self.manager.status(&format!("not serving: {why}"));
        if !self.ready && self.mounts.served() > 0 {
            // What is held is to stay, so this is as ready as it gets; who starts it must not lose patience.
            self.manager.ready();
            self.ready = true;
        }
        let since = self.unfit.as_ref().map_or_else(Instant::now, |unfit| unfit.since);
        self.unfit = Some(Unfit { why, since });
    }

    /// Takes one request off the worker's socket and answers it; whether there was one.
    fn answer_worker(&mut self) -> bool {
        let Some(socket) = self.worker.socket() else { return false };
        let request = match protocol::receive::<Request>(socket, RecvFlags::DONTWAIT) {
            Ok(Some(request)) => Ok(request),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Without its socket it is of no use; most often it is about to be reaped.
            Ok(None) => {
                self.worker.give_up();
                return false;
            }
            Err(error) => Err(error.to_string()),
        };
        let answer = request
            .and_then(|(request, descriptors)| self.act(request, descriptors))
            .unwrap_or_else(|message| {
                tracing::warn!(message, "refusing a request of the worker");
                Reply::Error { message }
            });
        let Some(socket) = self.worker.socket() else { return false };
        if let Err(error) = self.send(socket, &answer) {
            // The next one finds every mount in its list.
            tracing::error!(%error, "the worker does not take its answers: killed");
            self.worker.give_up();
        }
        true
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
            Request::Serving => {
                self.worker.heard();
                self.worker_said(None);
                Ok(Reply::Noted)
            }
            Request::Unfit { why } => {
                self.worker_said(Some(why));
                Ok(Reply::Noted)
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
            Reply::Mount(MountRecord { key, .. }) => descriptors.extend(self.mounts.descriptors(key)),
            Reply::End | Reply::Unmounted { .. } | Reply::Noted | Reply::Error { .. } => {}
        }
        protocol::send(socket, reply, &descriptors, SendFlags::DONTWAIT)
    }
}
