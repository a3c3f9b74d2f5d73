//! What a start costs the node: CPU time and memory of its daemons, and what reading has waited for.
//!
//! Our daemon is a supervisor, the worker below it, and below that a process for each mount that pages are pushed into, which lives as long as that takes.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::{children, cpu_seconds, run};
use jaunt_tests::{Binaries, Jaunt, Node, Scratch};
use serde_json::Value;

/// A process that pushes lives for some tens of milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Counts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// CPU time of containerd, with what it has others decompress.
    pub containerd_cpu_s: f64,
    /// CPU time of our daemon's processes, those that have ended included.
    pub snapshotter_cpu_s: f64,
    /// The most memory that those that live have had resident, since they began.
    pub snapshotter_peak_bytes: u64,
    /// Reads that waited for something to be fetched.
    pub misses: u64,
    /// How long they waited; readers that wait at once count each.
    pub stalled_s: f64,
}

impl Cost {
    /// Of a node until now.
    pub fn of(scratch: &Scratch, binaries: &Binaries, node: &Node<'_>) -> Result<Self> {
        let containerd_cpu_s = cpu(node.containerd.pid())?;
        let Some(jaunt) = &node.jaunt else { return Ok(Self { containerd_cpu_s, ..Self::default() }) };
        let (misses, stalled_s) = waited(scratch, binaries, jaunt)?;
        let processes = family(jaunt.pid());
        // A worker is the supervisor's child, but not one that it has waited for. Whoever has ended meanwhile is counted to its parent.
        let snapshotter_cpu_s = processes.iter().filter_map(|pid| cpu(*pid).ok()).sum();
        let snapshotter_peak_bytes = processes.iter().filter_map(|pid| peak(*pid)).sum();
        Ok(Self { containerd_cpu_s, snapshotter_cpu_s, snapshotter_peak_bytes, misses, stalled_s })
    }
}

/// What came after an earlier count; memory as it is.
impl Sub for Cost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            containerd_cpu_s: self.containerd_cpu_s - earlier.containerd_cpu_s,
            snapshotter_cpu_s: self.snapshotter_cpu_s - earlier.snapshotter_cpu_s,
            misses: self.misses.saturating_sub(earlier.misses),
            stalled_s: self.stalled_s - earlier.stalled_s,
            ..self
        }
    }
}

/// Does the work, and tells the most memory that processes which push had resident meanwhile: looking is no part of what is measured.
pub fn watched<T>(jaunt: &Jaunt, work: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let peaks = scope.spawn(|| {
            let mut peaks = BTreeMap::<u32, u64>::new();
            while !done.load(Ordering::Relaxed) {
                for pid in jaunt.worker().into_iter().flat_map(children).filter(|pid| pushes(*pid)) {
                    let most = peaks.entry(pid).or_default();
                    *most = peak(pid).unwrap_or(0).max(*most);
                }
                thread::sleep(LOOK_EVERY);
            }
            peaks.values().sum()
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, peaks.join().unwrap_or(0))
    })
}

/// Whether a process is one that pushes. Until it is, its memory is its parent's.
fn pushes(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"push")
}

/// A process, and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        all.extend(children(pid));
        next += 1;
    }
    all
}

fn cpu(pid: u32) -> Result<f64> {
    let (own, children) = cpu_seconds(&pid.to_string())
        .ok_or_else(|| Error::unexpected(format!("process {pid}"), "has ended"))?;
    Ok(own + children)
}

fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// How many reads have waited, and for how many seconds.
fn waited(scratch: &Scratch, binaries: &Binaries, jaunt: &Jaunt) -> Result<(u64, f64)> {
    let said = run(binaries.snapshotter(scratch, &["status", "--json", "--socket"]).arg(jaunt.socket()))?;
    read_waited(&said).ok_or_else(|| Error::unexpected("jaunt-snapshotter status --json", said))
}

fn read_waited(said: &str) -> Option<(u64, f64)> {
    let status: Value = serde_json::from_str(said).ok()?;
    let figures = &status["figures"];
    let images = figures["images"].as_array()?.iter();
    let stalled_ms = images.map(|image| image["stalled_ms"].as_u64()).sum::<Option<u64>>()?;
    Some((figures["misses"].as_u64()?, stalled_ms as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use jaunt_tests::process::{Daemon, signal_pid, wait_until};
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn waiting_is_read_from_what_the_daemon_says_and_counted_from_one_look_to_the_next() {
        let said = r#"{"figures": {"misses": 7, "images": [{"stalled_ms": 1200}, {"stalled_ms": 300}]}}"#;
        assert_eq!(read_waited(said), Some((7, 1.5)));
        assert_eq!(read_waited("{}"), None);
        let look = |misses, stalled_s| Cost { misses, stalled_s, ..Cost::default() };
        assert_eq!(look(7, 1.5) - look(5, 1.0), look(2, 0.5));
    }

    #[test]
    fn a_family_is_a_process_and_all_below_it() {
        let scratch = Scratch::new().unwrap();
        let mut command = scratch.command("sh");
        command.args(["-c", "sh -c 'sleep 600; true' & sleep 600; true"]);
        let daemon = Daemon::spawn("family", &mut command, &scratch.logs()).unwrap();
        wait_until("two shells and two sleeps", Duration::from_secs(20), || family(daemon.pid()).len() == 4)
            .unwrap();
        assert_eq!(family(daemon.pid())[0], daemon.pid());
        assert!(peak(daemon.pid()).unwrap() > 0);
        family(daemon.pid()).into_iter().for_each(|pid| signal_pid(pid, Signal::KILL));
    }
}
