//! How the daemon itself is.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::mountinfo;
use crate::proto::jaunt::status::v1 as api;

/// In the run directory: which supervisor, since when, and how many workers it has had.
const WORKERS: &str = "workers";

/// A worker's own account.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    run_dir: PathBuf,
    workers: Workers,
    image_calls: Mutex<String>,
}

/// A supervisor's workers so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Workers {
    supervisor: u32,
    began_ms: u64,
    count: u64,
}

impl Health {
    /// Of a worker that begins now. It counts itself among those of its supervisor.
    pub fn begin(run_dir: &Path) -> Self {
        let supervisor = std::os::unix::process::parent_id();
        let path = run_dir.join(WORKERS);
        let before = std::fs::read_to_string(&path).ok().and_then(|text| Workers::parse(&text));
        let workers = Workers::with_one_more(before, supervisor, unix_millis(SystemTime::now()));
        let Workers { supervisor, began_ms, count } = workers;
        if let Err(error) = std::fs::write(&path, format!("{supervisor} {began_ms} {count}\n")) {
            tracing::warn!(path = %path.display(), %error, "cannot count the worker");
        }
        Self { began: Instant::now(), run_dir: run_dir.to_owned(), workers, image_calls: Mutex::default() }
    }

    /// Why the kubelet's image calls are not taken; empty, if they are.
    pub fn image_calls_trouble(&self) -> String {
        self.image_calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells that, from now on. Whether it is news.
    pub fn note_image_calls(&self, trouble: &str) -> bool {
        let mut known = self.image_calls.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != trouble;
        trouble.clone_into(&mut known);
        is_news
    }

    /// As of now.
    pub fn told(&self) -> api::Health {
        let since = unix_millis(SystemTime::now()).saturating_sub(self.workers.began_ms);
        let mounts = mountinfo::below(&self.run_dir).unwrap_or_default();
        let fuse = mounts.iter().filter(|mount| mount.is_ours()).count() as u64;
        api::Health {
            pid: std::process::id(),
            supervisor_pid: self.workers.supervisor,
            uptime_ms: since,
            worker_uptime_ms: millis(self.began.elapsed()),
            worker_restarts: self.workers.count - 1,
            fuse_mounts: fuse,
            erofs_mounts: mounts.len() as u64 - fuse,
            kernel: kernel(),
            image_calls_trouble: self.image_calls_trouble(),
        }
    }
}

impl Workers {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace();
        let workers = Self {
            supervisor: numbers.next()?.parse().ok()?,
            began_ms: numbers.next()?.parse().ok()?,
            count: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(workers)
    }

    fn with_one_more(before: Option<Self>, supervisor: u32, now_ms: u64) -> Self {
        match before.filter(|before| before.supervisor == supervisor) {
            Some(before) => Self { count: before.count.saturating_add(1), ..before },
            None => Self { supervisor, began_ms: now_ms, count: 1 },
        }
    }
}

fn kernel() -> String {
    crate::kernel::release()
}

fn unix_millis(at: SystemTime) -> u64 {
    millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_counted_by_supervisor() {
        let first = Workers::with_one_more(None, 7, 1000);
        let second = Workers::with_one_more(Some(first), 7, 2000);
        assert_eq!((second.count, second.began_ms), (2, 1000));
        assert_eq!(Workers::with_one_more(Some(second), 8, 3000).count, 1);
        assert_eq!(Workers::parse("7 1000 2\n"), Some(second));
        assert!(["", "7 1000", "7 1000 2 3", "x 1 1"].iter().all(|bad| Workers::parse(bad).is_none()));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Health::begin(dir.path()).told().worker_restarts, 0);
        assert_eq!(Health::begin(dir.path()).told().worker_restarts, 1);
    }
}
