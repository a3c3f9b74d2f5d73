//! The JSON documents of an image, as much of them as a converter reads or writes.
//!
//! Maps are sorted, so that equal documents are equal bytes and have equal digests.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use jaunt_distribution::Manifest;
use jaunt_formats::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use jaunt_formats::{Digest, Platform};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// A document that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{what} {digest} is malformed: {source}")]
pub struct DocumentError {
    what: &'static str,
    digest: Digest,
    source: serde_json::Error,
}

pub type Annotations = BTreeMap<String, String>;

/// What names a blob or a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, artifact_type: None, annotations: None, platform: None, urls: None }
    }

    /// Whether it says that the bytes are to be had from somewhere else.
    pub fn is_elsewhere(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }

    /// Layers that may not be distributed are often where they come from, and nowhere else.
    pub fn may_be_missing(&self) -> bool {
        let media_type = &self.media_type;
        self.is_elsewhere() || media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// The platform of an entry of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlatformJson {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl PlatformJson {
    /// `None` of one that leaves out what it must say: the image's config says it as well.
    pub fn platform(&self) -> Option<Platform> {
        if self.os.is_empty() || self.architecture.is_empty() {
            return None;
        }
        Some(Platform::new(&self.os, &self.architecture, self.variant.as_deref()))
    }
}

/// The manifest of an image or of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

/// An index of manifests: one for each platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageIndex {
    pub manifests: Vec<Descriptor>,
}

/// The same, whatever its entries are.
#[derive(Clone, Debug, Deserialize)]
pub struct LooseIndex {
    pub manifests: Vec<Value>,
}

/// An image's config.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ImageConfig {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    pub rootfs: RootFs,
    /// When it was made, in the text of RFC 3339. Of as little importance as what follows.
    #[serde(default)]
    created: Option<Value>,
    /// What is run, unless somebody says otherwise. Of no importance to anything that must be right.
    #[serde(default)]
    pub config: Option<Value>,
}

/// What an image runs, as its config says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Command {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl Command {
    /// Words that are looked at; what follows are arguments that name no files that a start reads.
    const MAX_WORDS: usize = 64;

    /// All words, the program's first.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let words = self.entrypoint.iter().flatten().chain(self.cmd.iter().flatten());
        words.map(String::as_str).take(Self::MAX_WORDS)
    }

    /// A variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let set = |entry: &str| entry.split_once('=').is_some_and(|(key, _)| key == name);
        let last = self.env.iter().flatten().rfind(|entry| set(entry))?;
        last.split_once('=').map(|(_, value)| value)
    }

    /// Where the program begins.
    pub fn working_dir(&self) -> &str {
        self.working_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or("/")
    }
}

impl ImageConfig {
    /// What it runs; nothing, where it says that in a way that nobody understands.
    pub fn command(&self) -> Command {
        self.config.clone().and_then(|config| serde_json::from_value(config).ok()).unwrap_or_default()
    }

    /// When it was made, in whatever words.
    pub fn created(&self) -> Option<String> {
        self.created.as_ref().and_then(Value::as_str).map(str::to_owned)
    }

    /// Old images state no operating system; there was but one.
    pub fn platform(&self) -> Platform {
        let os = self.os.as_deref().filter(|os| !os.is_empty()).unwrap_or("linux");
        Platform::new(os, self.architecture.as_deref().unwrap_or_default(), self.variant.as_deref())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// What a manifest of any kind says of itself, as much as one who looks for referrers wants to know.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Relation {
    artifact_type: Option<String>,
    config: Option<MediaType>,
    subject: Option<Descriptor>,
    annotations: Option<Annotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MediaType {
    media_type: String,
}

impl Relation {
    /// `None` of what is no manifest.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The manifest that it refers to.
    pub fn subject(&self) -> Option<Digest> {
        self.subject.as_ref().map(|subject| subject.digest)
    }

    /// An artifact without a type has that of its config.
    pub fn artifact_type(&self) -> Option<String> {
        let own = self.artifact_type.clone().filter(|kind| !kind.is_empty());
        own.or_else(|| self.config.as_ref().map(|config| config.media_type.clone()))
    }

    /// The descriptor under which it is listed among its subject's referrers.
    pub fn describe(self, named: Descriptor) -> Descriptor {
        Descriptor { artifact_type: self.artifact_type(), annotations: self.annotations, ..named }
    }
}

/// Reads a document; an error names which.
pub fn parse<T: DeserializeOwned>(
    what: &'static str,
    digest: Digest,
    bytes: &[u8],
) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError { what, digest, source })
}

/// Writes a document, and computes its digest.
pub fn encode<T: Serialize>(document: &T) -> Result<(Digest, Bytes), std::io::Error> {
    let bytes = serde_json::to_vec(document)?;
    Ok((Digest::of(&bytes), bytes.into()))
}

/// The blobs that a manifest names, each once: its layers and its config.
pub fn blobs(manifest: &Manifest) -> Result<Vec<Descriptor>, DocumentError> {
    #[derive(Deserialize)]
    struct Blobs {
        config: Option<Descriptor>,
        // The image spec's artifacts before 1.1 have blobs.
        #[serde(default, alias = "blobs")]
        layers: Vec<Descriptor>,
    }
    let named: Blobs = parse("manifest", manifest.digest, &manifest.bytes)?;
    let mut blobs: Vec<_> = named.layers.into_iter().chain(named.config).collect();
    let mut known = HashSet::new();
    blobs.retain(|blob| known.insert(blob.digest));
    Ok(blobs)
}

/// What a manifest of some media type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Image,
    Index,
    /// Docker's first: layers without diffIDs, and digests of parts of itself.
    Schema1,
    Other,
}

pub fn kind(media_type: &str) -> Kind {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Kind::Image,
        OCI_INDEX | DOCKER_LIST => Kind::Index,
        DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED => Kind::Schema1,
        _ => Kind::Other,
    }
}

pub fn is_index(manifest: &Manifest) -> bool {
    kind(&manifest.media_type) == Kind::Index
}

/// The media type of a manifest: what it says itself, else what it is `stated` to be where it is kept,
/// else what its fields show, for the image spec lets it say nothing.
///
/// One that is a list of manifests and of layers at the same time would be two things to two readers; it is
/// none to us.
pub fn media_type(bytes: &[u8], stated: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: Option<u32>,
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else { return String::new() };
    if shape.manifests.is_some() && shape.layers.is_some() {
        return String::new();
    }
    let known = |media_type: &str| kind(media_type) != Kind::Other;
    match shape {
        Shape { media_type: Some(own), .. } if !own.is_empty() => own,
        _ if known(stated) => stated.to_owned(),
        Shape { schema_version: Some(1), .. } => DOCKER_SCHEMA1.to_owned(),
        Shape { manifests: Some(_), .. } => OCI_INDEX.to_owned(),
        Shape { layers: Some(_), .. } => OCI_MANIFEST.to_owned(),
        _ => stated.to_owned(),
    }
}
