//! A repository of a registry, through the distribution API.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use jaunt_distribution::{Client, Manifest, PushedManifest, Repository, TagMove};
use jaunt_formats::{Digest, Reference};

use super::{BlobStream, PlaceError, Upload};
use crate::manifest::Descriptor;

/// A repository, and the client that speaks to its registry.
#[derive(Clone, Debug)]
pub struct RegistryPlace {
    client: Client,
    repository: Repository,
}

impl RegistryPlace {
    pub fn new(client: &Client, reference: &Reference) -> Self {
        Self { client: client.clone(), repository: Repository::from(reference) }
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.repository == other.repository
    }

    pub fn shares_registry(&self, other: &Self) -> bool {
        self.repository.host() == other.repository.host()
    }

    pub async fn manifest(&self, name: &str, accept: &[&str]) -> Result<Manifest, PlaceError> {
        Ok(self.client.manifest(&self.repository, name, accept).await?)
    }

    pub async fn manifest_digest(&self, name: &str, accept: &[&str]) -> Result<Digest, PlaceError> {
        Ok(self.client.manifest_digest(&self.repository, name, accept).await?)
    }

    pub async fn push_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedManifest, PlaceError> {
        Ok(self.client.push_manifest(&self.repository, name, media_type, bytes).await?)
    }

    pub async fn move_tag(
        &self,
        tag: &str,
        expected: Option<Digest>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<TagMove, PlaceError> {
        Ok(self.client.move_tag(&self.repository, tag, expected, media_type, bytes).await?)
    }

    pub async fn tags(&self) -> Result<Vec<String>, PlaceError> {
        Ok(self.client.tags(&self.repository).await?)
    }

    pub async fn delete_manifest(&self, digest: &Digest) -> Result<(), PlaceError> {
        Ok(self.client.delete_manifest(&self.repository, digest).await?)
    }

    pub async fn delete_tag(&self, tag: &str) -> Result<bool, PlaceError> {
        Ok(self.client.delete_tag(&self.repository, tag).await?)
    }

    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, PlaceError> {
        let found = self.client.referrers(&self.repository, subject, artifact_type).await?;
        Ok(found
            .into_iter()
            .filter_map(|found| {
                let digest = found.digest().to_string().parse().ok()?;
                let artifact_type = found.artifact_type().as_ref().map(ToString::to_string);
                let described = Descriptor::new(found.media_type().as_ref(), digest, found.size());
                Some(Descriptor { artifact_type, ..described })
            })
            .collect())
    }

    pub async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, PlaceError> {
        Ok(self.client.blob(&self.repository, digest, limit).await?)
    }

    pub async fn blob_stream(&self, digest: &Digest) -> Result<BlobStream, PlaceError> {
        let stream = self.client.blob_stream(&self.repository, digest).await?;
        Ok(stream.map_err(PlaceError::from).boxed())
    }

    pub async fn blob_range(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes, PlaceError> {
        Ok(self.client.blob_range(&self.repository, digest, range).await?)
    }

    pub async fn blob_exists(&self, digest: &Digest) -> Result<Option<u64>, PlaceError> {
        Ok(self.client.blob_exists(&self.repository, digest).await?)
    }

    pub async fn push_blob(&self, digest: &Digest, bytes: Bytes) -> Result<(), PlaceError> {
        Ok(self.client.push_blob(&self.repository, digest, bytes).await?)
    }

    pub async fn start_upload(&self) -> Result<Upload, PlaceError> {
        Ok(Upload::Registry(self.client.start_upload(&self.repository).await?))
    }

    pub async fn mount_from(&self, from: &Self, digest: &Digest) -> Result<bool, PlaceError> {
        Ok(self.client.mount_blob(&self.repository, &from.repository, digest).await?)
    }
}
