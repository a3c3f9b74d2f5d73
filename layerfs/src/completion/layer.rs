//! One layer: filled, checked, marked.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::aside::{Wanted, aside};
use super::check::{self, Fault};
use super::trouble::{Stop, Trouble};
use crate::class::Class;
use crate::fetch::{Beside, Fetcher};
use crate::layer::{Handle, Layer, OriginalError};
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

    /// Bytes that are not here.
    pub(super) fn missing_bytes(&self) -> u64 {
        let file = self.fetcher.file();
        file.total_bytes().saturating_sub(file.present_bytes())
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
    /// Makes a layer complete.
    pub(super) async fn layer(&self, target: &Target) -> Result<(), Stop> {
        for _ in 0..ROUNDS {
            if target.fetcher.file().is_complete() {
                return Ok(());
            }
            if !target.fetcher.layer.covers_tar() {
                self.fill_gaps(target).await?;
            }
            self.fill(target).await?;
            match self.check(target).await? {
                Ok(()) => {
                    self.counters.complete_layers.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(diff_id = %target.fetcher.layer.diff_id, "a layer is complete");
                    return Ok(());
                }
                Err(Fault::Differs(why)) => self.condemn(target, &why)?,
                Err(Fault::Missing) => {}
                Err(Fault::Stopped) => return Err(Stop::Unneeded),
            }
        }
        Err(Trouble::NotKept.into())
    }

    /// Has all of a layer that no span covers, and whatever is missing else: the layer is streamed whole, since there is no
    /// other way to these bytes.
    async fn fill_gaps(&self, target: &Target) -> Result<(), Stop> {
        let fetcher = target.fetcher.clone();
        let has_rest = move |_: &Wanted| fetcher.file().rest(&fetcher.layer).is_some();
        if aside(has_rest).await.ok_or(Trouble::Thread)? {
            return Ok(());
        }
        let layer = &target.fetcher.layer;
        // The tar is aside until it is kept.
        let missing = layer.tar_len.saturating_add(target.missing_bytes());
        if !self.store.has_room_for(missing) {
            return Err(Trouble::NoRoom(missing).into());
        }
        let tar = match target.fetcher.whole_tar().await {
            Err(OriginalError::Unneeded) if !target.is_needed() => return Err(Stop::Unneeded),
            tar => tar.map_err(Trouble::Whole)?,
        };
        self.counters.filled_bytes.fetch_add(layer.original.len, Ordering::Relaxed);
        let fetcher = target.fetcher.clone();
        let kept = aside(move |_| -> Result<(), Trouble> {
            let (layer, file) = (&fetcher.layer, fetcher.file());
            for (_, span) in layer.spans.iter().enumerate().filter(|(at, _)| !fetcher.is_local(*at)) {
                tar.span(span).and_then(|bytes| file.keep_original(&bytes)).map_err(Trouble::Keep)?;
            }
            Ok(file.keep_rest(layer, |range| tar.read(range))?)
        });
        Ok(kept.await.ok_or(Trouble::Thread)??)
    }

    async fn fill(&self, target: &Target) -> Result<(), Stop> {
        let missing = target.missing_bytes();
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
            let landed = target.fetcher.want(run.clone(), Class::Background, Beside::Nothing, deadline).await;
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
