//! The scrub: what the kernel reads of complete layers by itself is compared with what was written, slowly and for ever.
//!
//! A thread of low priority takes one layer after the other, a mebibyte at a time, with a pause after each. It keeps no layer
//! open: one that goes out of use is left where it is.

use std::num::NonZeroU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Store;

/// Time between two looks for layers that are due.
const LOOK: Duration = Duration::from_secs(1);
const NICE: i32 = 15;

/// How it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Bytes a second that are read.
    pub rate: NonZeroU64,
    /// How long a layer is left alone once all of it was looked at.
    pub interval: Duration,
}

/// Looks at the layers of a store, for as long as it lives.
pub struct Scrub {
    /// Closed, it ends the thread.
    _stop: Sender<()>,
}

impl Scrub {
    /// Begins.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(store: &Arc<Store>, settings: ScrubSettings) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let store = Arc::downgrade(store);
        let run = move || {
            // Linux has it for each thread. Where it is not allowed, the pauses have to do.
            let _ = rustix::process::setpriority_process(None, NICE);
            scrub(&store, settings, &stopped);
        };
        std::thread::Builder::new().name("jaunt-scrub".to_owned()).spawn(run)?;
        Ok(Self { _stop: stop })
    }
}

fn scrub(store: &Weak<Store>, settings: ScrubSettings, stopped: &Receiver<()>) {
    let stops_within = |pause| stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
    while !stops_within(LOOK) {
        let Some(due) = store.upgrade().map(|store| store.due(settings.interval)) else { return };
        for mut layer in due {
            while let Some(bytes) = layer.go_on() {
                if stops_within(Duration::from_secs_f64(bytes as f64 / settings.rate.get() as f64)) {
                    return;
                }
            }
        }
    }
}
