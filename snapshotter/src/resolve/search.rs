//! Looking for an image's launch artifact in its repository.
//!
//! Requests on the cold path: the artifact by its tag, then the index blob, and at the same time a HEAD
//! for each converted layer, so that what a promise rests on is known to be there without a further
//! round trip. Referrers are asked only where the tag is missing, and the image's own layers (`foreign`)
//! only where there is no usable artifact.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::{Client, Error};
use jaunt_formats::media_type::{LAUNCH_ARTIFACT, OCI_MANIFEST};
use jaunt_formats::{Digest, launch};

use super::artifact::{self, Artifact};
use super::known::{self, AdmitError, KnownIndex};
use crate::fallback::{Fallback, FallbackCode};
use crate::index_store::IndexStore;
use crate::metastore::Pin;

/// HEAD requests in flight at once.
const PROBES: usize = 16;
/// Referrers looked at, newest first: there is one unless the image was converted several times.
const REFERRERS_MAX: usize = 4;
const CREATED: &str = "org.opencontainers.image.created";

/// One search for one image.
pub(super) struct Search<'a> {
    pub client: &'a Client,
    pub indexes: &'a IndexStore,
    pub pin: &'a Pin,
}

impl Search<'_> {
    /// Finds, fetches, checks and keeps the image's launch index; without one, makes it of the image's own
    /// layers if they can be read as they are.
    pub async fn run(&self) -> Result<KnownIndex, Fallback> {
        match self.converted().await {
            Err(unusable) if is_of_the_artifact(unusable.code) => self.foreign(unusable).await,
            outcome => outcome,
        }
    }

    /// The index of the image's launch artifact.
    async fn converted(&self) -> Result<KnownIndex, Fallback> {
        let artifact = self.artifact().await?;
        let (known, ()) = futures_util::try_join!(self.index(&artifact), self.probe(&artifact))?;
        Ok(known)
    }

    async fn artifact(&self) -> Result<Artifact, Fallback> {
        let Pin { repository, manifest } = self.pin;
        let tag = format!("sha256-{}.jaunt", manifest.hex());
        let tagged = self.client.manifest_if_exists(repository, &tag, &[OCI_MANIFEST]).await;
        let unusable = match tagged.map_err(|error| registry_failure(&error))? {
            None => None,
            Some(found) => match artifact::parse(&found.bytes, manifest) {
                Ok(artifact) => return Ok(artifact),
                Err(error) => Some(Fallback::from_error(FallbackCode::BadArtifact, &error)),
            },
        };
        self.referrer(unusable).await
    }

    /// The newest usable artifact among the manifest's referrers; without one, `otherwise` or none at all.
    async fn referrer(&self, mut otherwise: Option<Fallback>) -> Result<Artifact, Fallback> {
        let Pin { repository, manifest } = self.pin;
        let found = self.client.referrers(repository, manifest, Some(LAUNCH_ARTIFACT)).await;
        let mut found = found.map_err(|error| registry_failure(&error))?;
        // RFC 3339 in UTC sorts as text; those without a date come last.
        found.sort_by_key(|descriptor| {
            std::cmp::Reverse(descriptor.annotations().as_ref().and_then(|all| all.get(CREATED)).cloned())
        });
        for descriptor in found.iter().take(REFERRERS_MAX) {
            let name = descriptor.digest().to_string();
            let fetched = self.client.manifest(repository, &name, &[OCI_MANIFEST]).await;
            let unusable = match fetched {
                Ok(fetched) => match artifact::parse(&fetched.bytes, manifest) {
                    Ok(artifact) => return Ok(artifact),
                    Err(error) => Fallback::from_error(FallbackCode::BadArtifact, &error),
                },
                Err(error) => registry_failure(&error),
            };
            otherwise.get_or_insert(unusable);
        }
        Err(otherwise.unwrap_or_else(|| {
            let detail = format!("repository {repository} has no launch artifact for manifest {manifest}");
            Fallback::new(FallbackCode::NoLaunchArtifact, detail)
        }))
    }

    async fn index(&self, artifact: &Artifact) -> Result<KnownIndex, Fallback> {
        let Pin { repository, .. } = self.pin;
        let index = artifact.index;
        if self.indexes.contains(&index.digest)
            && let Ok(known) = known::open(self.indexes, index.digest).await
        {
            return Ok(known);
        }
        if index.len > launch::MAX_INDEX_LEN {
            let detail = format!("launch index {} of {} bytes is too large", index.digest, index.len);
            return Err(Fallback::new(FallbackCode::BadIndex, detail));
        }
        let blob =
            self.client.blob(repository, &index.digest, index.len).await.map_err(|error| match error {
                Error::NotFound { .. } => Fallback::from_error(FallbackCode::BadArtifact, &error),
                Error::DigestMismatch { .. } | Error::TooLarge { .. } => {
                    Fallback::from_error(FallbackCode::BadIndex, &error)
                }
                error => registry_failure(&error),
            })?;
        known::admit(self.indexes, index.digest, blob).await.map_err(|error| {
            let code = match error {
                AdmitError::Unsound(_) => FallbackCode::BadIndex,
                AdmitError::Write { .. } | AdmitError::Stopping => FallbackCode::LocalStorage,
            };
            Fallback::from_error(code, &error)
        })
    }

    /// Only a registry that says "not here" speaks against a layer: some answer HEAD badly, and the
    /// read path has retries and other sources.
    async fn probe(&self, artifact: &Artifact) -> Result<(), Fallback> {
        stream::iter(artifact.converted.clone())
            .map(|layer| self.probe_layer(layer))
            .buffer_unordered(PROBES)
            .try_collect()
            .await
    }

    async fn probe_layer(&self, layer: Digest) -> Result<(), Fallback> {
        match self.client.blob_exists(&self.pin.repository, &layer).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let detail =
                    format!("repository {} no longer has converted layer {layer}", self.pin.repository);
                Err(Fallback::new(FallbackCode::ConvertedLayerMissing, detail))
            }
            Err(error) => {
                tracing::debug!(%layer, %error, "cannot tell whether a converted layer is there");
                Ok(())
            }
        }
    }
}

/// Whether a reason speaks against the artifact, and not against the registry or this node.
fn is_of_the_artifact(code: FallbackCode) -> bool {
    use FallbackCode as Code;
    [Code::NoLaunchArtifact, Code::BadArtifact, Code::BadIndex, Code::ConvertedLayerMissing].contains(&code)
}

/// The table from what a registry does to the reason we give.
pub(super) fn registry_failure(error: &Error) -> Fallback {
    let code = match error {
        Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Interrupted { .. } => {
            FallbackCode::RegistryUnreachable
        }
        Error::Auth { .. } if error.is_transient() => FallbackCode::RegistryUnreachable,
        Error::Unauthorized { .. } | Error::Auth { .. } => FallbackCode::RegistryRefused,
        _ => FallbackCode::RegistryError,
    };
    Fallback::from_error(code, error)
}
