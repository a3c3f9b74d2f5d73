//! What the layers of one store share: its clock, and what it is told of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{fmt, io};

use tokio::sync::watch;

use super::verdicts::Verdicts;
use crate::trouble_log::{Say, TroubleLog};

/// What happened in the store since the process started.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Units whose bytes on disk were not what had been written.
    pub damaged_units: AtomicU64,
    /// Bytes that arrived and could not be kept.
    pub unkept_bytes: AtomicU64,
    /// Bytes of complete layers that were compared with what had been written, though nobody read them.
    pub scrubbed_bytes: AtomicU64,
    /// Bytes that were taken away to make room.
    pub evicted_bytes: AtomicU64,
}

/// What was used within so many seconds is not taken away.
pub(super) const SPARED: u32 = 10;

/// Seconds since 1970: exact enough to tell what was used long ago, until 2106.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub u32);

impl Moment {
    pub(super) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }
}

pub(super) struct Shared {
    pub counters: StoreCounters,
    pub verdicts: Verdicts,
    /// How often something of a layer was found not to be what it must be.
    pub spoilt: watch::Sender<u64>,
    now: AtomicU32,
    changed: AtomicBool,
    full: AtomicBool,
    troubles: TroubleLog<(Matter, PathBuf)>,
}

/// What of a store or a layer may fail again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    /// Room cannot be made.
    Crowded,
    /// A part of a layer cannot be taken away.
    Stuck,
    /// Bytes on disk are damaged.
    Damage,
    /// That cannot be noted.
    Unnoted,
}

impl Shared {
    pub(super) fn new(verdicts: Verdicts) -> Self {
        let (counters, now) = (StoreCounters::default(), AtomicU32::default());
        let (changed, full) = (AtomicBool::default(), AtomicBool::default());
        let spoilt = watch::Sender::default();
        Self { counters, verdicts, spoilt, now, changed, full, troubles: TroubleLog::default() }
    }

    /// Notes that something fails; what is to be told of it, if anything.
    pub(super) fn failed(&self, matter: Matter, what: &Path) -> Option<Say> {
        self.troubles.failed((matter, what.to_owned()), Instant::now())
    }

    /// Notes that it does not, and tells whether it did.
    pub(super) fn is_over(&self, matter: Matter, what: &Path) -> bool {
        self.troubles.succeeded(&(matter, what.to_owned()), Instant::now()).is_some()
    }

    /// The time as of the last maintenance.
    pub(super) fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::Relaxed))
    }

    pub(super) fn set_now(&self, now: Moment) {
        self.now.store(now.0, Ordering::Relaxed);
    }

    /// What the store occupies has changed.
    pub(super) fn note_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Something was kept, or could not be.
    pub(super) fn note_kept(&self, len: u64, kept: &io::Result<()>) {
        match kept {
            Ok(()) => self.note_changed(),
            Err(error) => {
                self.counters.unkept_bytes.fetch_add(len, Ordering::Relaxed);
                self.note_refused(error);
            }
        }
    }

    /// The disk would not take something.
    pub(super) fn note_refused(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// Whether what it occupies changed since this was last asked.
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// Whether the disk was full since this was last asked.
    pub(super) fn take_full(&self) -> bool {
        self.full.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counters.fmt(f)
    }
}
