//! Whether a snapshot could be recorded on the disk of the state directory.
//!
//! Invariant: however often it is asked for, and whatever the disk does, one thread at most writes. What it found is the
//! answer for a moment; a disk that does not answer is waited for once, and then said to be silent until it does.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a disk may take.
const LIMIT: Duration = Duration::from_secs(3);
/// How long an answer is good for.
const KEPT: Duration = Duration::from_secs(1);
/// The least that a disk gives.
const PAGE: usize = 4096;

/// Clones share what was found.
#[derive(Clone)]
pub(super) struct Disk {
    root: PathBuf,
    write: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
    limit: Duration,
    kept: Duration,
    last: Arc<Mutex<Option<Attempt>>>,
}

/// One attempt to write, under way or over.
#[derive(Clone)]
struct Attempt {
    begun: Instant,
    found: watch::Receiver<Option<Found>>,
}

/// What came of it.
struct Found {
    at: Instant,
    /// Why nothing can be written.
    trouble: Option<String>,
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> Self {
        let at = root.clone();
        let write = move || tempfile::tempfile_in(&at)?.write_all(&[0; PAGE]);
        Self { root, write: Arc::new(write), limit: LIMIT, kept: KEPT, last: Arc::default() }
    }

    /// Why not, if nothing can be recorded.
    pub(super) async fn trouble(&self) -> Option<String> {
        let Attempt { begun, mut found } = self.attempt();
        let root = self.root.display();
        match tokio::time::timeout_at(begun + self.limit, found.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => {
                let trouble = found.as_ref().and_then(|found| found.trouble.as_ref());
                trouble.map(|why| format!("nothing can be written to {root}: {why}"))
            }
            Ok(Err(_)) => Some(format!("nothing can be written to {root}: the attempt was given up")),
            Err(_) => Some(format!("the state directory {root} does not answer within {:?}", self.limit)),
        }
    }

    /// The one that is under way or was over a moment ago, else a new one.
    fn attempt(&self) -> Attempt {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = last.as_ref().filter(|attempt| attempt.counts(self.kept)) {
            return attempt.clone();
        }
        let (tell, found) = watch::channel(None);
        let write = Arc::clone(&self.write);
        tokio::task::spawn_blocking(move || {
            let trouble = write().err().map(|error| error.to_string());
            tell.send_replace(Some(Found { at: Instant::now(), trouble }));
        });
        last.insert(Attempt { begun: Instant::now(), found }).clone()
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Attempt {
    fn counts(&self, kept: Duration) -> bool {
        // Whoever writes tells what came of it, or is gone.
        let is_under_way = self.found.has_changed().is_ok();
        self.found.borrow().as_ref().map_or(is_under_way, |found| found.at.elapsed() < kept)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A disk that takes what it is given when it is told to, and how often it was asked to.
    fn disk(limit: Duration, kept: Duration) -> (Disk, mpsc::Sender<io::Result<()>>, Arc<AtomicUsize>) {
        let (let_on, told) = mpsc::channel();
        let (told, asked) = (Mutex::new(told), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        let write = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            told.lock().unwrap().recv().unwrap()
        };
        let disk = Disk { write: Arc::new(write), limit, kept, ..Disk::new("/state".into()) };
        (disk, let_on, asked)
    }

    #[tokio::test]
    async fn a_disk_that_hangs_costs_one_thread_however_often_it_is_asked_for() {
        let (disk, let_on, asked) = disk(Duration::from_millis(20), LONG);
        for _ in 0..100 {
            let why = disk.trouble().await.unwrap();
            assert_eq!(why, "the state directory /state does not answer within 20ms");
        }
        assert!(asked.load(Ordering::SeqCst) <= 1);
        let_on.send(Ok(())).unwrap();
        let mut attempt = disk.attempt();
        attempt.found.wait_for(Option::is_some).await.unwrap();
        assert_eq!(disk.trouble().await, None, "it answers again");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_was_found_is_the_answer_for_a_moment() {
        let (kept, let_on, asked) = disk(LONG, LONG);
        let_on.send(Err(io::Error::other("no room"))).unwrap();
        let both = tokio::join!(kept.trouble(), kept.trouble());
        let why = Some("nothing can be written to /state: no room".to_owned());
        assert_eq!((both.0, both.1, kept.trouble().await), (why.clone(), why.clone(), why));
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        let (fresh, let_on, asked) = disk(LONG, Duration::ZERO);
        for n in 1..4 {
            let_on.send(Ok(())).unwrap();
            assert_eq!((fresh.trouble().await, asked.load(Ordering::SeqCst)), (None, n));
        }
    }

    #[tokio::test]
    async fn a_directory_is_written_to_and_one_that_is_gone_is_not() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Disk::new(root.path().to_owned()).trouble().await, None);
        let gone = Disk::new(root.path().join("gone"));
        assert!(gone.trouble().await.unwrap().starts_with("nothing can be written to "));
    }

    #[tokio::test]
    async fn an_attempt_that_broke_off_is_made_anew() {
        let (disk, let_on, asked) = disk(LONG, LONG);
        // The writer panics.
        drop(let_on);
        for n in 1..3 {
            assert!(disk.trouble().await.unwrap().contains("given up"));
            assert_eq!(asked.load(Ordering::SeqCst), n);
        }
    }
}
