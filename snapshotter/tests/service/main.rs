//! The snapshots service over a real socket and a real store, with fakes for registry and FUSE.
#![allow(clippy::unwrap_used)]

mod eager;
mod fakes;
mod full_disk;
mod hostile;
mod lazy;

use std::collections::HashMap;

use jaunt_snapshotter::proto::containerd::services::snapshots::v1 as api;
use jaunt_snapshotter::proto::containerd::types::Mount;
use tonic::Code;

use fakes::Daemon;

type Labels = HashMap<String, String>;

fn labels<const N: usize>(labels: [(&str, &str); N]) -> Labels {
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The calls, without their envelopes.
impl Daemon {
    pub async fn prepare(&mut self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Code> {
        let request = api::PrepareSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
            ..Default::default()
        };
        self.client.prepare(request).await.map(|r| r.into_inner().mounts).map_err(|status| status.code())
    }

    pub async fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Code> {
        let request =
            api::ViewSnapshotRequest { key: key.to_owned(), parent: parent.to_owned(), ..Default::default() };
        self.client.view(request).await.map(|r| r.into_inner().mounts).map_err(|status| status.code())
    }

    pub async fn commit(&mut self, name: &str, key: &str, labels: Labels) -> Result<(), Code> {
        let request = api::CommitSnapshotRequest {
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
            ..Default::default()
        };
        self.client.commit(request).await.map(drop).map_err(|status| status.code())
    }

    pub async fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Code> {
        let request = api::MountsRequest { key: key.to_owned(), ..Default::default() };
        self.client.mounts(request).await.map(|r| r.into_inner().mounts).map_err(|status| status.code())
    }

    pub async fn remove(&mut self, key: &str) -> Result<(), Code> {
        let request = api::RemoveSnapshotRequest { key: key.to_owned(), ..Default::default() };
        self.client.remove(request).await.map(drop).map_err(|status| status.code())
    }

    pub async fn clean_up(&mut self) {
        self.client.cleanup(api::CleanupRequest::default()).await.unwrap();
    }

    pub async fn stat(&mut self, key: &str) -> Result<api::Info, Code> {
        let request = api::StatSnapshotRequest { key: key.to_owned(), ..Default::default() };
        self.client.stat(request).await.map(|r| r.into_inner().info.unwrap()).map_err(|status| status.code())
    }

    pub async fn usage(&mut self, key: &str) -> Result<(i64, i64), Code> {
        let request = api::UsageRequest { key: key.to_owned(), ..Default::default() };
        let usage = self.client.usage(request).await.map_err(|status| status.code())?.into_inner();
        Ok((usage.size, usage.inodes))
    }

    pub async fn list(&mut self, filters: &[&str]) -> Result<Vec<String>, Code> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = api::ListSnapshotsRequest { filters, ..Default::default() };
        let mut stream = self.client.list(request).await.map_err(|status| status.code())?.into_inner();
        let mut names = Vec::new();
        while let Some(batch) = stream.message().await.unwrap() {
            names.extend(batch.info.into_iter().map(|info| info.name));
        }
        Ok(names)
    }
}

/// The value of `key=` among a mount's options.
fn option<'a>(mount: &'a Mount, key: &str) -> Option<&'a str> {
    mount.options.iter().find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
}
