//! Prepare and Mounts, many at once, as a node gets them when many pods start.

use std::path::Path;
use std::time::{Duration, Instant};

use jaunt_tests::cri::channel;
use jaunt_tests::error::{Error, Result};
use serde::Serialize;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::Channel;

use super::Spread;
use api::snapshots_client::SnapshotsClient;
use jaunt_tests::proto::containerd::services::snapshots::v1 as api;

/// The times of one crowd. Field names are keys of the JSON, and stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Crowd {
    /// Of each Prepare; all were sent at once.
    pub prepare: Spread,
    /// Of each Mounts, sent when its Prepare was answered.
    pub mounts: Spread,
}

/// A connection to a snapshotter.
#[derive(Debug)]
pub struct Calls<'r> {
    runtime: &'r Runtime,
    client: SnapshotsClient<Channel>,
}

impl<'r> Calls<'r> {
    /// Connects to the snapshotter that listens on `socket`.
    pub fn connect(runtime: &'r Runtime, socket: &Path) -> Result<Self> {
        let channel = runtime.block_on(channel(socket));
        let channel = channel.map_err(|error| Error::unexpected("the snapshotter", error.to_string()))?;
        Ok(Self { runtime, client: SnapshotsClient::new(channel) })
    }

    /// The name of the chain on which no other stands: that with all of an image's layers, where it is the only one.
    pub fn top(&self) -> Result<String> {
        let all = self.runtime.block_on(self.list()).map_err(|status| failed("List", &status))?;
        let is_parent = |name: &str| all.iter().any(|other| other.parent == name);
        let top = all.iter().find(|info| !is_parent(&info.name)).map(|info| info.name.clone());
        top.ok_or_else(|| Error::unexpected("List", "no snapshot"))
    }

    /// Has `count` snapshots made on `parent` at once, asks for the mounts of each, and removes them.
    pub fn crowd(&self, parent: &str, count: usize) -> Result<Crowd> {
        self.runtime.block_on(async {
            let one = |n| tokio::spawn(one(self.client.clone(), key(n), parent.to_owned()));
            let tasks: Vec<_> = (0..count).map(one).collect();
            let (mut prepare, mut mounts) = (Vec::new(), Vec::new());
            for task in tasks {
                let times = task.await.map_err(|error| Error::unexpected("a call", error.to_string()))??;
                prepare.push(times.0);
                mounts.push(times.1);
            }
            for n in 0..count {
                let request = api::RemoveSnapshotRequest { key: key(n), ..Default::default() };
                self.client.clone().remove(request).await.map_err(|status| failed("Remove", &status))?;
            }
            Ok(Crowd { prepare: Spread::of(prepare), mounts: Spread::of(mounts) })
        })
    }

    async fn list(&self) -> std::result::Result<Vec<api::Info>, Status> {
        let mut answer = self.client.clone().list(api::ListSnapshotsRequest::default()).await?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = answer.message().await? {
            all.extend(part.info);
        }
        Ok(all)
    }
}

fn key(n: usize) -> String {
    format!("crowd-{n}")
}

async fn one(
    mut client: SnapshotsClient<Channel>,
    key: String,
    parent: String,
) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let request = api::PrepareSnapshotRequest { key: key.clone(), parent, ..Default::default() };
    client.prepare(request).await.map_err(|status| failed("Prepare", &status))?;
    let prepared = begun.elapsed();
    let request = api::MountsRequest { key, ..Default::default() };
    client.mounts(request).await.map_err(|status| failed("Mounts", &status))?;
    Ok((prepared, begun.elapsed() - prepared))
}

fn failed(what: &str, status: &Status) -> Error {
    Error::unexpected(what, status.to_string())
}
