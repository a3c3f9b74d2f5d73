//! Whether others can use the daemon: that it runs is not enough.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fallback::error_chain;
use crate::proto::containerd::services::snapshots::v1::ListSnapshotsRequest;
use crate::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::status::Health;
use crate::unix_channel;

/// Whoever is asked for longer is not ready.
const LIMIT: Duration = Duration::from_secs(3);
/// The least that a disk gives.
const PAGE: usize = 4096;
/// Selects nothing: an answer is all that is wanted.
const NOTHING: &str = "name==nothing";

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// The socket that containerd calls.
    pub socket: PathBuf,
    /// Where the daemon keeps its state.
    pub root: PathBuf,
    /// Who knows of the kubelet's image calls.
    pub health: Arc<Health>,
}

impl Readiness {
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
        if let Some(why) = unwritable(&self.root).await {
            return Some(format!("nothing can be written to {}: {why}", self.root.display()));
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

/// Why a snapshot could not be recorded on that disk.
async fn unwritable(root: &Path) -> Option<String> {
    let root = root.to_owned();
    let tried = tokio::task::spawn_blocking(move || tempfile::tempfile_in(root)?.write_all(&[0; PAGE]));
    match tokio::time::timeout(LIMIT, tried).await {
        Ok(Ok(written)) => written.err().map(|error| error.to_string()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {LIMIT:?}")),
    }
}
