//! Other programs: run to their end, or kept running as daemons with a log each.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{At as _, Error, Result};

/// How long a daemon may take to end after SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Runs a command to its end and returns its standard output; a failure carries its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { command: line(command), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Failed { command: line(command), status: output.status, stderr });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `ready` says so.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > limit {
            let (what, detail) = (what.to_owned(), String::new());
            return Err(Error::Timeout { what, waited: limit, detail });
        }
        sleep(POLL);
    }
    Ok(())
}

/// The last `lines` lines of a file, or nothing.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A program that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, its output going to `<logs>/<name>.log`.
    pub fn spawn(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().append(true).create(true).open(&log).at(&log)?;
        let errors = file.try_clone().at(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|source| Error::Spawn { command: line(command), source })?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Waits until the daemon serves; tells why when it ends instead.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.exited()? {
                let stderr = tail(&self.log, 20);
                return Err(Error::Failed { command: self.name.clone(), status, stderr });
            }
            if start.elapsed() > limit {
                let what = format!("{}: {what}", self.name);
                let detail = format!("\n{}", tail(&self.log, 20));
                return Err(Error::Timeout { what, waited: limit, detail });
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().at(&self.name)
    }

    /// Its process ID; for a program started in a network namespace, the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and SIGKILL for one that does not listen. Harmless on one that ended.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while self.exited()?.is_none() {
            if start.elapsed() > STOP_GRACE {
                self.signal(Signal::KILL);
                self.child.wait().at(&self.name)?;
                return Err(Error::unexpected(&self.name, "ignored SIGTERM and was killed"));
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// SIGKILL, and wait.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL);
        self.child.wait().at(&self.name)?;
        Ok(())
    }

    /// Sends a signal, unless the process was already waited for.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal_pid(self.child.id(), signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stopping {}: {error}", self.name);
        }
    }
}

/// Sends a signal to a process the harness is responsible for; one that is gone is no error.
pub fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The direct children of a process, oldest first.
pub fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all.sort_unstable();
    all
}

/// CPU time of a live process in seconds: its own, and that of the children it has waited for.
pub fn cpu_seconds(pid: &str) -> Option<(f64, f64)> {
    /// Fields of proc(5) stat after the command's closing parenthesis, counted from 0.
    const UTIME: usize = 11;
    /// USER_HZ, the unit of those fields: 100 on every architecture Linux runs containers on.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let seconds = |field: usize| fields.get(field)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
    Some((seconds(UTIME)? + seconds(UTIME + 1)?, seconds(UTIME + 2)? + seconds(UTIME + 3)?))
}

/// A command line as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    #[test]
    fn a_failure_carries_the_command_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no\n") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_daemon_that_dies_early_says_why() {
        let scratch = Scratch::new().unwrap();
        let mut command = scratch.command("sh");
        let mut daemon =
            Daemon::spawn("brief", command.args(["-c", "echo unfit; exit 1"]), &scratch.logs()).unwrap();
        let error = daemon.wait_until("serving", Duration::from_secs(5), || false).unwrap_err().to_string();
        assert!(error.contains("unfit"), "{error}");
    }

    #[test]
    fn a_deaf_daemon_is_killed() {
        let scratch = Scratch::new().unwrap();
        let mut command = scratch.command("sleep");
        let mut daemon = Daemon::spawn("sleep", command.arg("600"), &scratch.logs()).unwrap();
        assert!(children(std::process::id()).contains(&daemon.pid()));
        daemon.kill().unwrap();
        assert!(daemon.exited().unwrap().is_some());
    }
}
