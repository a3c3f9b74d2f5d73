//! A running container, seen through `ctr run`: what it prints, when it is ready, how it ends.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::spawn;
use std::time::{Duration, Instant};

use crate::error::{At as _, Error, Result};
use crate::process::{line, run, wait_until};
use crate::scratch::Scratch;

/// How long a killed container may take to disappear.
const END_LIMIT: Duration = Duration::from_secs(30);

/// When a container counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It printed this line.
    Line(String),
    /// It printed a line with this in it.
    LineWith(String),
    /// It printed anything, or ended well without a word.
    FirstOutput,
}

/// A container; killed and removed when dropped.
#[derive(Debug)]
pub struct Container {
    id: String,
    run: Command,
    child: Child,
    kill: Command,
    lines: Receiver<(Instant, String)>,
    said: Vec<String>,
}

impl Container {
    /// An ID that no other container of this machine has.
    pub(crate) fn next_id(scratch: &Scratch) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("{}-c{}", scratch.name(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn start(id: String, mut run: Command, kill: Command) -> Result<Self> {
        let (child, lines) = spawned(&mut run)?;
        Ok(Self { id, run, child, kill, lines, said: Vec::new() })
    }

    /// Its ID in containerd.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until it is ready and tells when that was.
    pub fn wait_ready(&mut self, readiness: &Readiness, limit: Duration) -> Result<Instant> {
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok((when, line)) => {
                    let ready = match readiness {
                        Readiness::Line(wanted) => line == *wanted,
                        Readiness::LineWith(part) => line.contains(part),
                        Readiness::FirstOutput => true,
                    };
                    self.said.push(line);
                    if ready {
                        return Ok(when);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let what = format!("container {} ready", self.id);
                    return Err(Error::Timeout { what, waited: limit, detail: self.output() });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let (when, status) = (Instant::now(), self.child.wait().at(&self.id)?);
                    let quiet = *readiness == Readiness::FirstOutput && status.success();
                    return if quiet { Ok(when) } else { Err(self.failure(status)) };
                }
            }
        }
    }

    /// The next line it prints, or `None` when it has ended.
    pub fn next_line(&mut self, limit: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(limit) {
            Ok((_, line)) => {
                self.said.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let what = format!("container {} says something", self.id);
                Err(Error::Timeout { what, waited: limit, detail: self.output() })
            }
        }
    }

    /// What it has printed, as far as it was waited for.
    pub fn said(&self) -> String {
        self.said.join("\n")
    }

    /// Waits for its end and returns all that it printed; ending badly is an error.
    pub fn finish(&mut self, limit: Duration) -> Result<String> {
        let start = Instant::now();
        while self.next_line(limit.saturating_sub(start.elapsed()))?.is_some() {}
        let status = self.child.wait().at(&self.id)?;
        if status.success() { Ok(self.said.join("\n")) } else { Err(self.failure(status)) }
    }

    /// The same of one that prints something and ends at once. What such a program prints gets lost now and then between containerd's shim and
    /// its client (containerd's issue 5741), so one that ended well without a word is run once more.
    pub fn finish_saying(&mut self, limit: Duration) -> Result<String> {
        let said = self.finish(limit)?;
        if !said.is_empty() {
            return Ok(said);
        }
        eprintln!("container {} ended without a word: once more", self.id);
        (self.child, self.lines) = spawned(&mut self.run)?;
        self.finish(limit)
    }

    /// Kills and removes it; harmless on one that has ended.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait().at(&self.id)?.is_some() {
            return Ok(());
        }
        // One that is still being made cannot be killed yet.
        let mut killed = run(&mut self.kill);
        let ended = wait_until(&format!("container {} ended", self.id), END_LIMIT, || {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return true;
            }
            if killed.is_err() {
                killed = run(&mut self.kill);
            }
            false
        });
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return killed.and(ended);
        }
        Ok(())
    }

    fn failure(&self, status: ExitStatus) -> Error {
        Error::Failed { command: format!("container {}", self.id), status, stderr: self.output() }
    }

    fn output(&self) -> String {
        format!("\n{}", self.said.join("\n"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stopping container {}: {error}", self.id);
        }
    }
}

/// The program that runs a container, and what that prints.
fn spawned(run: &mut Command) -> Result<(Child, Receiver<(Instant, String)>)> {
    let spawned = run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| Error::Spawn { command: line(run), source })?;
    let (sender, lines) = channel();
    if let Some(stdout) = child.stdout.take() {
        follow(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        follow(stderr, sender);
    }
    Ok((child, lines))
}

/// Sends each line with the moment it arrived; a last line may lack its newline.
fn follow(stream: impl Read + Send + 'static, lines: Sender<(Instant, String)>) {
    spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send((Instant::now(), text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}
