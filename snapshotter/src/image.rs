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
pub(crate) async fn topmost_layer(
    client: &Client,
    image: &Reference,
    platform: &Platform,
) -> Result<RemoteLayer, ImageError> {
    let lookup = Lookup { client, image, repository: Repository::from(image), platform };
    lookup.run().await
}

/// The digest of the image's manifest for `platform`, with one request: an index is believed in what it says of platforms, and a
/// manifest that nobody says anything of is taken for this one's.
pub(crate) async fn manifest(
    client: &Client,
    image: &Reference,
    platform: &Platform,
) -> Result<Digest, ImageError> {
    let lookup = Lookup { client, image, repository: Repository::from(image), platform };
    let fetched = lookup.fetch(&image.manifest_name()).await?;
    if !INDEXES.contains(&fetched.media_type.as_str()) {
        return Ok(fetched.digest);
    }
    let index: Index = lookup.parse("image index", fetched.digest, &fetched.bytes)?;
    let mut found = Vec::new();
    lookup.choose(&index, &mut found).last().copied().ok_or_else(|| lookup.none_of(found))
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
            let fetched = self.fetch(&name).await?;
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
            let nested = index.manifests.iter().filter(|d| d.platform.is_none());
            let nested = nested.filter(|d| INDEXES.contains(&d.media_type.as_str()));
            pending.extend(nested.rev().map(|d| d.digest.to_string()));
            pending.extend(self.choose(&index, &mut found).iter().map(Digest::to_string));
        }
        Err(self.none_of(found))
    }

    async fn fetch(&self, name: &str) -> Result<jaunt_distribution::Manifest, ImageError> {
        let fetched = self.client.manifest(&self.repository, name, &ACCEPT).await;
        fetched.map_err(|source| self.registry(source))
    }

    /// Those of an index that say that they are for the platform, the first one last; of the others, what they say.
    fn choose(&self, index: &Index, found: &mut Vec<String>) -> Vec<Digest> {
        let mut chosen = Vec::new();
        for descriptor in index.manifests.iter().rev() {
            match descriptor.platform.as_ref().map(PlatformRecord::platform) {
                Some(platform) if self.platform.includes(&platform) => chosen.push(descriptor.digest),
                // Attestations say `unknown`.
                Some(platform) if platform.os() != "unknown" => found.push(platform.to_string()),
                _ => {}
            }
        }
        chosen
    }

    fn none_of(&self, mut found: Vec<String>) -> ImageError {
        found.sort();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        ImageError::Platform { image: self.image.to_string(), platform: self.platform.clone(), found }
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
