//! One layer: filled, checked, marked.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::aside::aside;
use super::check::{self, Fault};
use super::trouble::{Stop, Trouble};
use crate::class::Class;
use crate::fetch::Fetcher;
use crate::layer::{Handle, Layer};
use crate::spans;

/// How long one request may meet with trouble before all of it is put off: no request holds its place for ever.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a layer is filled anew because parts of it were lost, or its blob went into quarantine, before it is put off.
const ROUNDS: usize = 3;

/// A layer that is to be completed. Does not keep it mounted.
pub(super) struct Target {
    handle: Weak<Handle>,
    pub(super) fetcher: Arc<Fetcher>,
}

impl Target {
    pub(super) fn new(layer: &Layer) -> Self {
        Self { handle: Arc::downgrade(&layer.0), fetcher: layer.fetcher().clone() }
    }

    /// Whether somebody has it mounted.
    pub(super) fn is_needed(&self) -> bool {
        self.handle.strong_count() > 0
    }

    /// The next run of missing spans that is one request.
    fn missing(&self, from: usize) -> Option<Range<usize>> {
        let count = self.fetcher.layer.spans.len();
        let first = (from..count).find(|&span| !self.fetcher.is_local(span))?;
        let end = (first..count).find(|&span| self.fetcher.is_local(span)).unwrap_or(count);
        Some(spans::one_request(&self.fetcher.layer, &(first..end)))
    }
}

impl Shared {
    /// Makes a layer complete. `false`: all of it is here, and it cannot be told whether it is the layer.
    pub(super) async fn layer(&self, target: &Target) -> Result<bool, Stop> {
        for _ in 0..ROUNDS {
            if target.fetcher.file().is_complete() {
                return Ok(true);
            }
            self.fill(target).await?;
            if !target.fetcher.layer.covers_tar() {
                return Ok(false);
            }
            match self.check(target).await? {
                Ok(()) => {
                    self.counters.complete_layers.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(diff_id = %target.fetcher.layer.diff_id, "a layer is complete");
                    return Ok(true);
                }
                Err(Fault::Differs(why)) => self.condemn(target, &why)?,
                Err(Fault::Missing) => {}
                Err(Fault::Stopped) => return Err(Stop::Unneeded),
            }
        }
        Err(Trouble::NotKept.into())
    }

    async fn fill(&self, target: &Target) -> Result<(), Stop> {
        let file = target.fetcher.file();
        let missing = file.total_bytes().saturating_sub(file.present_bytes());
        if !self.store.has_room_for(missing) {
            return Err(Trouble::NoRoom(missing).into());
        }
        let mut from = 0;
        while let Some(run) = target.missing(from) {
            let bytes =
                spans::blob_range(&target.fetcher.layer, &run).map_or(0, |range| range.end - range.start);
            target.fetcher.node.background.take(bytes).await;
            if !target.is_needed() {
                return Err(Stop::Unneeded);
            }
            let deadline = Some(Instant::now() + PATIENCE);
            let landed = target.fetcher.want(run.clone(), Class::Background, deadline).await;
            match landed {
                Err(_) if !target.is_needed() => return Err(Stop::Unneeded),
                landed => drop(landed?),
            }
            self.counters.filled_bytes.fetch_add(bytes, Ordering::Relaxed);
            if !run.clone().all(|span| target.fetcher.is_local(span)) {
                return Err(Trouble::NotKept.into());
            }
            from = run.end;
        }
        Ok(())
    }

    /// Reads all of it, and marks it if it is the layer.
    async fn check(&self, target: &Target) -> Result<Result<(), Fault>, Stop> {
        let (fetcher, handle) = (target.fetcher.clone(), target.handle.clone());
        let checked = aside(move |wanted| {
            let (file, layer) = (fetcher.file(), &fetcher.layer);
            match check::tar(file, layer, &|| wanted.is_so() && handle.strong_count() > 0) {
                Ok(()) => file.mark_complete().map(Ok),
                Err(fault) => Ok(Err(fault)),
            }
        });
        Ok(checked.await.ok_or(Trouble::Thread)??)
    }

    fn condemn(&self, target: &Target, why: &str) -> Result<(), Stop> {
        let (file, layer) = (target.fetcher.file(), &target.fetcher.layer);
        let (diff_id, blob) = (&layer.diff_id, &layer.converted.digest);
        if file.quarantined().is_none() {
            self.counters.quarantined.fetch_add(1, Ordering::Relaxed);
        }
        tracing::error!(%diff_id, %blob, why, "a converted layer is not what it claims to be: it is in quarantine from now on");
        Ok(file.quarantine(why)?)
    }
}
