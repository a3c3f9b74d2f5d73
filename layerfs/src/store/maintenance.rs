//! Keeping the store below its cap, and making room when the disk is full.
//!
//! Least recently used first: regions of layers that somebody reads, and whole layers that nobody has open. What is used
//! right now is spared, and so is a layer that is held complete. Who holds layers that nobody uses is
//! asked to let go of as many as it takes.

use std::cmp::Reverse;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::SystemTime;

use super::layer_file::LayerFile;
use super::regions::Regions;
use super::shared::{Matter, Moment, SPARED};
use super::usage::{self, Kept};
use super::{GONE, LayerKey, Store, StoreError};

/// How much the store may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cap {
    /// Bytes on disk beyond which room is made; none: only a full disk has room made.
    pub high: Option<u64>,
    /// Bytes on disk that are left then.
    pub low: u64,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Layers, in whatever cut.
    pub layers: usize,
}

/// On a full disk, so much room is made, or a twentieth of what is there, whichever is more.
const ROOM: u64 = 64 << 20;

/// Something that can go.
struct Candidate {
    used: Moment,
    bytes: u64,
    what: What,
}

enum What {
    Region(Arc<LayerFile>, Range<usize>),
    Closed(Kept),
}

impl Store {
    /// Notes the time and when what was used, and makes room where it is needed. To be called every few seconds, by
    /// one at a time. Blocks on the disk.
    ///
    /// # Errors
    /// The store's directory cannot be looked through.
    pub fn maintain(&self, now: SystemTime) -> Result<(), StoreError> {
        self.maintain_with(now, || false)
    }

    /// The same; where too little can be taken away, `let_go` is called, as often as is needed, to let go of one thing that is held
    /// complete and need not be. It says whether there was one.
    ///
    /// # Errors
    /// As for [`maintain`](Self::maintain).
    pub fn maintain_with(&self, now: SystemTime, mut let_go: impl FnMut() -> bool) -> Result<(), StoreError> {
        let now = Moment::of(now);
        self.shared.set_now(now);
        for (_, layer) in self.opened() {
            if let Some(Err(error)) = layer.disk().map(|disk| disk.save_use()) {
                tracing::debug!(%error, "cannot note when a layer was used");
            }
        }
        let (changed, full) = (self.shared.take_changed(), self.shared.take_full());
        if !changed && !full && !self.is_over() {
            return Ok(());
        }
        let kept = self.measure()?;
        let goal = self.goal(full);
        if goal > 0 {
            let mut candidates = least_recent(self.candidates(kept), now);
            while candidates.iter().map(|candidate| candidate.bytes).sum::<u64>() < goal && let_go() {
                candidates = least_recent(self.candidates(self.measure()?), now);
            }
            self.make_room(candidates, goal);
            self.measure()?;
        }
        Ok(())
    }

    /// What it holds, as of the last maintenance that found it changed.
    pub fn usage(&self) -> StoreUsage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many more bytes find room below the cap and on the disk, without anything being taken away for them.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.is_room_below(self.cap.high, bytes)
            && rustix::fs::statvfs(&self.root).map_or(true, |disk| {
                let spare = ROOM.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 20);
                bytes.saturating_add(spare) <= disk.f_bavail.saturating_mul(disk.f_frsize)
            })
    }

    /// The same, below what making room leaves: whoever reads has the rest of the cap to fill before more is taken away.
    pub fn has_lasting_room_for(&self, bytes: u64) -> bool {
        self.is_room_below(self.cap.high.map(|_| self.cap.low), bytes) && self.has_room_for(bytes)
    }

    fn is_room_below(&self, limit: Option<u64>, bytes: u64) -> bool {
        limit.is_none_or(|limit| self.usage().bytes.saturating_add(bytes) <= limit)
    }

    /// What it may hold.
    pub fn cap(&self) -> Cap {
        self.cap
    }

    fn is_over(&self) -> bool {
        self.cap.high.is_some_and(|high| self.usage().bytes > high)
    }

    /// Bytes to be taken away.
    fn goal(&self, full: bool) -> u64 {
        let bytes = self.usage().bytes;
        let over = if self.is_over() { bytes.saturating_sub(self.cap.low) } else { 0 };
        over.max(if full { ROOM.max(bytes / 20) } else { 0 })
    }

    pub(super) fn measure(&self) -> Result<Vec<Kept>, StoreError> {
        let fail = |source| StoreError { path: self.root.clone(), what: "measure what it holds", source };
        let kept = usage::measure(&self.root).map_err(fail)?;
        let usage = StoreUsage { bytes: kept.iter().map(|kept| kept.bytes).sum(), layers: kept.len() };
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
        Ok(kept)
    }

    fn make_room(&self, candidates: Vec<Candidate>, goal: u64) {
        let mut freed = 0;
        for candidate in candidates {
            if freed >= goal {
                break;
            }
            let gone = match candidate.what {
                What::Region(layer, units) => layer.evict(units),
                What::Closed(kept) => self.remove_closed(&kept),
            };
            match gone {
                Ok(()) => freed += candidate.bytes,
                Err(error) => match self.shared.failed(Matter::Stuck, &self.root) {
                    Some(_) => tracing::warn!(%error, "parts of layers cannot be taken away"),
                    None => tracing::debug!(%error, "a part of a layer cannot be taken away"),
                },
            }
        }
        self.shared.counters.evicted_bytes.fetch_add(freed, Ordering::Relaxed);
        if freed < goal {
            // Every few seconds, for as long as it is in use.
            if self.shared.failed(Matter::Crowded, &self.root).is_some() {
                tracing::warn!(
                    freed,
                    wanted = goal,
                    "the store holds more than it should: the rest is in use"
                );
            }
        } else {
            self.shared.is_over(Matter::Crowded, &self.root);
            tracing::info!(freed, "made room in the store");
        }
    }

    fn candidates(&self, kept: Vec<Kept>) -> Vec<Candidate> {
        let opened = self.opened();
        let regions = opened.iter().flat_map(|(_, layer)| {
            let of_layer = move |present: super::eviction::Present| Candidate {
                used: present.used,
                bytes: present.bytes,
                what: What::Region(layer.clone(), present.units),
            };
            layer.evictable().into_iter().map(of_layer)
        });
        let is_open = |kept: &Kept| opened.iter().any(|(key, _)| is_of(key, kept));
        let closed = kept.into_iter().filter(|kept| !is_open(kept)).map(|kept| Candidate {
            used: Regions::last_used(&kept.path.join("used")).unwrap_or_default(),
            bytes: kept.bytes,
            what: What::Closed(kept),
        });
        regions.chain(closed).collect()
    }

    /// Removes a layer that nobody has open: out of the way at once, then file by file.
    pub(super) fn remove_closed(&self, kept: &Kept) -> io::Result<()> {
        let mut gone = kept.path.clone();
        gone.set_file_name(format!("{GONE}{}", kept.cut.display()));
        if self.delete_aside(&kept.path, &gone, |key| is_of(key, kept))? {
            // Fails, as it should, where the layer has another cut, or a new one.
            let _ = std::fs::remove_dir(kept.path.parent().unwrap_or(Path::new("")));
        }
        Ok(())
    }

    pub(super) fn opened(&self) -> Vec<(LayerKey, Arc<LayerFile>)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let strong = |(key, layer): (&LayerKey, &Weak<LayerFile>)| Some((*key, layer.upgrade()?));
        open.iter().filter_map(strong).collect()
    }
}

fn is_of(key: &LayerKey, kept: &Kept) -> bool {
    kept.diff_id == *key.diff_id.0.hex() && kept.cut == *key.cut.to_string()
}

/// The candidates in the order in which they go; what is in use now does not. A clock that was set back makes some
/// seem used in the future: they are not in use for ever.
fn least_recent(mut candidates: Vec<Candidate>, now: Moment) -> Vec<Candidate> {
    let recent = now.0.saturating_sub(SPARED);
    candidates.retain(|candidate| candidate.used.0 <= recent || candidate.used > now);
    candidates.sort_by_key(|candidate| (candidate.used.0.min(recent), Reverse(candidate.bytes)));
    candidates
}
