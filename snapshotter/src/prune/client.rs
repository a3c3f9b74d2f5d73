//! The command's side.

use std::sync::Arc;

use jaunt_layerfs::store::{Store, StoreError};

use super::{PruneError, Pruned, Pruner};
use crate::config::Config;
use crate::metastore::{self, MetaStore};
use crate::proto::jaunt::admin::v1::PruneRequest;
use crate::proto::jaunt::admin::v1::admin_client::AdminClient;
use crate::supervisor::{DirectoryLock, LockError};
use crate::unix_channel::{self, Unreachable};

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneCommandError {
    /// The daemon cannot be reached, though it runs.
    #[error("the daemon is {daemon}, and {lock}")]
    Unreachable {
        /// Why not.
        daemon: Unreachable,
        /// That it runs.
        lock: LockError,
    },
    /// It refuses.
    #[error("the daemon does not prune: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] metastore::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be pruned.
    #[error(transparent)]
    Prune(#[from] PruneError),
}

/// Prunes what the daemon of that configuration keeps.
///
/// # Errors
/// The daemon refuses; or it does not run, and its state cannot be used.
pub async fn prune_on(config: &Config, all: bool, dry_run: bool) -> Result<Pruned, PruneCommandError> {
    let daemon = match unix_channel::connect(&config.socket).await {
        Err(daemon) => daemon,
        Ok(channel) => {
            let answer = AdminClient::new(channel).prune(PruneRequest { all, dry_run }).await;
            let answer = answer.map_err(|status| PruneCommandError::Refused(Box::new(status)))?.into_inner();
            let layers = answer.pruned.into_iter().map(|layer| (layer.path.into(), layer.bytes)).collect();
            return Ok(Pruned { layers, in_use: answer.in_use_bytes });
        }
    };
    let _lock = DirectoryLock::acquire(&config.root)
        .map_err(|lock| PruneCommandError::Unreachable { daemon, lock })?;
    let records = MetaStore::open(&config.root.join("meta.redb"))?;
    let store = Arc::new(Store::open(&config.root.join("layers"))?);
    let pruner = Pruner { store, index_dir: config.root.join("index") };
    Ok(pruner.prune(&records.read().lazy_chains(), all, dry_run)?)
}
