//! The daemon's side.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::Pruner;
use crate::fallback::error_chain;
use crate::metastore::MetaStore;
use crate::proto::jaunt::admin::v1 as api;
use crate::proto::jaunt::admin::v1::admin_server::Admin;
use crate::snapshotter::Snapshotter;

/// Serves what the daemon can be told to do.
#[derive(Clone)]
pub struct AdminService {
    /// What is on record.
    pub records: MetaStore,
    /// Tidied up before.
    pub snapshotter: Arc<Snapshotter>,
    /// The store.
    pub pruner: Pruner,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn prune(
        &self,
        request: Request<api::PruneRequest>,
    ) -> Result<Response<api::PruneResponse>, Status> {
        let api::PruneRequest { all, dry_run } = request.into_inner();
        let internal = |error: &dyn std::error::Error| Status::internal(error_chain(error));
        if !dry_run {
            self.snapshotter.clean_up().await.map_err(|error| internal(&error))?;
        }
        let (pruner, records) = (self.pruner.clone(), self.records.clone());
        let done =
            tokio::task::spawn_blocking(move || pruner.prune(&records.read().lazy_chains(), all, dry_run));
        let pruned = done.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
        tracing::info!(layers = pruned.layers.len(), all, dry_run, "pruned the store");
        let one = |(path, bytes): (std::path::PathBuf, u64)| api::Pruned {
            path: path.display().to_string(),
            bytes,
        };
        let in_use_bytes = pruned.in_use;
        let pruned = pruned.layers.into_iter().map(one).collect();
        Ok(Response::new(api::PruneResponse { pruned, in_use_bytes }))
    }
}
