//! What is signed: the "simple signing" document of containers/image, as cosign fills it.

use serde::{Deserialize, Serialize};

use crate::{Digest, Reference};

/// `critical.type` of every such document.
const TYPE: &str = "cosign container image signature";
/// Docker Hub as Go's tools write it.
const DOCKER_HUB: &str = "index.docker.io";
/// Bytes of a document; an honest one has some 250, besides what its annotations add.
pub const MAX_PAYLOAD_LEN: u64 = 64 << 10;

/// A statement that a manifest is what its signer says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    identity: String,
    digest: Digest,
}

/// Why bytes are no such document.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Larger than any honest one.
    #[error("signed document of {0} bytes is larger than {MAX_PAYLOAD_LEN}")]
    TooLarge(usize),
    /// Not the JSON it should be.
    #[error("signed document is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// A document of another kind.
    #[error("signed document is of type {0:?}")]
    Type(String),
}

#[derive(Serialize, Deserialize)]
struct Document {
    critical: Critical,
    #[serde(default)]
    optional: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Serialize, Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Digest,
}

impl Payload {
    /// The statement about a manifest in the repository of `reference`.
    pub fn new(reference: &Reference, digest: Digest) -> Self {
        let host = if reference.host() == "docker.io" { DOCKER_HUB } else { reference.host() };
        Self { identity: format!("{host}/{}", reference.repository()), digest }
    }

    /// A statement about a manifest that is in no registry.
    pub fn with_identity(identity: &str, digest: Digest) -> Self {
        Self { identity: identity.to_owned(), digest }
    }

    /// Where the signer says that it is: by convention host and repository.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The manifest that is signed.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes that are signed, to the last one as cosign writes them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let document = Document {
            critical: Critical {
                identity: Identity { docker_reference: self.identity.clone() },
                image: Image { docker_manifest_digest: self.digest },
                kind: TYPE.to_owned(),
            },
            optional: None,
        };
        // Text, a digest and a constant: nothing in it can fail to be JSON.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Reads a document.
    ///
    /// # Errors
    /// It is too large, malformed, or of another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.len() as u64 > MAX_PAYLOAD_LEN {
            return Err(PayloadError::TooLarge(bytes.len()));
        }
        let Document { critical, .. } = serde_json::from_slice(bytes)?;
        if critical.kind != TYPE {
            return Err(PayloadError::Type(critical.kind));
        }
        let Critical { identity, image, .. } = critical;
        Ok(Self { identity: identity.docker_reference, digest: image.docker_manifest_digest })
    }
}
