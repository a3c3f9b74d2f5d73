//! How much the kernel takes in at a time while an image starts.
//!
//! Beside the page that a program asks for, the kernel reads what lies around it: on these mounts 1 MiB. A start is traced with far
//! less, so that is what a pack which was made of traces has. A larger read is for its most part not in the pack, and costs spans of
//! the layers, which such a start is to do without; and while a reader waits for those, the pack stands back for him.

use std::path::Path;
use std::time::Duration;

use jaunt_layerfs::boot::TouchLimits;
use jaunt_layerfs::fuse::{Narrowed, ReadAhead};

use crate::config::BootConfig;

/// Read-ahead of mounts whose start is traced, or goes by what was. What the kernel reads around a fault is not what the program needs, and
/// it is pushed to the next start whether it is needed or not. So many pages are mapped at one fault in any case; with less, a start whose
/// layers are local takes a third more time.
const READ_AHEAD_KIB: u32 = 64;

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

/// Little is read ahead on a mount because a start with a learnt pack is to come. Dropped, as much as ever is.
#[derive(Debug)]
pub struct Start {
    narrowed: Narrowed,
    lasts: Duration,
}

impl Start {
    /// One on what is mounted at `point`.
    pub(super) fn to_come(point: &Path, config: &BootConfig) -> Option<Self> {
        let TouchLimits { settled, longest } = limits(config);
        Some(Self { narrowed: narrow(point)?, lasts: longest.min(settled.saturating_mul(2)) })
    }

    /// It begins: after twice the time that a traced start may rest before it is over, as much is read ahead as ever. Files that were opened
    /// meanwhile keep to little. To be called on a runtime.
    pub fn begin(self) {
        tokio::spawn(async move {
            tokio::time::sleep(self.lasts).await;
            drop(self.narrowed);
        });
    }
}
