//! A remote snapshotter that does nothing: every layer is there before it is asked for.
//!
//! It answers from a tree that somebody unpacked, which containers get as their only lower directory. A start with it
//! costs what containerd, runc and the program cost, and nothing of what a snapshotter does: whatever another one takes
//! beyond that is its own.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jaunt_tests::error::{At as _, Result};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use jaunt_tests::proto::containerd::services::snapshots::v1 as api;
use jaunt_tests::proto::containerd::services::snapshots::v1::snapshots_server::{Snapshots, SnapshotsServer};
use jaunt_tests::proto::containerd::types::Mount;

/// Names the chain that a layer being unpacked is to become.
const TARGET: &str = "containerd.io/snapshot.ref";

/// A running one; it ends when it is dropped.
#[derive(Debug)]
pub struct Null {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Null {
    /// Serves `tree` from a socket in `dir`, in which containers write as well.
    pub fn serve(runtime: &Runtime, dir: &Path, tree: &Path) -> Result<Self> {
        let socket = dir.join("null.sock");
        let _ = fs::remove_file(&socket);
        let _inside = runtime.enter();
        let listener = UnixListener::bind(&socket).at(&socket)?;
        let service = Service { tree: tree.to_owned(), dir: dir.to_owned(), snapshots: Mutex::default() };
        let server = tonic::transport::Server::builder()
            .add_service(SnapshotsServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let task = runtime.spawn(async move {
            if let Err(error) = server.await {
                eprintln!("null snapshotter: {error}");
            }
        });
        Ok(Self { socket, task })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Null {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    tree: PathBuf,
    dir: PathBuf,
    snapshots: Mutex<HashMap<String, Arc<api::Info>>>,
}

type Reply<T> = std::result::Result<Response<T>, Status>;

impl Service {
    fn snapshots(&self) -> MutexGuard<'_, HashMap<String, Arc<api::Info>>> {
        // Single insertions and removals: sound wherever a panic strikes.
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, name: String, parent: String, labels: HashMap<String, String>, kind: api::Kind) {
        let info =
            api::Info { name: name.clone(), parent, kind: kind.into(), labels, ..api::Info::default() };
        self.snapshots().insert(name, Arc::new(info));
    }

    fn info(&self, name: &str) -> std::result::Result<Arc<api::Info>, Status> {
        self.snapshots().get(name).cloned().ok_or_else(|| Status::not_found(name))
    }

    /// A container's root file system, whose own files lie below a directory named after nothing but a number.
    fn mounts_of(&self, key: &str) -> std::io::Result<Vec<Mount>> {
        let number: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let own = self.dir.join("containers").join(number);
        let (upper, work) = (own.join("fs"), own.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let [lower, upper, work] = [&self.tree, &upper, &work].map(|path| path.display().to_string());
        let options = [
            "index=off".to_owned(),
            format!("workdir={work}"),
            format!("upperdir={upper}"),
            format!("lowerdir={lower}"),
        ];
        Ok(vec![Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.into(),
            ..Mount::default()
        }])
    }
}

/// Whether containerd, which looks for the snapshot of a chain with a parent, may mean this one.
fn selects(filter: &str, snapshot: &api::Info) -> bool {
    let own = filter.split(",parent").next().unwrap_or_default();
    snapshot.labels.get(TARGET).is_some_and(|target| own.contains(target.as_str()))
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Reply<api::PrepareSnapshotResponse> {
        let api::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        if let Some(target) = labels.get(TARGET).cloned() {
            self.insert(target.clone(), parent, labels, api::Kind::Committed);
            return Err(Status::already_exists(target));
        }
        self.insert(key.clone(), parent, labels, api::Kind::Active);
        Ok(Response::new(api::PrepareSnapshotResponse { mounts: self.mounts_of(&key)? }))
    }

    async fn view(&self, request: Request<api::ViewSnapshotRequest>) -> Reply<api::ViewSnapshotResponse> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        self.insert(key.clone(), parent, labels, api::Kind::View);
        Ok(Response::new(api::ViewSnapshotResponse { mounts: self.mounts_of(&key)? }))
    }

    async fn mounts(&self, request: Request<api::MountsRequest>) -> Reply<api::MountsResponse> {
        let key = request.into_inner().key;
        self.info(&key)?;
        Ok(Response::new(api::MountsResponse { mounts: self.mounts_of(&key)? }))
    }

    async fn commit(&self, request: Request<api::CommitSnapshotRequest>) -> Reply<()> {
        let api::CommitSnapshotRequest { key, .. } = request.into_inner();
        Err(Status::failed_precondition(format!("{key}: nothing was to be unpacked")))
    }

    async fn remove(&self, request: Request<api::RemoveSnapshotRequest>) -> Reply<()> {
        self.snapshots().remove(&request.into_inner().key);
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<api::StatSnapshotRequest>) -> Reply<api::StatSnapshotResponse> {
        let info = self.info(&request.into_inner().key)?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some((*info).clone()) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Reply<api::UpdateSnapshotResponse> {
        let asked = request.into_inner().info.unwrap_or_default();
        let info = self.info(&asked.name)?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some((*info).clone()) }))
    }

    type ListStream = ReceiverStream<std::result::Result<api::ListSnapshotsResponse, Status>>;

    async fn list(&self, request: Request<api::ListSnapshotsRequest>) -> Reply<Self::ListStream> {
        let filters = request.into_inner().filters;
        let wanted =
            |info: &&Arc<api::Info>| filters.is_empty() || filters.iter().any(|filter| selects(filter, info));
        let info = self.snapshots().values().filter(wanted).map(|info| (**info).clone()).collect();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        // The channel is new and has room.
        let _ = sender.try_send(Ok(api::ListSnapshotsResponse { info }));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn usage(&self, _: Request<api::UsageRequest>) -> Reply<api::UsageResponse> {
        Ok(Response::new(api::UsageResponse::default()))
    }

    async fn cleanup(&self, _: Request<api::CleanupRequest>) -> Reply<()> {
        Ok(Response::new(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_found_by_its_own_chain_and_not_as_a_parent() {
        let labels = HashMap::from([(TARGET.to_owned(), "sha256:aa".to_owned())]);
        let snapshot = api::Info { labels, ..api::Info::default() };
        let filter = |own, parent| format!("labels.\"{TARGET}\"==sha256:{own},parent==\"sha256:{parent}\"");
        assert!(selects(&filter("aa", "bb"), &snapshot));
        assert!(!selects(&filter("bb", "aa"), &snapshot));
    }
}
