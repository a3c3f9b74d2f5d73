//! Copies an image, or an index with all its images, to another place, bit for bit.
//!
//! Blobs go first, then the manifests that name them, the tag last. Blobs of the same registry are
//! mounted, not moved.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::{Client, Manifest};

use crate::console::{Console, bytes};
use crate::error::Error;
use crate::image::ACCEPT;
use crate::manifest::{self, Descriptor, ImageIndex, ImageManifest};
use crate::place::{ImageName, Place, PlaceError};

/// Blobs under way at the same time.
const PARALLEL: usize = 3;

/// Copies what `from` names to `to`.
pub async fn copy(client: &Client, from: &ImageName, to: &ImageName, console: &Console) -> Result<(), Error> {
    let (source, target) = (Place::of(client, from), Place::of(client, to));
    let top = source.manifest(&from.manifest_name(), &ACCEPT).await?;
    let mut copied = 0;
    if manifest::is_index(&top) {
        for child in manifest::parse::<ImageIndex>("index", top.digest, &top.bytes)?.manifests {
            let name = child.digest.to_string();
            let child = source.manifest(&name, &ACCEPT).await?;
            copied += copy_blobs(&source, &target, &child).await?;
            target.push_manifest(&name, &child.media_type, child.bytes).await?;
        }
    } else {
        copied += copy_blobs(&source, &target, &top).await?;
    }
    target.push_manifest(&to.manifest_name(), &top.media_type, top.bytes).await?;
    console.line(&format!("copied {from} to {to}, {} moved", bytes(copied)));
    Ok(())
}

/// Copies what a manifest names; how many bytes were moved.
async fn copy_blobs(source: &Place, target: &Place, manifest: &Manifest) -> Result<u64, Error> {
    if source.is_same(target) {
        return Ok(0);
    }
    let named: ImageManifest = manifest::parse("manifest", manifest.digest, &manifest.bytes)?;
    let here = |blob: &Descriptor| blob.urls.as_ref().is_none_or(Vec::is_empty);
    let blobs = named.layers.into_iter().chain([named.config]).filter(here);
    let moved = stream::iter(blobs.map(|blob| copy_blob(source, target, blob)));
    let moved: Vec<u64> = moved.buffer_unordered(PARALLEL).try_collect().await?;
    Ok(moved.into_iter().sum())
}

async fn copy_blob(source: &Place, target: &Place, blob: Descriptor) -> Result<u64, Error> {
    let digest = &blob.digest;
    if target.blob_exists(digest).await?.is_some() || target.mount_from(source, digest).await? {
        return Ok(0);
    }
    let mut pieces = source.blob_stream(digest).await?;
    let mut upload = target.start_upload().await?;
    let written: Result<(), PlaceError> = async {
        while let Some(piece) = pieces.try_next().await? {
            upload.write(piece).await?;
        }
        Ok(())
    }
    .await;
    if let Err(error) = written {
        upload.abort().await;
        return Err(error.into());
    }
    // The place checks the digest.
    upload.finish(digest, blob.size).await?;
    Ok(blob.size)
}
