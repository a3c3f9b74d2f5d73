//! The daemon's side: one call that describes everything.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Request, Response, Status as Refusal};

use crate::fallback::FallbackRecord;
use crate::labels;
use crate::metastore::{Backing, Snapshot};
use crate::proto::jaunt::status::v1 as api;
use crate::proto::jaunt::status::v1::status_server::Status;
use crate::snapshotter::Snapshotter;

/// Serves the state of a [`Snapshotter`].
#[derive(Clone)]
pub struct StatusService(pub Arc<Snapshotter>);

#[tonic::async_trait]
impl Status for StatusService {
    async fn get(&self, _: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Refusal> {
        let all = self.0.list(&[]).map_err(|error| Refusal::internal(error.to_string()))?;
        let mut snapshots = Vec::with_capacity(all.len());
        for snapshot in &all {
            let mount = self.0.mounted(snapshot).await;
            snapshots.push(encode_snapshot(snapshot, mount.map(|path| path.display().to_string())));
        }
        let log = self.0.fallbacks();
        Ok(Response::new(api::GetResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            snapshots,
            fallbacks: log.recent().iter().map(encode_fallback).collect(),
            fallback_counts: log.counts().iter().map(|(code, n)| (code.as_str().to_owned(), *n)).collect(),
        }))
    }
}

fn encode_snapshot(snapshot: &Snapshot, mount: Option<String>) -> api::Snapshot {
    let label = |name| snapshot.labels.get(name).cloned().unwrap_or_default();
    let (backing, index) = match snapshot.backing {
        Backing::Eager => ("eager", String::new()),
        Backing::Lazy { index, .. } => ("lazy", index.to_string()),
    };
    api::Snapshot {
        id: snapshot.id,
        name: snapshot.name.clone(),
        parent: snapshot.parent.clone().unwrap_or_default(),
        kind: snapshot.kind.as_str().to_owned(),
        backing: backing.to_owned(),
        chain_id: label(labels::TARGET),
        image: label(labels::IMAGE_REF),
        index,
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

fn unix_millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
