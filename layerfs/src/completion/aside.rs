//! Long work on a thread of its own, which yields to everything else on the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How the work learns that nobody waits for it any more.
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// Whether somebody still waits.
    pub(super) fn is_so(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nice by so much: half the weight of what serves readers would still be too much.
const NICE: i32 = 15;

/// Runs the work; `None` if no thread can be had, or it panicked. Dropping the future tells the work to stop.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce(&Wanted) -> T + Send + 'static) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let stopped = Arc::new(AtomicBool::new(false));
    let wanted = Wanted(stopped.clone());
    let _stop = StopOnDrop(stopped);
    let run = move || {
        // Linux has it for each thread. Where it is not allowed, the work is as important as other threads'.
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = tell.send(work(&wanted));
    };
    let thread = std::thread::Builder::new().name("jaunt-complete".to_owned()).spawn(run);
    thread.inspect_err(|error| tracing::warn!(%error, "no thread for a check")).ok()?;
    told.await.ok()
}
