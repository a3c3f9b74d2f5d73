//! Looking for an image's launch artifact in its repository.
//!
//! Requests on the cold path: the artifact by its tag, then the index blob, and at the same time a HEAD for some of the converted
//! layers: an artifact that has lost them all is not promised, and one that has lost a layer is read from the original, so that
//! many layers cost no more requests than few. Where keys are trusted, and not whoever may push, the artifact's signature is looked up beside these.
//! Referrers are asked only where the tag is missing or leads to what is not trusted, and the image's own layers
//! (`foreign`) only where there is no usable artifact.

use std::sync::Arc;

use jaunt_distribution::signatures::{SignatureError, SignatureSource as _, signer};
use jaunt_distribution::{Client, Error, InRepository};
use jaunt_formats::Digest;
use jaunt_formats::launch::{self, LaunchIndex};
use jaunt_formats::media_type::{LAUNCH_ARTIFACT, OCI_MANIFEST};
use jaunt_layerfs::boot::Expected;
use jaunt_layerfs::trace::Trace;
use tokio::sync::mpsc;

use super::artifact::{self, Artifact};
use super::known::{self, AdmitError, KnownIndex};
use crate::boot::{self, Begun, BootPacks};
use crate::fallback::{Fallback, FallbackCode, error_chain};
use crate::index_store::IndexStore;
use crate::metastore::{Pin, Voucher};
use crate::trust::Trusted;

/// Converted layers that are asked for, at once.
const PROBES: usize = 4;
/// Referrers looked at, newest first: there is one unless the image was converted several times.
const REFERRERS_MAX: usize = 4;
/// The same where signatures are asked for: whoever may push can put so many newer ones before it, and no more.
const SIGNED_REFERRERS_MAX: usize = 32;
const CREATED: &str = "org.opencontainers.image.created";

/// One search for one image.
pub(super) struct Search<'a> {
    pub client: &'a Client,
    pub indexes: &'a IndexStore,
    pub pin: &'a Pin,
    /// Whom to believe about artifacts in the pin's repository.
    pub trusted: &'a Trusted,
    pub packs: Option<&'a Arc<BootPacks>>,
    pub trace: &'a Trace,
}

/// An index, and on whose word.
#[derive(Debug)]
pub(super) struct Found {
    pub known: KnownIndex,
    pub by: Voucher,
}

impl Search<'_> {
    /// Finds, fetches, checks and keeps the image's launch index; without one, makes it of the image's own
    /// layers if they can be read as they are.
    pub async fn run(&self) -> Result<Found, Fallback> {
        self.packs.inspect(|packs| packs.read_runtime_ahead());
        match self.converted().await {
            Err(unusable) if is_of_the_artifact(unusable.code) => {
                let known = self.foreign(unusable).await?;
                Ok(Found { known, by: Voucher::Image })
            }
            outcome => outcome,
        }
    }

    /// The index of the image's launch artifact: the one that has our tag, else the newest of the referrers, as far as
    /// they are well formed and trusted.
    async fn converted(&self) -> Result<Found, Fallback> {
        let mut refused = match self.tagged().await? {
            Some(Ok(artifact)) => {
                // Both at once: whoever signs costs a start no further round trip but for his own document.
                match self.with_pack(&artifact, self.voucher(&artifact)).await {
                    (Ok(by), ready) => return Ok(Found { known: ready?, by }),
                    (Err(refused), _) => Some(refused),
                }
            }
            Some(Err(malformed)) => Some(malformed),
            None => None,
        };
        for name in self.referrers().await? {
            let usable = match self.referrer(&name).await {
                Ok(artifact) => self.voucher(&artifact).await.map(|by| (artifact, by)),
                Err(malformed) => Err(malformed),
            };
            match usable {
                Ok((artifact, by)) => {
                    let (by, ready) = self.with_pack(&artifact, async { Ok(by) }).await;
                    return Ok(Found { known: ready?, by: by? });
                }
                Err(unusable) => _ = refused.get_or_insert(unusable),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let Pin { repository, manifest } = self.pin;
            let detail = format!("repository {repository} has no launch artifact for manifest {manifest}");
            Fallback::new(FallbackCode::NoLaunchArtifact, detail)
        }))
    }

    /// Asks for the boot pack, beside the index. Only with an index that this node does not know yet.
    fn begin_pack(&self, artifact: &Artifact) -> Option<Begun> {
        let (packs, pack, index) = (self.packs?, artifact.boot?, artifact.index.digest);
        if self.indexes.contains(&index) {
            return None;
        }
        packs.begin(self.client, &self.pin.repository, index, pack)
    }

    /// The artifact's index, and who vouches for it; its boot pack is used from the moment that it is known to be sound and to be believed.
    async fn with_pack(
        &self,
        artifact: &Artifact,
        voucher: impl Future<Output = Result<Voucher, Fallback>>,
    ) -> (Result<Voucher, Fallback>, Result<KnownIndex, Fallback>) {
        let pack = self.begin_pack(artifact);
        let (sound, mut is_sound) = mpsc::channel(1);
        let believed = async move {
            let by = voucher.await?;
            if let Some(pack) = pack
                && let Some(expected) = is_sound.recv().await
            {
                pack.admitted(expected);
            }
            Ok(by)
        };
        // Boxed, for the requests in it are large, and whoever searches awaits this in two places.
        tokio::join!(believed, Box::pin(self.ready(artifact, sound)))
    }

    /// What has our tag, if anything has it.
    async fn tagged(&self) -> Result<Option<Result<Artifact, Fallback>>, Fallback> {
        let _step = self.trace.step("artifact", || self.pin.to_string());
        let Pin { repository, manifest } = self.pin;
        let tag = format!("sha256-{}.jaunt", manifest.hex());
        let tagged = self.client.manifest_if_exists(repository, &tag, &[OCI_MANIFEST]).await;
        let tagged = tagged.map_err(|error| registry_failure(&error))?;
        Ok(tagged.map(|found| parse(&found.bytes, manifest)))
    }

    /// Digests of the manifest's referrers that say they are launch artifacts, newest first.
    async fn referrers(&self) -> Result<Vec<String>, Fallback> {
        let Pin { repository, manifest } = self.pin;
        let found = self.client.referrers(repository, manifest, Some(LAUNCH_ARTIFACT)).await;
        let mut found = found.map_err(|error| registry_failure(&error))?;
        // RFC 3339 in UTC sorts as text; those without a date come last.
        found.sort_by_key(|descriptor| {
            std::cmp::Reverse(descriptor.annotations().as_ref().and_then(|all| all.get(CREATED)).cloned())
        });
        let most = match self.trusted {
            Trusted::Registry => REFERRERS_MAX,
            Trusted::Keys(_) => SIGNED_REFERRERS_MAX,
        };
        Ok(found.iter().take(most).map(|descriptor| descriptor.digest().to_string()).collect())
    }

    async fn referrer(&self, name: &str) -> Result<Artifact, Fallback> {
        let Pin { repository, manifest } = self.pin;
        let fetched = self.client.manifest(repository, name, &[OCI_MANIFEST]).await;
        parse(&fetched.map_err(|error| registry_failure(&error))?.bytes, manifest)
    }

    /// On whose word the artifact is believed.
    async fn voucher(&self, artifact: &Artifact) -> Result<Voucher, Fallback> {
        let Trusted::Keys(keys) = self.trusted else { return Ok(Voucher::Registry) };
        let Pin { repository, .. } = self.pin;
        let place = InRepository { client: self.client, repository };
        let error = match signer(&place, artifact.digest, keys).await {
            Ok(key) => return Ok(Voucher::Key(key.fingerprint())),
            Err(SignatureError::Read(error)) if !InRepository::is_damage(&error) => {
                return Err(registry_failure(&error));
            }
            Err(error) => error,
        };
        let (digest, why) = (artifact.digest, error_chain(&error));
        tracing::warn!(image = %self.pin, artifact = %digest, why, "launch artifact is refused: no trusted signature");
        let detail = format!("launch artifact {digest} in {repository} has no trusted signature: {why}");
        Err(Fallback::new(FallbackCode::UntrustedArtifact, detail))
    }

    /// The artifact's index, on disk and checked, and its layers seen. `sound` is told once it is checked.
    async fn ready(&self, artifact: &Artifact, sound: Sound) -> Result<KnownIndex, Fallback> {
        let (known, ()) = futures_util::try_join!(self.index(artifact, sound), self.probe(artifact))?;
        Ok(known)
    }

    async fn index(&self, artifact: &Artifact, sound: Sound) -> Result<KnownIndex, Fallback> {
        let _step = self.trace.step("index", || artifact.index.digest.to_string());
        let Pin { repository, .. } = self.pin;
        let index = artifact.index;
        if self.indexes.contains(&index.digest) {
            // Another search has fetched it since the pack was asked for.
            let sound = sound.clone();
            let opened = move |open: &_| tell(&sound, index.digest, open);
            if let Ok(known) = known::open(self.indexes, index.digest, opened).await {
                return Ok(known);
            }
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
        let checked = move |open: &_| tell(&sound, index.digest, open);
        known::admit(self.indexes, index.digest, blob, checked).await.map_err(|error| {
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
        let asked = artifact.converted.iter().take(PROBES);
        futures_util::future::try_join_all(asked.map(|layer| self.probe_layer(*layer))).await.map(drop)
    }

    async fn probe_layer(&self, layer: Digest) -> Result<(), Fallback> {
        let _step = self.trace.step("probe", || layer.to_string());
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

/// The way to whoever waits for a sound index. It is told of once, by the index that was kept or by the one that was fetched.
type Sound = mpsc::Sender<Expected>;

/// Says what a pack of the index must be of, if anybody waits for that.
fn tell<B: AsRef<[u8]>>(sound: &Sound, index: Digest, open: &LaunchIndex<B>) {
    if !sound.is_closed() {
        let _ = sound.try_send(boot::expected(index, open));
    }
}

/// Whether a reason speaks against the artifact, and not against the registry or this node.
pub(super) fn is_of_the_artifact(code: FallbackCode) -> bool {
    use FallbackCode as Code;
    let all = [Code::NoLaunchArtifact, Code::BadArtifact, Code::UntrustedArtifact, Code::BadIndex];
    all.contains(&code) || code == Code::ConvertedLayerMissing
}

fn parse(manifest: &[u8], subject: &Digest) -> Result<Artifact, Fallback> {
    artifact::parse(manifest, subject)
        .map_err(|error| Fallback::from_error(FallbackCode::BadArtifact, &error))
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
