//! The memory of a process while it works.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jaunt_tests::error::{At as _, Error, Result};

const EVERY: Duration = Duration::from_millis(10);

/// What a process holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Everything resident, files that it maps and its own program included.
    pub resident: u64,
    /// What is nobody else's and in no file.
    pub private: u64,
}

impl Memory {
    /// Of a process now: its ID, or `self`.
    pub fn of(process: &str) -> Result<Self> {
        let file = format!("/proc/{process}/status");
        let status = fs::read_to_string(&file).at(&file)?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
        };
        match (field("VmRSS:"), field("RssAnon:")) {
            (Some(resident), Some(private)) => Ok(Self { resident, private }),
            _ => Err(Error::unexpected(file, "says nothing of memory")),
        }
    }
}

/// Watches a process; tells the most it held.
#[derive(Debug)]
pub struct Watch {
    most: Arc<[AtomicU64; 2]>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins.
    pub fn on(process: u32) -> Self {
        let (most, over) =
            (Arc::new([AtomicU64::new(0), AtomicU64::new(0)]), Arc::new(AtomicBool::new(false)));
        let (noted, stop, process) = (most.clone(), over.clone(), process.to_string());
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(memory) = Memory::of(&process) {
                    noted[0].fetch_max(memory.resident, Ordering::Relaxed);
                    noted[1].fetch_max(memory.private, Ordering::Relaxed);
                }
                thread::sleep(EVERY);
            }
        });
        Self { most, over, thread: Some(thread) }
    }

    /// The most so far.
    pub fn most(&self) -> Memory {
        let [resident, private] = [0, 1].map(|at| self.most[at].load(Ordering::Relaxed));
        Memory { resident, private }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_comes_to_hold_is_seen() {
        let watch = Watch::on(std::process::id());
        let before = Memory::of("self").unwrap();
        let held = vec![1_u8; 64 << 20];
        jaunt_tests::process::wait_until("a look", Duration::from_secs(10), || {
            watch.most().private >= before.private + (48 << 20)
        })
        .unwrap();
        assert!(watch.most().resident >= before.resident && held.len() == 64 << 20);
    }
}
