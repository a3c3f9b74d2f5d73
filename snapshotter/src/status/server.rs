//! The daemon's side: one call that describes everything.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jaunt_layerfs::observed::{ImageFigures, Observed, StalledFile};
use tonic::{Request, Response, Status as Refusal};

use crate::boot::Worth;
use crate::config::OriginalsPolicy;
use crate::fallback::FallbackRecord;
use crate::labels;
use crate::metastore::{Backing, Snapshot};
use crate::originals::{ImageState, Originals};
use crate::proto::jaunt::status::v1 as api;
use crate::proto::jaunt::status::v1::status_server::Status;
use crate::snapshotter::Snapshotter;
use crate::status::health::Health;

/// Serves the state of a [`Snapshotter`], and of what it mounts.
#[derive(Clone)]
pub struct StatusService {
    /// Names, parents, reasons.
    pub snapshotter: Arc<Snapshotter>,
    /// Layers and mounts.
    pub observed: Arc<Observed>,
    /// What containerd has of the images.
    pub originals: Arc<Originals>,
    /// When it gets the rest.
    pub policy: OriginalsPolicy,
    /// The daemon itself.
    pub health: Arc<Health>,
    /// Which boot packs help.
    pub worth: Arc<Worth>,
}

#[tonic::async_trait]
impl Status for StatusService {
    async fn get(&self, _: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Refusal> {
        let all = self.snapshotter.list(&[]).map_err(|error| Refusal::internal(error.to_string()))?;
        let mut snapshots = Vec::with_capacity(all.len());
        for snapshot in &all {
            let mount = self.snapshotter.mounted(snapshot).await;
            snapshots.push(encode_snapshot(snapshot, mount.map(|path| path.display().to_string())));
        }
        let observed = self.observed.clone();
        // What is present is asked of the disk, and a file's name is looked for.
        let figures = tokio::task::spawn_blocking(move || encode_figures(&observed)).await;
        let mut figures = figures.map_err(|error| Refusal::internal(error.to_string()))?;
        figures.boot_packs_set_aside = self.worth.set_aside();
        let log = self.snapshotter.fallbacks();
        Ok(Response::new(api::GetResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            snapshots,
            fallbacks: log.recent().iter().map(encode_fallback).collect(),
            fallback_counts: log.counts().iter().map(|(code, n)| (code.as_str().to_owned(), *n)).collect(),
            figures: Some(figures),
            health: Some(self.health.told()),
            originals: Some(encode_originals(&self.originals, self.policy)),
        }))
    }
}

fn encode_snapshot(snapshot: &Snapshot, mount: Option<String>) -> api::Snapshot {
    let label = |name| snapshot.labels.get(name).cloned().unwrap_or_default();
    let (backing, index, prefix) = match snapshot.backing {
        Backing::Eager => ("eager", String::new(), 0),
        Backing::Lazy { index, prefix, .. } => ("lazy", index.to_string(), prefix.into()),
    };
    let chain_id = snapshot.lazy_chain().map(|chain| chain.chain_id.to_string());
    api::Snapshot {
        id: snapshot.id,
        name: snapshot.name.clone(),
        parent: snapshot.parent.clone().unwrap_or_default(),
        kind: snapshot.kind.as_str().to_owned(),
        backing: backing.to_owned(),
        chain_id: chain_id.unwrap_or_else(|| label(labels::TARGET)),
        image: label(labels::IMAGE_REF),
        index,
        prefix,
        mount: mount.unwrap_or_default(),
    }
}

fn encode_fallback(record: &FallbackRecord) -> api::Fallback {
    api::Fallback {
        at: unix_millis(record.at),
        code: record.fallback.code.as_str().to_owned(),
        image: record.image.clone(),
        layer: record.layer.clone(),
        detail: record.fallback.detail.clone(),
    }
}

fn encode_originals(originals: &Originals, policy: OriginalsPolicy) -> api::Originals {
    let image = |((namespace, image), state): ((String, String), ImageState)| api::OriginalsOfImage {
        namespace,
        image,
        missing_bytes: state.missing,
        brought_bytes: state.brought,
        trouble: state.trouble.unwrap_or_default(),
    };
    api::Originals {
        policy: policy.as_str().to_owned(),
        images: originals.states().into_iter().map(image).collect(),
    }
}

fn encode_figures(observed: &Observed) -> api::Figures {
    let (metrics, store) = (observed.metrics(), observed.store());
    let image = |(name, image): (String, ImageFigures)| api::ImageFigures {
        name,
        mounts: image.mounts,
        present_bytes: image.present_bytes,
        total_bytes: image.total_bytes,
        stalled_ms: millis(image.stalled),
    };
    api::Figures {
        reads: metrics.reads.get(),
        misses: metrics.misses.get(),
        failed_reads: metrics.failed_reads.get(),
        served_bytes: metrics.served_bytes.get(),
        fetches: metrics.fetches.get(),
        fetched_bytes: metrics.fetched_bytes.get(),
        decoded_bytes: metrics.decoded_bytes.get(),
        wrong_spans: metrics.wrong_spans.get(),
        store_bytes: store.bytes,
        store_cap_bytes: store.cap.unwrap_or(0),
        store_evicted_bytes: store.evicted_bytes,
        store_damaged_units: store.damaged_units,
        quarantined: store.quarantined,
        images: observed.images().into_iter().map(image).collect(),
        images_without_room: observed.images_without_room(),
        // That is the snapshotter's to know.
        boot_packs_set_aside: 0,
        stalled_files: observed.stalled_files().into_iter().map(encode_stalled).collect(),
    }
}

fn encode_stalled(file: StalledFile) -> api::StalledFile {
    let StalledFile { image, path, waited, reads } = file;
    api::StalledFile { image, path, waited_ms: millis(waited), reads }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unix_millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
