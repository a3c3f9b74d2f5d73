//! Whether others can use the daemon: that it runs is not enough.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::disk::Disk;
use crate::fallback::error_chain;
use crate::proto::containerd::services::snapshots::v1::ListSnapshotsRequest;
use crate::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::status::Health;
use crate::unix_channel;

mod disk;

/// Whoever is asked for longer is not ready.
const LIMIT: Duration = Duration::from_secs(3);
/// Selects nothing: an answer is all that is wanted.
const NOTHING: &str = "name==nothing";

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// The socket that containerd calls.
    socket: PathBuf,
    /// Where the daemon keeps its state.
    disk: Disk,
    /// Who knows of the kubelet's image calls.
    health: Arc<Health>,
}

impl Readiness {
    /// That of the daemon which is called on `socket` and keeps its state in `root`.
    pub fn new(socket: PathBuf, root: PathBuf, health: Arc<Health>) -> Self {
        Self { socket, disk: Disk::new(root), health }
    }

    /// Why not, if it is not.
    pub async fn trouble(&self) -> Option<String> {
        let socket = self.socket.display();
        match tokio::time::timeout(LIMIT, ask(&self.socket)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Some(format!("containerd's calls are not answered on {socket}: {why}")),
            Err(_) => {
                return Some(format!("containerd's calls are not answered on {socket} within {LIMIT:?}"));
            }
        }
        if let Some(why) = self.disk.trouble().await {
            return Some(why);
        }
        match self.health.image_calls_trouble() {
            why if why.is_empty() => None,
            why => Some(format!("the kubelet's image calls are not taken: {why}")),
        }
    }
}

/// Asks as containerd does.
async fn ask(socket: &Path) -> Result<(), String> {
    let channel = unix_channel::connect(socket).await.map_err(|error| error_chain(&error))?;
    let list = ListSnapshotsRequest { snapshotter: String::new(), filters: vec![NOTHING.to_owned()] };
    let listed = SnapshotsClient::new(channel).list(list).await;
    listed.map(drop).map_err(|status| status.message().to_owned())
}
