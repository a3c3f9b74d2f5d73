//! From a reference to one image: its manifest's digest and the chain that its configuration names.

use jaunt_distribution::{Client, Repository};
use jaunt_formats::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use jaunt_formats::{ChainId, DiffId, Digest, Platform, Reference};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::labels::RemoteLayer;

const INDEXES: [&str; 2] = [OCI_INDEX, DOCKER_LIST];
const ACCEPT: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
/// Configurations hold a history, and no more.
const CONFIG_LIMIT: u64 = 8 << 20;
/// Manifests looked at for one image. Indexes within an index are rare, and one level deep where they occur.
const MAX_MANIFESTS: usize = 16;

/// Why a reference leads to no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry does not give it.
    #[error("cannot look up {image}")]
    Registry {
        /// The image.
        image: String,
        /// The registry's answer.
        #[source]
        source: Box<jaunt_distribution::Error>,
    },
    /// One of its documents is malformed.
    #[error("{what} {digest} of {image}")]
    Json {
        /// The image.
        image: String,
        /// Which kind of document.
        what: &'static str,
        /// Which one.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// None for the platform.
    #[error("{image} has no image for {platform}; it has: {found}")]
    Platform {
        /// The image.
        image: String,
        /// The platform asked for.
        platform: Platform,
        /// The platforms there are.
        found: String,
    },
    /// An artifact, or an image of nothing.
    #[error("{image} is no image: {why}")]
    NotAnImage {
        /// The reference.
        image: String,
        /// What it is instead.
        why: &'static str,
    },
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    platform: Option<PlatformRecord>,
}

#[derive(Deserialize)]
struct PlatformRecord {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(flatten)]
    platform: PlatformRecord,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl PlatformRecord {
    fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

/// The topmost layer of the image for `platform`, described as containerd would: its chain is the whole image.
pub(super) async fn topmost_layer(
    client: &Client,
    image: &Reference,
    platform: &Platform,
) -> Result<RemoteLayer, ImageError> {
    let lookup = Lookup { client, image, repository: Repository::from(image), platform };
    lookup.run().await
}

struct Lookup<'a> {
    client: &'a Client,
    image: &'a Reference,
    repository: Repository,
    platform: &'a Platform,
}

impl Lookup<'_> {
    async fn run(&self) -> Result<RemoteLayer, ImageError> {
        let mut found = Vec::new();
        let mut pending = vec![self.image.manifest_name()];
        for _ in 0..MAX_MANIFESTS {
            let Some(name) = pending.pop() else { break };
            let fetched = self.client.manifest(&self.repository, &name, &ACCEPT).await;
            let fetched = fetched.map_err(|source| self.registry(source))?;
            if !INDEXES.contains(&fetched.media_type.as_str()) {
                let (layer, platform) = self.layer(fetched.digest, &fetched.bytes).await?;
                if self.platform.includes(&platform) {
                    return Ok(layer);
                }
                found.push(platform.to_string());
                continue;
            }
            let index: Index = self.parse("image index", fetched.digest, &fetched.bytes)?;
            // The last pushed is looked at first: those that say their platform, in their order.
            let (said, unsaid): (Vec<_>, Vec<_>) =
                index.manifests.into_iter().partition(|d| d.platform.is_some());
            let nested = unsaid.iter().filter(|d| INDEXES.contains(&d.media_type.as_str()));
            pending.extend(nested.rev().map(|d| d.digest.to_string()));
            for descriptor in said.iter().rev() {
                match descriptor.platform.as_ref().map(PlatformRecord::platform) {
                    Some(platform) if self.platform.includes(&platform) => {
                        pending.push(descriptor.digest.to_string())
                    }
                    // Attestations say `unknown`.
                    Some(platform) if platform.os() != "unknown" => found.push(platform.to_string()),
                    _ => {}
                }
            }
        }
        found.sort();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        Err(ImageError::Platform { image: self.image.to_string(), platform: self.platform.clone(), found })
    }

    async fn layer(&self, manifest: Digest, bytes: &[u8]) -> Result<(RemoteLayer, Platform), ImageError> {
        let not_an_image = |why| ImageError::NotAnImage { image: self.image.to_string(), why };
        let document: Manifest = self.parse("manifest", manifest, bytes)?;
        let config = document.config.digest;
        let bytes = self.client.blob(&self.repository, &config, CONFIG_LIMIT).await;
        let bytes = bytes.map_err(|source| self.registry(source))?;
        let config: Config = self.parse("configuration", config, &bytes)?;
        let rootfs =
            config.rootfs.ok_or_else(|| not_an_image("its configuration names no root file system"))?;
        let diff_ids: Vec<DiffId> = rootfs.diff_ids.into_iter().map(DiffId).collect();
        let target = ChainId::of(&diff_ids).ok_or_else(|| not_an_image("it has no layers"))?;
        let layer = document.layers.last().ok_or_else(|| not_an_image("it has no layers"))?.digest;
        let image = self.image.clone();
        Ok((RemoteLayer { target, image, manifest, layer }, config.platform.platform()))
    }

    fn parse<T: DeserializeOwned>(
        &self,
        what: &'static str,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|source| ImageError::Json {
            image: self.image.to_string(),
            what,
            digest,
            source,
        })
    }

    fn registry(&self, source: jaunt_distribution::Error) -> ImageError {
        ImageError::Registry { image: self.image.to_string(), source: Box::new(source) }
    }
}
