//! Why original blobs could not be brought.

use jaunt_formats::Digest;

use crate::unix_channel::Unreachable;

/// A failed attempt; what was written of a blob stays, and the next attempt goes on there.
#[derive(Debug, thiserror::Error)]
pub enum OriginalsError {
    /// containerd does not run there.
    #[error("containerd is {0}")]
    Unreachable(#[source] Unreachable),
    /// containerd refuses a call.
    #[error("containerd refuses to {what}: {}", status.message())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// No image has that name.
    #[error("containerd has no image {image:?} in namespace {namespace:?}")]
    NoImage {
        /// The name.
        image: String,
        /// The namespace.
        namespace: String,
    },
    /// The image's name stands for something that containerd does not have.
    #[error("{0} is not in containerd's content store: pull the image again")]
    NotHere(Digest),
    /// containerd gives bytes that are not those of the digest.
    #[error("{0} is damaged in containerd's content store: pull the image again")]
    Damaged(Digest),
    /// Longer than any manifest.
    #[error("{0} is longer than a manifest may be")]
    TooLarge(Digest),
    /// Neither a manifest nor an index.
    #[error("{digest} is not a manifest")]
    Manifest {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Nobody knows where the image came from.
    #[error("no repository is known to hold layer {0}")]
    NoSource(Digest),
    /// The registry has deleted it.
    #[error(
        "the original layer {layer} is no longer in {repositories}: it cannot be made of its converted blob, \
         which gives the same files and other bytes; push the image to the registry again, and repeat this"
    )]
    Gone {
        /// The layer's blob.
        layer: Digest,
        /// Where it was looked for.
        repositories: String,
    },
    /// The registry cannot be read.
    #[error("cannot fetch layer {layer}")]
    Fetch {
        /// The layer's blob.
        layer: Digest,
        /// The cause.
        #[source]
        source: jaunt_distribution::Error,
    },
    /// The registry gives other bytes.
    #[error("{repository} gives wrong bytes for layer {layer}")]
    Wrong {
        /// The layer's blob.
        layer: Digest,
        /// Where it came from.
        repository: String,
    },
}

/// For `map_err`: names what was asked of containerd.
pub(super) fn refused(what: &'static str) -> impl FnOnce(tonic::Status) -> OriginalsError {
    move |status| OriginalsError::Refused { what, status: Box::new(status) }
}
