//! Where images are kept: every command works on places, whatever they are.
//!
//! A place holds blobs by digest, manifests by digest and by tag, and knows which manifests name another
//! as their subject. Whole blobs and manifests are verified; streams and ranges are not, and say so: their
//! consumers hash what they read in any case.

mod error;
mod layout;
mod name;
mod registry;
mod upload;

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;
pub use jaunt_distribution::TagMove;
use jaunt_distribution::{Client, Manifest, PushedManifest};
use jaunt_formats::Digest;

pub use error::PlaceError;
use layout::LayoutPlace;
pub use name::{ImageName, NameError};
use registry::RegistryPlace;
pub use upload::Upload;

use crate::manifest::{self, Descriptor};

/// A blob's bytes as they arrive. **Unverified**: the consumer checks their digest.
pub type BlobStream = BoxStream<'static, Result<Bytes, PlaceError>>;

/// One repository of images.
#[derive(Clone, Debug)]
pub enum Place {
    /// A repository of a registry.
    Registry(RegistryPlace),
    /// An OCI layout on disk.
    Layout(LayoutPlace),
}

impl Place {
    /// The place that a name is in. Nothing is read yet.
    pub fn of(client: &Client, name: &ImageName) -> Self {
        match name {
            ImageName::Registry(reference) => Self::Registry(RegistryPlace::new(client, reference)),
            ImageName::Layout(name) => Self::Layout(LayoutPlace::new(name.directory())),
        }
    }

    /// Whether both are the same place, so that nothing has to be brought from one to the other.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Registry(one), Self::Registry(other)) => one.is_same(other),
            (Self::Layout(one), Self::Layout(other)) => one.is_same(other),
            _ => false,
        }
    }

    /// Whether blobs of one could be made known in the other without moving them.
    pub fn shares_registry(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Registry(one), Self::Registry(other)) => one.shares_registry(other),
            _ => false,
        }
    }

    /// A manifest by tag or digest, verified. No name at all is the only image of a layout.
    pub async fn manifest(&self, name: &str, accept: &[&str]) -> Result<Manifest, PlaceError> {
        let found = match self {
            Self::Registry(place) => place.manifest(name, accept).await?,
            Self::Layout(place) => place.manifest(name).await?,
        };
        Ok(Manifest { media_type: manifest::media_type(&found.bytes, &found.media_type), ..found })
    }

    /// The same, with `None` when there is no such manifest.
    pub async fn manifest_if_exists(
        &self,
        name: &str,
        accept: &[&str],
    ) -> Result<Option<Manifest>, PlaceError> {
        match self.manifest(name, accept).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The digest of a manifest, at the least cost: a registry's word is taken for it.
    pub async fn manifest_digest(&self, name: &str, accept: &[&str]) -> Result<Digest, PlaceError> {
        match self {
            Self::Registry(place) => place.manifest_digest(name, accept).await,
            Self::Layout(place) => Ok(place.manifest(name).await?.digest),
        }
    }

    /// Stores a manifest under a tag or its digest. What comes back says whether its subject lists it.
    pub async fn push_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedManifest, PlaceError> {
        match self {
            Self::Registry(place) => place.push_manifest(name, media_type, bytes).await,
            Self::Layout(place) => Ok(place.push_manifest(name, media_type, bytes).await?),
        }
    }

    /// Has a tag name another manifest, if it still names `expected`, or nothing if that is `None`. Few registries
    /// can do this on condition: at the others, somebody has a moment to come in between.
    pub async fn move_tag(
        &self,
        tag: &str,
        expected: Option<Digest>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<TagMove, PlaceError> {
        match self {
            Self::Registry(place) => place.move_tag(tag, expected, media_type, bytes).await,
            Self::Layout(place) => Ok(place.move_tag(tag, expected, media_type, bytes).await?),
        }
    }

    /// Every tag; none when the place does not exist.
    pub async fn tags(&self) -> Result<Vec<String>, PlaceError> {
        match self {
            Self::Registry(place) => place.tags().await,
            Self::Layout(place) => Ok(place.tags().await?),
        }
    }

    /// Deletes a manifest and every tag that names it. Many registries do not allow it.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<(), PlaceError> {
        match self {
            Self::Registry(place) => place.delete_manifest(digest).await,
            Self::Layout(place) => Ok(place.delete_manifest(digest).await?),
        }
    }

    /// Deletes a tag and leaves its manifest; `false` when the place cannot do that.
    pub async fn delete_tag(&self, tag: &str) -> Result<bool, PlaceError> {
        match self {
            Self::Registry(place) => place.delete_tag(tag).await,
            Self::Layout(place) => Ok(place.delete_tag(tag).await?),
        }
    }

    /// Removes those of some blobs that nothing names any more; how many bytes that freed. `None` when that is
    /// not for us to do: a registry does it itself, and a layout that others are writing to can wait.
    pub async fn collect(&self, candidates: Vec<Digest>) -> Result<Option<u64>, PlaceError> {
        match self {
            Self::Registry(_) => Ok(None),
            Self::Layout(place) => Ok(place.collect(candidates).await?),
        }
    }

    /// The manifests whose subject is `subject`, of one artifact type or of all.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, PlaceError> {
        match self {
            Self::Registry(place) => place.referrers(subject, artifact_type).await,
            Self::Layout(place) => Ok(place.referrers(subject, artifact_type).await?),
        }
    }

    /// A whole blob of at most `limit` bytes, verified.
    pub async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, PlaceError> {
        match self {
            Self::Registry(place) => place.blob(digest, limit).await,
            Self::Layout(place) => Ok(place.blob(digest, limit).await?),
        }
    }

    /// A blob's bytes as they arrive. **Unverified**: the caller checks their digest.
    pub async fn blob_stream(&self, digest: &Digest) -> Result<BlobStream, PlaceError> {
        match self {
            Self::Registry(place) => place.blob_stream(digest).await,
            Self::Layout(place) => Ok(place.blob_stream(digest).await?),
        }
    }

    /// Exactly the bytes of a range, or an error. **Unverified**: the caller checks them.
    pub async fn blob_range(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes, PlaceError> {
        match self {
            Self::Registry(place) => place.blob_range(digest, range).await,
            Self::Layout(place) => Ok(place.blob_range(digest, range).await?),
        }
    }

    /// A blob's length, or `None` when it is not there.
    pub async fn blob_exists(&self, digest: &Digest) -> Result<Option<u64>, PlaceError> {
        match self {
            Self::Registry(place) => place.blob_exists(digest).await,
            Self::Layout(place) => Ok(place.blob_exists(digest).await?),
        }
    }

    /// Stores a blob held in memory.
    pub async fn push_blob(&self, digest: &Digest, bytes: Bytes) -> Result<(), PlaceError> {
        match self {
            Self::Registry(place) => place.push_blob(digest, bytes).await,
            Self::Layout(place) => Ok(place.push_blob(digest, bytes).await?),
        }
    }

    /// Begins to store a blob whose digest is known at its end.
    pub async fn start_upload(&self) -> Result<Upload, PlaceError> {
        match self {
            Self::Registry(place) => place.start_upload().await,
            Self::Layout(place) => Ok(Upload::Layout(place.start_upload().await?)),
        }
    }

    /// Makes a blob of another place known in this one without moving its bytes; `false` when that
    /// cannot be done: then store it.
    pub async fn mount_from(&self, from: &Self, digest: &Digest) -> Result<bool, PlaceError> {
        match (self, from) {
            (Self::Registry(to), Self::Registry(from)) => to.mount_from(from, digest).await,
            _ => Ok(false),
        }
    }
}
