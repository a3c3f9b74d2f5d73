//! How much the kernel takes in at a time while an image starts.
//!
//! Beside the page that a program asks for, the kernel reads what lies around it: on these mounts 1 MiB. A start is traced with far
//! less, so that is what a pack which was made of traces has. A larger read is for its most part not in the pack, and costs spans of
//! the layers, which such a start is to do without; and while a reader waits for those, the pack stands back for him.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jaunt_layerfs::boot::{FirstTouches, TouchLimits};
use jaunt_layerfs::fs::LayerFs;
use jaunt_layerfs::fuse::{Narrowed, ReadAhead};

use crate::config::BootConfig;

/// Read-ahead of mounts whose start is traced, or goes by what was. What the kernel reads around a fault is not what the program needs, and
/// it is pushed to the next start whether it is needed or not. So many pages are mapped at one fault in any case; with less, a start whose
/// layers are local takes a third more time.
const READ_AHEAD_KIB: u32 = 64;
/// How often it is looked whether a start is over.
const EVERY: Duration = Duration::from_secs(1);

/// When a start is over, by configuration.
pub(super) fn limits(config: &BootConfig) -> TouchLimits {
    TouchLimits {
        settled: Duration::from_secs(config.settled_seconds),
        longest: Duration::from_secs(config.longest_seconds),
    }
}

/// Has little read ahead of what is mounted at `point`. Where that cannot be done, starts are as right, and larger.
pub(super) fn narrow(point: &Path) -> Option<Narrowed> {
    let narrowed = ReadAhead::at(point).and_then(|read_ahead| read_ahead.narrow(READ_AHEAD_KIB));
    narrowed.inspect_err(|error| tracing::debug!(%error, "a start reads all that is read ahead")).ok()
}

/// The same until the first start of `fs`, which is newly mounted there, is over. To be called on a runtime.
pub(super) fn narrow_for_start(fs: &Arc<LayerFs>, point: &Path, limits: TouchLimits) {
    let Some(narrowed) = narrow(point) else { return };
    let touches = Arc::new(FirstTouches::new(limits));
    if !fs.note_first_touches(touches.clone()) {
        return;
    }
    let fs = Arc::downgrade(fs);
    tokio::spawn(async move {
        while fs.strong_count() > 0 && touches.take_over().is_none() {
            tokio::time::sleep(EVERY).await;
        }
        drop(narrowed);
    });
}
