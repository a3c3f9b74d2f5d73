//! Where signatures are kept: an image manifest, a layer each, to which further ones are added.
//!
//! Fields are written in the order of go-containerregistry, so that a first signature's manifest and config
//! are byte for byte cosign's own. What others put in is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Payload, Signature, VerifyingKey};
use crate::Digest;
use crate::media_type::{OCI_CONFIG, OCI_MANIFEST};

pub use super::payload::MAX_PAYLOAD_LEN;

/// Media type of a layer that is a signed document.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of such a layer: the signature.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Signatures of one manifest that are read; cosign's own limit.
pub const MAX_SIGNATURES: usize = 1000;
/// What Go writes for no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Why bytes are not a manifest of signatures.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("{what} of the signatures is malformed: {source}")]
    Json {
        /// Manifest or config.
        what: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// More than anybody reads.
    #[error("{0} signatures are more than {MAX_SIGNATURES}")]
    TooMany(usize),
}

/// A signature as a manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The document that is signed: a blob.
    pub payload: Digest,
    /// Its length.
    pub size: u64,
    /// The signature, in base64.
    pub signature: String,
}

/// What there is already, as it was fetched.
#[derive(Clone, Copy, Debug)]
pub struct Existing<'b> {
    /// The manifest.
    pub manifest: &'b [u8],
    /// Its config.
    pub config: &'b [u8],
}

/// What is to be pushed: config and document as blobs, then the manifest under the tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The document that was signed.
    pub payload: Vec<u8>,
    /// The new config.
    pub config: Vec<u8>,
    /// The new manifest.
    pub manifest: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default = "oci_manifest")]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    size: u64,
    digest: Digest,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default = "no_time")]
    created: String,
    #[serde(default)]
    history: Vec<Value>,
    #[serde(default)]
    os: String,
    rootfs: RootFs,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

fn oci_manifest() -> String {
    OCI_MANIFEST.to_owned()
}

fn no_time() -> String {
    NO_TIME.to_owned()
}

/// The signatures that a manifest lists.
///
/// # Errors
/// It is no manifest, or lists too many.
pub fn list(manifest: &[u8]) -> Result<Vec<Listed>, ManifestError> {
    let manifest = read(manifest)?;
    let signatures = manifest.layers.into_iter().filter(|layer| layer.media_type == SIMPLE_SIGNING);
    let listed = signatures.filter_map(|mut layer| {
        let signature = layer.annotations.remove(SIGNATURE).filter(|signature| !signature.is_empty())?;
        Some(Listed { payload: layer.digest, size: layer.size, signature })
    });
    Ok(listed.collect())
}

/// The digest of a manifest's config, which [`add`] needs too.
///
/// # Errors
/// It is no manifest.
pub fn config(manifest: &[u8]) -> Result<Digest, ManifestError> {
    read(manifest).map(|manifest| manifest.config.digest)
}

/// Adds a signature of `payload` to what there is; `None` if a signature of the same by the same key is there.
///
/// # Errors
/// What there is can neither be read nor be thrown away.
pub fn add(
    existing: Option<Existing<'_>>,
    payload: &Payload,
    signature: &Signature,
    key: &VerifyingKey,
) -> Result<Option<Addition>, ManifestError> {
    let document = payload.to_bytes();
    let (digest, size) = (Digest::of(&document), document.len() as u64);
    let (mut manifest, mut config) = match existing {
        Some(existing) => (read(existing.manifest)?, read_config(existing.config)?),
        None => (empty_manifest(), empty_config()),
    };
    let same = |layer: &Descriptor| {
        let known = layer.annotations.get(SIGNATURE).and_then(|signature| Signature::parse(signature));
        layer.digest == digest && known.is_some_and(|known| key.verify(&document, &known))
    };
    if manifest.layers.iter().any(same) {
        return Ok(None);
    }
    if manifest.layers.len() >= MAX_SIGNATURES {
        return Err(ManifestError::TooMany(manifest.layers.len() + 1));
    }
    config.history.push(Map::from_iter([("created".to_owned(), NO_TIME.into())]).into());
    config.rootfs.diff_ids.push(digest);
    let annotations = BTreeMap::from([(SIGNATURE.to_owned(), signature.to_base64())]);
    let media_type = SIMPLE_SIGNING.to_owned();
    manifest.layers.push(Descriptor { media_type, size, digest, annotations, rest: Map::new() });
    let config = encode("config", &config)?;
    (manifest.config.digest, manifest.config.size) = (Digest::of(&config), config.len() as u64);
    Ok(Some(Addition { payload: document, config, manifest: encode("manifest", &manifest)? }))
}

fn empty_manifest() -> Manifest {
    let config = Descriptor {
        media_type: OCI_CONFIG.to_owned(),
        size: 0,
        digest: Digest::of(b""),
        annotations: BTreeMap::new(),
        rest: Map::new(),
    };
    Manifest { schema_version: 2, media_type: oci_manifest(), config, layers: Vec::new(), rest: Map::new() }
}

fn empty_config() -> Config {
    Config {
        architecture: String::new(),
        created: no_time(),
        history: Vec::new(),
        os: String::new(),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
        config: Map::new(),
        rest: Map::new(),
    }
}

fn read(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let manifest: Manifest = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Json { what: "the manifest", source })?;
    match manifest.layers.len() {
        0..=MAX_SIGNATURES => Ok(manifest),
        layers => Err(ManifestError::TooMany(layers)),
    }
}

fn read_config(bytes: &[u8]) -> Result<Config, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what: "the config", source })
}

fn encode(what: &'static str, value: &impl Serialize) -> Result<Vec<u8>, ManifestError> {
    serde_json::to_vec(value).map_err(|source| ManifestError::Json { what, source })
}
