//! Whether containerd has the snapshotter: asked of containerd itself, since nobody else knows what it has read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::containerd::NAME;
use crate::introspection;
use crate::proto::containerd::services::snapshots::v1::ListSnapshotsRequest;
use crate::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::unix_channel::{self, Unreachable, in_namespace};

/// Any will do.
const NAMESPACE: &str = "k8s.io";
const PAUSE: Duration = Duration::from_millis(200);

/// What is the matter with it.
#[derive(Debug, thiserror::Error)]
pub enum NotLoaded {
    /// It does not run there.
    #[error("containerd is {0}")]
    Unreachable(#[source] Unreachable),
    /// It does not answer.
    #[error("containerd at {socket} does not answer within {} s", .limit.as_secs(), socket = .socket.display())]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// How long.
        limit: Duration,
    },
    /// It does not tell.
    #[error("containerd does not {what}: {}", status.message())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// It knows nothing of us.
    #[error("containerd runs without the snapshotter {NAME}: does it read another configuration file?")]
    Unknown,
    /// It has tried, and failed.
    #[error("containerd's plugin {NAME} does not work: {0}")]
    Broken(String),
}

/// Waits until the containerd that listens on `socket` has the snapshotter, and reaches the daemon by it.
pub(super) async fn await_snapshotter(socket: &Path, limit: Duration) -> Result<(), NotLoaded> {
    let deadline = Instant::now() + limit;
    let mut seen = NotLoaded::Silent { socket: socket.to_owned(), limit };
    while let Ok(looked) = tokio::time::timeout_at(deadline, look(socket)).await {
        match looked {
            Ok(()) => return Ok(()),
            Err(error) => seen = error,
        }
        // Where it is refused at once, the time would never be seen to be up.
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(seen)
}

async fn look(socket: &Path) -> Result<(), NotLoaded> {
    let refused = |what| move |status| NotLoaded::Refused { what, status: Box::new(status) };
    let channel = unix_channel::connect(socket).await.map_err(NotLoaded::Unreachable)?;
    let plugins = introspection::plugins(channel.clone(), NAMESPACE).await;
    let plugins = plugins.map_err(refused("list its plugins"))?;
    let plugin = introspection::snapshotter(&plugins, NAME).ok_or(NotLoaded::Unknown)?;
    if let Some(why) = introspection::failure(plugin) {
        return Err(NotLoaded::Broken(why));
    }
    let list = ListSnapshotsRequest { snapshotter: NAME.to_owned(), filters: Vec::new() };
    let listed = SnapshotsClient::new(channel).list(in_namespace(list, NAMESPACE)).await;
    let through = refused("reach the daemon through it");
    let mut listed = listed.map_err(&through)?.into_inner();
    listed.message().await.map(drop).map_err(through)
}
