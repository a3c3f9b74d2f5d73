//! What a start costs the node: CPU time and memory of its daemons, and what reading has waited for.

use std::fs;
use std::ops::Sub;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::{cpu_seconds, run};
use jaunt_tests::{Binaries, Jaunt, Node, Scratch};
use serde_json::Value;

/// Counts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// CPU time of containerd, with what it has others decompress.
    pub containerd_cpu_s: f64,
    /// CPU time of our daemon's processes.
    pub snapshotter_cpu_s: f64,
    /// The most memory that these have had resident, since they began.
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
        let processes: Vec<u32> = [Some(jaunt.pid()), jaunt.worker()].into_iter().flatten().collect();
        // A worker is the supervisor's child, but not one that it has waited for.
        let snapshotter_cpu_s = processes.iter().map(|pid| cpu(*pid)).sum::<Result<f64>>()?;
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
    use super::*;

    #[test]
    fn waiting_is_read_from_what_the_daemon_says_and_counted_from_one_look_to_the_next() {
        let said = r#"{"figures": {"misses": 7, "images": [{"stalled_ms": 1200}, {"stalled_ms": 300}]}}"#;
        assert_eq!(read_waited(said), Some((7, 1.5)));
        assert_eq!(read_waited("{}"), None);
        let look = |misses, stalled_s| Cost { misses, stalled_s, ..Cost::default() };
        assert_eq!(look(7, 1.5) - look(5, 1.0), look(2, 0.5));
    }
}
