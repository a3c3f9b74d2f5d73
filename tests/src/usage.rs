//! What a program cost: wall time, CPU time and memory, as the kernel counted them (wait4).
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{At as _, Error, Result};
use crate::process::line;

/// The cost of a program that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// From its start to its end.
    pub wall_s: f64,
    /// On all processors, for itself and in the kernel, with the children it has waited for.
    pub cpu_s: f64,
    /// The most memory it had at a time.
    pub max_rss_bytes: u64,
}

impl Usage {
    /// The cost of both, one after the other.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            wall_s: self.wall_s + next.wall_s,
            cpu_s: self.cpu_s + next.cpu_s,
            max_rss_bytes: self.max_rss_bytes.max(next.max_rss_bytes),
        }
    }
}

/// Runs a command to its end; what it cost, and what it wrote if `output` is a pipe. A failure carries its
/// standard error.
pub fn measure(command: &mut Command, output: Stdio) -> Result<(String, Usage)> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Spawn { command: line(command), source })?;
    let mut stderr = child.stderr.take();
    let errors = std::thread::spawn(move || text(stderr.as_mut()));
    let said = text(child.stdout.as_mut()).at(line(command))?;
    let (status, usage) = wait(&child).at(line(command))?;
    let usage = Usage { wall_s: start.elapsed().as_secs_f64(), ..usage };
    let stderr = errors.join().map_or_else(|_| Ok(String::new()), |text| text.at(line(command)))?;
    if !status.success() {
        return Err(Error::Failed { command: line(command), status, stderr });
    }
    Ok((said, usage))
}

fn text(stream: Option<&mut impl io::Read>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reaps a child. `Child` must not be waited for afterwards.
fn wait(child: &Child) -> io::Result<(ExitStatus, Usage)> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        let mut status = 0;
        // SAFETY: an all-zero rusage is a valid one: it consists of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values of the types that wait4 writes.
        let reaped = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if reaped == pid {
            let cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
            // Linux counts it in KiB.
            let max_rss_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10;
            let usage = Usage { wall_s: 0.0, cpu_s: cpu.as_secs_f64(), max_rss_bytes };
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn seconds(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_wrote_and_took_is_told() {
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo done";
        let (said, usage) = measure(Command::new("sh").args(["-c", script]), Stdio::piped()).unwrap();
        assert_eq!(said, "done\n");
        assert!(usage.cpu_s > 0.0 && usage.wall_s > 0.0 && usage.max_rss_bytes > 100_000, "{usage:?}");
    }

    #[test]
    fn a_failure_says_why() {
        let error =
            measure(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), Stdio::null()).unwrap_err();
        assert!(error.to_string().contains("no\n"), "{error}");
    }
}
