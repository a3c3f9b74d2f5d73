//! From a reference to the images behind it: one, or one for each platform of an index.
//!
//! What is no Linux image, such as an attestation or a Windows image, is skipped with a reason.

use bytes::Bytes;
use jaunt_distribution::Manifest;
use jaunt_formats::media_type::{
    DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER,
    OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, ORIGINAL_MANIFEST,
};
use jaunt_formats::{DiffId, Digest, Platform};

use crate::error::Error;
use crate::manifest::{self, Descriptor, ImageConfig, ImageIndex, ImageManifest};
use crate::place::{ImageName, Place};

/// Every manifest of an image, or of an index of images.
pub const ACCEPT: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
/// Configs hold a history, and no more.
const CONFIG_LIMIT: u64 = 8 << 20;

/// One image: a manifest with its config.
#[derive(Clone, Debug)]
pub struct Image {
    /// Names the manifest: media type, digest, size.
    pub descriptor: Descriptor,
    /// The manifest, bit for bit.
    pub manifest: Bytes,
    pub platform: Platform,
    /// Bottom to top.
    pub layers: Vec<Layer>,
    /// The manifest that this one stands for, as replace mode made it.
    pub original: Option<String>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    pub descriptor: Descriptor,
    pub diff_id: DiffId,
}

/// A manifest behind the reference that is no image to convert.
#[derive(Clone, Debug)]
pub struct Skipped {
    pub digest: Digest,
    pub reason: String,
}

/// What a reference stands for.
#[derive(Debug)]
pub struct Resolved {
    /// What the reference names: an image, or an index of images.
    pub top: Manifest,
    pub images: Vec<Image>,
    pub skipped: Vec<Skipped>,
    /// Why some images of an index cannot be converted. The others can.
    pub failed: Vec<Error>,
}

/// Fetches the manifests and configs behind a reference. An empty `wanted` means all platforms.
pub async fn resolve(place: &Place, reference: &ImageName, wanted: &[Platform]) -> Result<Resolved, Error> {
    let top = place.manifest(&reference.manifest_name(), &ACCEPT).await?;
    let is_index = manifest::is_index(&top);
    let children = if is_index {
        manifest::parse::<ImageIndex>("index", top.digest, &top.bytes)?.manifests
    } else {
        vec![Descriptor::new(&top.media_type, top.digest, top.bytes.len() as u64)]
    };
    let mut resolved = Resolved { top, images: Vec::new(), skipped: Vec::new(), failed: Vec::new() };
    for child in children {
        let digest = child.digest;
        match load(place, reference, child, wanted).await.map_err(|error| error.of_image(reference, digest)) {
            Ok(Ok(image)) => resolved.images.push(image),
            Ok(Err(reason)) => resolved.skipped.push(Skipped { digest, reason }),
            Err(error) if is_index => resolved.failed.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(resolved)
}

/// Loads one image, or says why it is skipped.
async fn load(
    place: &Place,
    reference: &ImageName,
    child: Descriptor,
    wanted: &[Platform],
) -> Result<Result<Image, String>, Error> {
    if let Some(reason) = skip_by_descriptor(&child, wanted) {
        return Ok(Err(reason));
    }
    let found = place.manifest(&child.digest.to_string(), &ACCEPT).await?;
    if ![OCI_MANIFEST, DOCKER_MANIFEST].contains(&found.media_type.as_str()) {
        return Err(Error::NotAnImage(reference.to_string(), child.digest, found.media_type));
    }
    let image: ImageManifest = manifest::parse("manifest", child.digest, &found.bytes)?;
    let config_type = &image.config.media_type;
    if image.artifact_type.is_some() || !config_type.contains("image") {
        let kind = image.artifact_type.as_ref().unwrap_or(config_type);
        return Ok(Err(format!("an artifact of type {kind}, not an image")));
    }
    let config = place.blob(&image.config.digest, CONFIG_LIMIT).await?;
    let config: ImageConfig = manifest::parse("config", image.config.digest, &config)?;
    let platform = config.platform.platform();
    if platform.os() != "linux" {
        return Ok(Err(format!("a {} image: only Linux images can be started lazily", platform.os())));
    }
    if child.platform.is_none() && !wanted.is_empty() && !wanted.iter().any(|one| one.includes(&platform)) {
        return Ok(Err(format!("platform {platform} is not wanted")));
    }
    let layers = layers(image.layers, &config.rootfs.diff_ids)?;
    if layers.is_empty() {
        return Ok(Err("it has no layers".to_owned()));
    }
    let original = image.annotations.and_then(|mut annotations| annotations.remove(ORIGINAL_MANIFEST));
    let descriptor = Descriptor::new(&found.media_type, child.digest, found.bytes.len() as u64);
    Ok(Ok(Image { descriptor, manifest: found.bytes, platform, layers, original }))
}

/// What an index already says spares fetching the manifest.
fn skip_by_descriptor(child: &Descriptor, wanted: &[Platform]) -> Option<String> {
    if child.annotation("vnd.docker.reference.type") == Some("attestation-manifest") {
        return Some("an attestation".to_owned());
    }
    if [OCI_INDEX, DOCKER_LIST].contains(&child.media_type.as_str()) {
        return Some("an index within an index".to_owned());
    }
    let platform = child.platform.as_ref()?.platform();
    if platform.os() == "unknown" {
        return Some("an attestation or another manifest without a platform".to_owned());
    }
    if platform.os() != "linux" {
        return Some(format!("a {} image: only Linux images can be started lazily", platform.os()));
    }
    let unwanted = !wanted.is_empty() && !wanted.iter().any(|one| one.includes(&platform));
    unwanted.then(|| format!("platform {platform} is not wanted"))
}

/// Pairs layers with the diffIDs of the config, and refuses those that cannot be converted.
fn layers(layers: Vec<Descriptor>, diff_ids: &[String]) -> Result<Vec<Layer>, Error> {
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    let pairs = layers.into_iter().zip(diff_ids).map(|(descriptor, diff_id)| {
        check_type(&descriptor)?;
        let diff_id = diff_id.parse().map_err(|source| Error::DiffId { source })?;
        Ok(Layer { descriptor, diff_id: DiffId(diff_id) })
    });
    pairs.collect()
}

fn check_type(layer: &Descriptor) -> Result<(), Error> {
    let media_type = layer.media_type.as_str();
    let outside = layer.urls.as_ref().is_some_and(|urls| !urls.is_empty());
    if outside || media_type.contains(".foreign.") || media_type.contains(".nondistributable.") {
        return Err(Error::ForeignLayer { layer: layer.digest });
    }
    let known =
        [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD];
    if known.contains(&media_type) {
        return Ok(());
    }
    Err(Error::LayerType { layer: layer.digest, media_type: media_type.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_cannot_be_converted_are_named() {
        let digest = Digest::of(b"layer");
        let layer = |media_type: &str| Descriptor::new(media_type, digest, 1);
        let error = |layer: &Descriptor| check_type(layer).unwrap_err().to_string();
        for foreign in [
            layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
            Descriptor { urls: Some(vec!["https://h.example/x".to_owned()]), ..layer(OCI_LAYER_GZIP) },
        ] {
            assert!(error(&foreign).contains("not convertible: foreign layer"));
        }
        assert!(
            error(&layer("application/x-squashfs")).contains("unknown media type \"application/x-squashfs\"")
        );
        assert!(check_type(&layer(DOCKER_LAYER_GZIP)).is_ok());
    }
}
