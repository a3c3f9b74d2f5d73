//! The worker process: started, found dead, started again, asked to stop.
//!
//! A worker that dies is replaced for ever: at once if it had lived, after a growing pause if it keeps
//! dying young. It has a process group of its own, so that a Ctrl-C at a terminal reaches only the
//! supervisor, which knows in what order to stop.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use super::handle::{SUPERVISOR_FD, UNFIT_SECONDS};
use super::memory::Memory;
use super::service_manager;

/// What to start as a worker.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program. By default the one that runs, also when its file has been replaced since: supervisor
    /// and worker are of one version.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl WorkerCommand {
    /// This program, with `args`.
    pub fn this_program(args: Vec<OsString>) -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args }
    }
}

/// How long to wait before a worker is started again that died young.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// Pauses double up to this one.
    pub longest: Duration,
    /// A worker that lived this long did not die young.
    pub healthy: Duration,
}

impl Default for Backoff {
    /// A worker that cannot start is tried every five seconds; one that is killed is back at once.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
            healthy: Duration::from_secs(1),
        }
    }
}

impl Backoff {
    /// The pause after a worker that lived for `lived`, the pause before it having been `last`.
    fn pause(&self, lived: Duration, last: Duration) -> Duration {
        if lived >= self.healthy { Duration::ZERO } else { (last * 2).clamp(self.first, self.longest) }
    }
}

/// The worker there is, or the time when the next one is due.
#[derive(Debug)]
pub(super) struct Worker {
    command: WorkerCommand,
    backoff: Backoff,
    state: State,
    last_pause: Duration,
    /// What one leaves to the next.
    memory: Memory,
}

#[derive(Debug)]
enum State {
    Running(Running),
    Due(Instant),
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// None once it has been given up.
    socket: Option<OwnedFd>,
    since: Instant,
    /// When it last said that it serves; none before it did.
    heard: Option<Instant>,
}

impl Worker {
    /// None yet; due at once.
    pub(super) fn new(command: WorkerCommand, backoff: Backoff, memory: Memory) -> Self {
        let state = State::Due(Instant::now());
        Self { command, backoff, state, last_pause: Duration::ZERO, memory }
    }

    /// The supervisor's end of the socket to the running worker.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Running(running) => running.socket.as_ref().map(AsFd::as_fd),
            State::Due(_) => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// It has said that it serves.
    pub(super) fn heard(&mut self) {
        if let State::Running(running) = &mut self.state {
            running.heard = Some(Instant::now());
        }
    }

    /// Until when it must have said so again.
    pub(super) fn silent_at(&self, limit: Duration) -> Option<Instant> {
        match &self.state {
            State::Running(running) => running.heard.map(|heard| heard + limit),
            State::Due(_) => None,
        }
    }

    /// When the next one is to be started.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Running(_) => None,
            State::Due(at) => Some(at),
        }
    }

    /// Starts a worker if one is due. It is told for how long none could serve.
    pub(super) fn start_if_due(&mut self, unfit: Option<Duration>) {
        if self.due().is_none_or(|at| at > Instant::now()) {
            return;
        }
        match self.spawn(unfit) {
            Ok(running) => {
                tracing::info!(pid = running.child.id(), "worker started");
                self.state = State::Running(running);
            }
            Err(error) => {
                let program = self.command.program.display().to_string();
                self.pause_after(Duration::ZERO);
                tracing::error!(program, %error, pause = ?self.last_pause, "cannot start the worker");
            }
        }
    }

    /// Notices the death of the worker; the next one is due then.
    pub(super) fn reap(&mut self) {
        let State::Running(running) = &mut self.state else { return };
        let (status, orderly) = match running.child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => (describe(status), status.success()),
            Err(error) => (format!("lost: {error}"), false),
        };
        let (pid, lived) = (running.child.id(), running.since.elapsed());
        self.pause_after(lived);
        if orderly {
            tracing::info!(pid, ?lived, "worker ended");
        } else {
            tracing::warn!(pid, ?lived, pause = ?self.last_pause, "worker died: {status}");
        }
    }

    /// Sends a signal to the worker, if there is one.
    pub(super) fn signal(&self, signal: Signal) {
        let State::Running(running) = &self.state else { return };
        // Not reaped yet, so the number is still its own.
        let pid = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
            tracing::warn!(pid = running.child.id(), ?signal, %error, "cannot signal the worker");
        }
    }

    /// Kills a worker that cannot be talked to; its death is noticed as any other.
    pub(super) fn give_up(&mut self) {
        self.signal(Signal::KILL);
        if let State::Running(running) = &mut self.state {
            running.socket = None;
        }
    }

    /// Kills the worker and waits for its end.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let State::Running(running) = &mut self.state {
            let _ = running.child.wait();
            self.pause_after(Duration::ZERO);
        }
    }

    fn spawn(&self, unfit: Option<Duration>) -> io::Result<Running> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(&self.command.program);
        for name in service_manager::VARIABLES {
            command.env_remove(name);
        }
        if let Some(unfit) = unfit {
            command.env(UNFIT_SECONDS, unfit.as_secs().to_string());
        }
        let (memory, path) = self.memory.variable();
        let child = command
            .args(&self.command.args)
            .env(SUPERVISOR_FD, "0")
            .env(memory, path)
            .stdin(Stdio::from(theirs))
            .process_group(0)
            .spawn()?;
        Ok(Running { child, socket: Some(ours), since: Instant::now(), heard: None })
    }

    fn pause_after(&mut self, lived: Duration) {
        self.last_pause = self.backoff.pause(lived, self.last_pause);
        self.state = State::Due(Instant::now() + self.last_pause);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) if status.core_dumped() => format!("signal {signal} (core dumped)"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_with_a_worker_that_lives() {
        let backoff = Backoff::default();
        let young = Duration::from_millis(10);
        let mut pause = Duration::ZERO;
        let mut seen = Vec::new();
        for _ in 0..8 {
            pause = backoff.pause(young, pause);
            seen.push(pause.as_millis());
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.pause(backoff.healthy, pause), Duration::ZERO);
    }

    #[test]
    fn the_reason_of_a_death_is_told() {
        assert_eq!(describe(ExitStatus::from_raw(2 << 8)), "exit code 2");
        assert_eq!(describe(ExitStatus::from_raw(9)), "signal 9");
        assert_eq!(describe(ExitStatus::from_raw(11 | 0x80)), "signal 11 (core dumped)");
    }
}
