//! From a reference to the images behind it: one, or one for each platform of an index.
//!
//! What cannot be made lazily readable, such as a Windows image, an encrypted one or an attestation, is
//! skipped with a reason. That is no failure: whatever it is, it stays as it is.

mod layers;
mod walk;

use bytes::Bytes;
use jaunt_distribution::Manifest;
use jaunt_formats::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, ORIGINAL_MANIFEST};
use jaunt_formats::{DiffId, Digest, Platform};

use crate::error::Error;
use crate::manifest::{self, Command, Descriptor, ImageConfig, ImageManifest, Kind};
use crate::place::{ImageName, Place};
use walk::{Budget, Walk};

/// Every manifest of an image, or of an index of images.
pub const ACCEPT: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
/// Configs hold a history, and no more.
const CONFIG_LIMIT: u64 = 8 << 20;
/// Skipped manifests that an error names.
const NAMED: usize = 8;

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
    /// What it runs.
    pub command: Command,
    /// The manifest that this one stands for, as replace mode made it.
    pub original: Option<String>,
    /// When it was made, as its config says in RFC 3339: later texts are later times, near enough.
    pub created: Option<String>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    pub descriptor: Descriptor,
    pub diff_id: DiffId,
}

/// Something behind the reference that is no image to convert.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// The digest, as it is written.
    pub digest: String,
    pub reason: String,
}

/// What a reference stands for.
#[derive(Debug)]
pub struct Resolved {
    /// What the reference names: an image, or an index of images.
    pub top: Manifest,
    /// If that is an index, all indexes: each after those that it names, so `top` is the last.
    pub indexes: Vec<Manifest>,
    /// Each once, however often it is named.
    pub images: Vec<Image>,
    pub skipped: Vec<Skipped>,
    /// Why some images of an index cannot be converted. The others can.
    pub failed: Vec<Error>,
}

impl Resolved {
    /// The error of a command that finds no image here.
    pub fn nothing(&self, reference: &ImageName) -> Error {
        let named = self.skipped.iter().take(NAMED);
        let mut reasons: Vec<_> =
            named.map(|skipped| format!("{} is skipped: {}", skipped.digest, skipped.reason)).collect();
        match self.skipped.len() {
            0 => reasons.push("there is no image".to_owned()),
            all if all > NAMED => reasons.push(format!("and {} more", all - NAMED)),
            _ => {}
        }
        Error::NoImage { reference: reference.to_string(), reasons }
    }
}

/// Fetches the manifests and configs behind a reference. An empty `wanted` means all platforms.
pub async fn resolve(place: &Place, reference: &ImageName, wanted: &[Platform]) -> Result<Resolved, Error> {
    let top = place.manifest(&reference.manifest_name(), &ACCEPT).await?;
    let not_an_image = || Error::NotAnImage(reference.to_string(), top.digest, top.media_type.clone());
    let mut budget = Budget::new(reference);
    let walk = match manifest::kind(&top.media_type) {
        Kind::Index => walk::walk(place, &top, &mut budget).await?,
        Kind::Image => Walk::of_image(&top),
        Kind::Schema1 => return Err(Error::Schema1 { reference: reference.to_string(), digest: top.digest }),
        Kind::Other => return Err(not_an_image()),
    };
    let is_index = !walk.indexes.is_empty();
    let Walk { indexes, leaves, skipped, failed } = walk;
    let mut resolved = Resolved { top, indexes, images: Vec::new(), skipped, failed };
    for leaf in leaves {
        let digest = leaf.digest;
        if resolved.images.iter().any(|image| image.descriptor.digest == digest) {
            continue;
        }
        match load(place, leaf, wanted).await.map_err(|error| error.of_image(reference, digest)) {
            Ok(Ok(image)) => {
                budget.hold(image.manifest.len())?;
                resolved.images.push(image);
            }
            Ok(Err(reason)) => resolved.skipped.push(Skipped { digest: digest.to_string(), reason }),
            Err(error) if is_index => resolved.failed.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(resolved)
}

/// The image whose manifest has this digest; `None` where there is none that could be converted.
pub async fn by_digest(place: &Place, digest: Digest) -> Result<Option<Image>, Error> {
    // A manifest says itself what it is, and how long.
    Ok(load(place, Descriptor::new("", digest, 0), &[]).await?.ok())
}

/// Loads one image, or says why it is skipped.
async fn load(place: &Place, leaf: Descriptor, wanted: &[Platform]) -> Result<Result<Image, String>, Error> {
    let stated = leaf.platform.as_ref().and_then(manifest::PlatformJson::platform);
    if let Some(reason) = stated.as_ref().and_then(|platform| unwanted(platform, wanted)) {
        return Ok(Err(reason));
    }
    let found = place.manifest(&leaf.digest.to_string(), &ACCEPT).await?;
    if manifest::kind(&found.media_type) != Kind::Image {
        return Ok(Err(format!("a manifest of media type {:?}, which is no image", found.media_type)));
    }
    let image: ImageManifest = manifest::parse("manifest", leaf.digest, &found.bytes)?;
    let config_type = &image.config.media_type;
    if image.artifact_type.is_some() || !config_type.contains("image") {
        let kind = image.artifact_type.as_ref().unwrap_or(config_type);
        return Ok(Err(format!("an artifact of type {kind}, not an image")));
    }
    if let Some(reason) = image.layers.iter().find_map(layers::obstacle) {
        return Ok(Err(reason));
    }
    let config = place.blob(&image.config.digest, CONFIG_LIMIT).await?;
    let config: ImageConfig = manifest::parse("config", image.config.digest, &config)?;
    let platform = config.platform();
    // What the index says of an image was asked before; the config only adds what that leaves open.
    let asked_for = if stated.is_some() { &[] } else { wanted };
    if let Some(reason) = unwanted(&platform, asked_for) {
        return Ok(Err(reason));
    }
    let layers = layers::pair(image.layers, &config.rootfs.diff_ids)?;
    if layers.is_empty() {
        return Ok(Err("it has no layers".to_owned()));
    }
    let original = image.annotations.and_then(|mut annotations| annotations.remove(ORIGINAL_MANIFEST));
    let descriptor = Descriptor::new(&found.media_type, leaf.digest, found.bytes.len() as u64);
    let (command, created) = (config.command(), config.created());
    Ok(Ok(Image { descriptor, manifest: found.bytes, platform, layers, command, original, created }))
}

/// Why a platform is passed over, if it is.
fn unwanted(platform: &Platform, wanted: &[Platform]) -> Option<String> {
    if platform.os() == "unknown" {
        return Some("an attestation or another manifest without a platform".to_owned());
    }
    if platform.os() != "linux" {
        return Some(format!("a {} image: only Linux images can be started lazily", platform.os()));
    }
    let unwanted = !wanted.is_empty() && !wanted.iter().any(|one| one.includes(platform));
    unwanted.then(|| format!("platform {platform} is not wanted"))
}
