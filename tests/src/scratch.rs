//! A directory for everything a test or demo makes, and the certainty that all of it goes again.
//!
//! Invariant: whatever lives below [`Scratch::path`], carries the environment variable
//! `JAUNT_SCRATCH=<path>`, or is the network namespace called [`Scratch::name`], disappears when the
//! `Scratch` is dropped **or the process dies in any way**. One piece of code does it in all cases:
//! `reaper.sh`, a process of its own in a session of its own, which waits for the end of a pipe whose
//! other end only the owner holds. A scratch whose reaper was killed as well is swept by the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{At as _, Error, Result};

const REAPER: &str = include_str!("reaper.sh");

/// Names every process the harness starts; its value is the scratch directory.
const MARK: &str = "JAUNT_SCRATCH";

/// Reapers of this process's live scratch directories, by directory.
static REAPERS: Mutex<BTreeMap<PathBuf, Child>> = Mutex::new(BTreeMap::new());
static ABANDONED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A scratch directory; dropping it removes everything in it and of it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    name: String,
    /// Whether its programs run in the network namespace of its name.
    inside: bool,
}

impl Scratch {
    /// A fresh directory below the system's temporary one (short: sockets have 108 bytes for a path).
    pub fn new() -> Result<Self> {
        sweep();
        loop {
            let name = format!("jaunt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(&name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.at(&path)?,
            }
            let reaper = start_reaper(&path)?;
            REAPERS.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), reaper);
            let scratch = Self { path, name, inside: false };
            fs::create_dir(scratch.logs()).at(scratch.logs())?;
            return Ok(scratch);
        }
    }

    /// The same as a machine of its own: all its programs run in the network namespace of its [name](Scratch::name), which
    /// must be there by then.
    #[must_use]
    pub fn inside(mut self) -> Self {
        self.inside = true;
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's own name, unique on the machine: also that of its network namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where daemons write what they say.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// A directory below this one, made if it is missing.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path.join(name);
        fs::create_dir_all(&dir).at(&dir)?;
        Ok(dir)
    }

    /// A command whose process, and whatever that starts, will not outlive this scratch.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        park_if_abandoned();
        let mut command = match self.inside {
            // Not `ip netns exec`, which would give it a copy of all mounts: those of others would stay in use as long as it runs.
            true => Command::new("nsenter"),
            false => Command::new(program.as_ref()),
        };
        if self.inside {
            command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        }
        command.env(MARK, &self.path).stdin(Stdio::null());
        command
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        park_if_abandoned();
        if std::thread::panicking() {
            show_logs(&self.logs());
        }
        let reaper = REAPERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
        if let Some(reaper) = reaper {
            finish(reaper);
        }
    }
}

/// Removes every scratch of this process, waits until that is done, and ends it: for signal handlers
/// (on a thread of their own). Threads that go on using a scratch meanwhile are put to sleep.
pub fn abandon_all(exit_code: i32) -> ! {
    ABANDONED.store(true, Ordering::SeqCst);
    let reapers = std::mem::take(&mut *REAPERS.lock().unwrap_or_else(PoisonError::into_inner));
    reapers.into_values().for_each(finish);
    std::process::exit(exit_code)
}

fn park_if_abandoned() {
    while ABANDONED.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The reaper reads until we close our end, or die.
fn start_reaper(dir: &Path) -> Result<Child> {
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", REAPER, "reaper.sh"]).arg(dir).env_remove(MARK);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().map_err(|source| Error::Spawn { command: "setsid sh reaper.sh".to_owned(), source })
}

fn finish(mut reaper: Child) {
    drop(reaper.stdin.take());
    if let Err(error) = reaper.wait() {
        eprintln!("waiting for the reaper: {error}");
    }
}

/// Removes what processes left whose reaper was killed too.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = owner(&name) else { continue };
        if !Path::new("/proc").join(pid).exists()
            && let Ok(reaper) = start_reaper(&entry.path())
        {
            eprintln!("removing what an earlier run left in {}", entry.path().display());
            finish(reaper);
        }
    }
}

/// The process ID in a scratch's name, `jaunt-<pid>-<n>`.
fn owner(name: &str) -> Option<&str> {
    let (pid, n) = name.strip_prefix("jaunt-")?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(pid) && digits(n)).then_some(pid)
}

/// A failed test's daemons have their say.
fn show_logs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let tail = crate::process::tail(&entry.path(), 40);
        if !tail.is_empty() {
            eprintln!("---- {}\n{tail}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scratch_names_have_an_owner() {
        assert_eq!(owner("jaunt-12-3"), Some("12"));
        for other in ["jaunt-12", "jaunt-x-1", "jaunt-1-", "other-1-2", "jaunt--1", "jaunt-1-2-3"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn processes_and_files_go_with_their_scratch() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        let mut child = scratch.command("sleep").arg("600").spawn().unwrap();
        drop(scratch);
        assert!(!child.wait().unwrap().success());
        assert!(!path.exists());
    }
}
