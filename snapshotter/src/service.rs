//! The snapshots service: decode, one call, encode.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

use crate::fallback::error_chain;
use crate::lazy::LazyError;
use crate::metastore::{self, Kind, Labels, Snapshot};
use crate::proto::containerd::services::snapshots::v1 as api;
use crate::proto::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use crate::proto::containerd::types;
use crate::snapshotter::{Error, Mount, Snapshotter};

/// Records in one message of a List: what containerd's own service sends.
const LIST_BATCH: usize = 100;

/// Characters of a message, each up to twelve bytes on the wire: a caller's own absurd key, repeated, must not be longer
/// than the 16 KiB that clients take for the headers of an answer, or they would miss its code.
const MESSAGE_CHARS: usize = 1024;

/// Serves a [`Snapshotter`].
#[derive(Clone)]
pub struct SnapshotsService(pub Arc<Snapshotter>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Reply<api::PrepareSnapshotResponse> {
        let api::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.0.prepare(key.clone(), named(parent), ordered(labels)).await;
        let mounts = encode_mounts(mounts.map_err(|error| failed("Prepare", &key, &error))?);
        Ok(Response::new(api::PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, request: Request<api::ViewSnapshotRequest>) -> Reply<api::ViewSnapshotResponse> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.0.view(key.clone(), named(parent), ordered(labels)).await;
        let mounts = encode_mounts(mounts.map_err(|error| failed("View", &key, &error))?);
        Ok(Response::new(api::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<api::MountsRequest>) -> Reply<api::MountsResponse> {
        let key = request.into_inner().key;
        let mounts = self.0.mounts(&key).await.map_err(|error| failed("Mounts", &key, &error))?;
        Ok(Response::new(api::MountsResponse { mounts: encode_mounts(mounts) }))
    }

    async fn commit(&self, request: Request<api::CommitSnapshotRequest>) -> Reply<()> {
        let api::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let committed = self.0.commit(name, key.clone(), named(parent), ordered(labels)).await;
        committed.map(Response::new).map_err(|error| failed("Commit", &key, &error))
    }

    async fn remove(&self, request: Request<api::RemoveSnapshotRequest>) -> Reply<()> {
        let key = request.into_inner().key;
        self.0.remove(key.clone()).await.map(Response::new).map_err(|error| failed("Remove", &key, &error))
    }

    async fn stat(&self, request: Request<api::StatSnapshotRequest>) -> Reply<api::StatSnapshotResponse> {
        let key = request.into_inner().key;
        let snapshot = self.0.stat(&key).map_err(|error| failed("Stat", &key, &error))?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(encode_info(&snapshot)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Reply<api::UpdateSnapshotResponse> {
        let api::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("Update names no snapshot"))?;
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let updated = self.0.update(info.name.clone(), ordered(info.labels), paths).await;
        let updated = updated.map_err(|error| failed("Update", &info.name, &error))?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(encode_info(&updated)) }))
    }

    type ListStream = BoxStream<'static, Result<api::ListSnapshotsResponse, Status>>;

    async fn list(&self, request: Request<api::ListSnapshotsRequest>) -> Reply<Self::ListStream> {
        let filters = request.into_inner().filters;
        let selected = self.0.list(&filters).map_err(|error| failed("List", "", &error))?;
        let batches: Vec<_> = selected
            .chunks(LIST_BATCH)
            .map(|batch| {
                let info = batch.iter().map(|snapshot| encode_info(snapshot)).collect();
                Ok(api::ListSnapshotsResponse { info })
            })
            .collect();
        Ok(Response::new(stream::iter(batches).boxed()))
    }

    async fn usage(&self, request: Request<api::UsageRequest>) -> Reply<api::UsageResponse> {
        let key = request.into_inner().key;
        let usage = self.0.usage(&key).await.map_err(|error| failed("Usage", &key, &error))?;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(api::UsageResponse { size: signed(usage.bytes), inodes: signed(usage.inodes) }))
    }

    async fn cleanup(&self, _: Request<api::CleanupRequest>) -> Reply<()> {
        self.0.clean_up().await.map(Response::new).map_err(|error| failed("Cleanup", "", &error))
    }
}

/// The table from errors to gRPC codes, which containerd turns back into its own errors.
fn code(error: &Error) -> Code {
    use metastore::Error as Store;
    match error {
        Error::TargetReady(_) | Error::Store(Store::AlreadyExists(_)) => Code::AlreadyExists,
        Error::Store(Store::NotFound(_) | Store::ParentNotFound(_)) => Code::NotFound,
        Error::Store(Store::HasChildren(_) | Store::NotActive(_) | Store::NotMountable(_)) => {
            Code::FailedPrecondition
        }
        Error::Store(
            Store::ParentNotCommitted { .. }
            | Store::ParentFixed(_)
            | Store::ImmutableField { .. }
            | Store::EmptyName
            | Store::NameTooLong(_)
            | Store::LabelTooLong { .. },
        )
        | Error::Filter(_)
        | Error::Mapping { .. } => Code::InvalidArgument,
        Error::Store(Store::Closed) | Error::Stopping => Code::Unavailable,
        Error::Store(Store::Open { .. } | Store::Corrupt { .. }) => Code::Internal,
        Error::Store(Store::Write(_)) | Error::Io { .. } | Error::Map(_) => Code::Unknown,
        Error::Lazy(LazyError::Busy { .. }) | Error::Unmappable => Code::FailedPrecondition,
        Error::Lazy(LazyError::Index { .. } | LazyError::Quarantined { .. }) => Code::DataLoss,
        Error::Lazy(LazyError::Mount { .. } | LazyError::Other { .. }) => Code::Unknown,
    }
}

/// Logs what is our failure rather than containerd's question, and encodes it.
fn failed(rpc: &'static str, key: &str, error: &Error) -> Status {
    let (code, message) = (code(error), error_chain(error));
    match code {
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unavailable => {
            tracing::error!(rpc, key, error = message, "request failed");
        }
        _ => tracing::debug!(rpc, key, error = message, "request refused"),
    }
    Status::new(code, message.chars().take(MESSAGE_CHARS).collect::<String>())
}

/// protobuf has no absent string.
fn named(name: String) -> Option<String> {
    (!name.is_empty()).then_some(name)
}

fn ordered(labels: std::collections::HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn encode_mounts(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let encode = |mount: Mount| types::Mount {
        r#type: mount.kind.to_owned(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(encode).collect()
}

fn encode_info(snapshot: &Snapshot) -> api::Info {
    let kind = match snapshot.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    let timestamp = |at: SystemTime| Some(prost_types::Timestamp::from(at));
    api::Info {
        name: snapshot.name.clone(),
        parent: snapshot.parent.clone().unwrap_or_default(),
        kind: kind.into(),
        created_at: timestamp(snapshot.created),
        updated_at: timestamp(snapshot.updated),
        labels: snapshot.labels.clone().into_iter().collect(),
    }
}
