//! Copies an image, or an index with all its images, to another repository, bit for bit.
//!
//! Blobs go first, then the manifests that name them, the tag last. Blobs of the same registry are
//! mounted, not moved.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::{Client, Error as RegistryError, Manifest, Repository};
use jaunt_formats::Reference;

use crate::console::{Console, bytes};
use crate::error::Error;
use crate::image::ACCEPT;
use crate::manifest::{self, Descriptor, ImageIndex, ImageManifest};

/// Blobs under way at the same time.
const PARALLEL: usize = 3;

/// Copies what `from` names to `to`.
pub async fn copy(client: &Client, from: &Reference, to: &Reference, console: &Console) -> Result<(), Error> {
    let (source, target) = (Repository::from(from), Repository::from(to));
    let top = client.manifest(&source, &from.manifest_name(), &ACCEPT).await?;
    let mut copied = 0;
    if manifest::is_index(&top) {
        for child in manifest::parse::<ImageIndex>("index", top.digest, &top.bytes)?.manifests {
            let name = child.digest.to_string();
            let child = client.manifest(&source, &name, &ACCEPT).await?;
            copied += copy_blobs(client, &source, &target, &child).await?;
            client.push_manifest(&target, &name, &child.media_type, child.bytes).await?;
        }
    } else {
        copied += copy_blobs(client, &source, &target, &top).await?;
    }
    client.push_manifest(&target, &to.manifest_name(), &top.media_type, top.bytes).await?;
    console.line(&format!("copied {from} to {to}, {} moved", bytes(copied)));
    Ok(())
}

/// Copies what a manifest names; how many bytes were moved.
async fn copy_blobs(
    client: &Client,
    source: &Repository,
    target: &Repository,
    manifest: &Manifest,
) -> Result<u64, Error> {
    if source == target {
        return Ok(0);
    }
    let named: ImageManifest = manifest::parse("manifest", manifest.digest, &manifest.bytes)?;
    let here = |blob: &Descriptor| blob.urls.as_ref().is_none_or(Vec::is_empty);
    let blobs = named.layers.into_iter().chain([named.config]).filter(here);
    let moved = stream::iter(blobs.map(|blob| copy_blob(client, source, target, blob)));
    let moved: Vec<u64> = moved.buffer_unordered(PARALLEL).try_collect().await?;
    Ok(moved.into_iter().sum())
}

async fn copy_blob(
    client: &Client,
    source: &Repository,
    target: &Repository,
    blob: Descriptor,
) -> Result<u64, Error> {
    let digest = &blob.digest;
    if client.blob_exists(target, digest).await?.is_some()
        || client.mount_blob(target, source, digest).await?
    {
        return Ok(0);
    }
    let mut pieces = client.blob_stream(source, digest).await?;
    let mut upload = client.start_upload(target).await?;
    let written: Result<(), RegistryError> = async {
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
    // The registry checks the digest.
    upload.finish(digest, blob.size).await?;
    Ok(blob.size)
}
