//! The JSON documents of an image, as much of them as a converter reads or writes.
//!
//! Maps are sorted, so that equal documents are equal bytes and have equal digests.

use std::collections::BTreeMap;

use bytes::Bytes;
use jaunt_distribution::Manifest;
use jaunt_formats::media_type::{DOCKER_LIST, OCI_INDEX, OCI_MANIFEST};
use jaunt_formats::{Digest, Platform};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

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

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// The platform of an entry of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlatformJson {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl PlatformJson {
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
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

/// An image's config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(flatten)]
    pub platform: PlatformJson,
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<String>,
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

pub fn is_index(manifest: &Manifest) -> bool {
    [OCI_INDEX, DOCKER_LIST].contains(&manifest.media_type.as_str())
}

/// What a manifest says it is, or what its fields show it to be.
pub fn media_type(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    let shown = || match shape {
        Shape { manifests: Some(_), .. } => Some(OCI_INDEX.to_owned()),
        Shape { layers: Some(_), .. } => Some(OCI_MANIFEST.to_owned()),
        _ => None,
    };
    shape.media_type.or_else(shown)
}
