//! Blobs in registries: a set of repositories, any of which may hold a blob.
//!
//! A layer is shared by images of several repositories, and only some of them may still be there. They are
//! tried in the order in which they were learnt; the first that answers is tried first from then on.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use jaunt_distribution::{Client, Repository};
use jaunt_formats::Digest;

use super::{Source, SourceError};

/// Fetches from the first repository that has the blob.
pub struct RegistrySource {
    client: Client,
    repositories: RwLock<Vec<Repository>>,
}

impl RegistrySource {
    /// A source over these repositories.
    pub fn new(client: Client, repositories: impl IntoIterator<Item = Repository>) -> Self {
        Self { client, repositories: RwLock::new(repositories.into_iter().collect()) }
    }

    /// Adds a repository that has come to be known, unless it is known already.
    pub fn learn(&self, repository: Repository) {
        let mut known = self.repositories.write().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&repository) {
            known.push(repository);
        }
    }

    fn known(&self) -> Vec<Repository> {
        self.repositories.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn prefer(&self, repository: &Repository) {
        let mut known = self.repositories.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|have| have == repository) {
            known[..=at].rotate_right(1);
        }
    }

    async fn fetch_from_any(&self, blob: Digest, range: Range<u64>) -> Result<Bytes, SourceError> {
        let mut cause: Box<dyn std::error::Error + Send + Sync> = "no repository is known to hold it".into();
        // A registry in trouble is not asked for its other repositories: each would cost the full wait.
        let mut in_trouble = HashSet::new();
        for (at, repository) in self.known().iter().enumerate() {
            if in_trouble.contains(repository.host()) {
                continue;
            }
            match self.client.blob_range(repository, &blob, range.clone()).await {
                Ok(bytes) => {
                    if at > 0 {
                        self.prefer(repository);
                    }
                    return Ok(bytes);
                }
                Err(error) => {
                    tracing::debug!(%repository, %blob, %error, "this repository did not give the range");
                    if error.is_transient() {
                        in_trouble.insert(repository.host().to_owned());
                    }
                    cause = error.into();
                }
            }
        }
        Err(SourceError { blob, range, cause })
    }
}

impl Source for RegistrySource {
    fn fetch(&self, blob: Digest, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        self.fetch_from_any(blob, range).boxed()
    }
}
