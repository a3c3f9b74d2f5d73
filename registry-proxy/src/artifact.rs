//! The launch artifact: found, checked for completeness, made and published.
//!
//! Published in this order, so that nothing ever points at what is not there: blobs, the manifest
//! under its digest, the referrers' fallback tag where the registry lacks the API, and last our own tag,
//! whose presence therefore means that all is done.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_formats::Digest;
pub use jaunt_formats::boot::EMPTY_CONFIG as EMPTY;
use jaunt_formats::boot::TablePlace;
use jaunt_formats::compression::encoder_version;
use jaunt_formats::launch::LaunchIndex;
use jaunt_formats::media_type::{
    BOOT_PREDECESSOR, BOOT_TABLE, BOOT_TRACES, DIFF_ID, LAUNCH_ARTIFACT, LAUNCH_BOOT_PACK, LAUNCH_INDEX,
    OCI_EMPTY, OCI_LAYER_ZSTD, OCI_MANIFEST, ORIGINAL_DIGEST, RECIPE,
};
use jaunt_formats::zstd_chunked::FORMAT_RECIPE;

use crate::error::Error;
use crate::image::{Image, Layer};
use crate::manifest::{self, Annotations, Descriptor, ImageManifest};
use crate::pipeline::Processed;
use crate::place::Place;
use crate::referrers;

/// Indexes of ten million entries have less.
const INDEX_LIMIT: u64 = 512 << 20;
/// Requests at the same time when checking that blobs exist.
const PARALLEL: usize = 8;

/// How blobs are made at a level: equal recipes give equal blobs.
pub fn recipe(level: i32) -> String {
    format!("{FORMAT_RECIPE}, level {level}, {}", encoder_version())
}

/// Our own tag for an image's artifact.
pub fn tag(subject: &Digest) -> String {
    format!("sha256-{}.jaunt", subject.hex())
}

/// The tag of what an interrupted conversion has made so far.
pub fn partial_tag(subject: &Digest) -> String {
    format!("sha256-{}.jaunt-partial", subject.hex())
}

/// Whether a tag is one under which converted layers are listed.
pub fn is_launch_tag(tag: &str) -> bool {
    kind_of_tag(tag).is_some_and(|kind| ["jaunt", "jaunt-partial"].contains(&kind))
}

/// Whether a tag speaks of another manifest, whose digest it has: ours, cosign's, or a list of referrers.
pub fn is_of_another(tag: &str) -> bool {
    const KINDS: [&str; 7] = ["", "jaunt", "jaunt-partial", "original", "sig", "att", "sbom"];
    kind_of_tag(tag).is_some_and(|kind| KINDS.contains(&kind))
}

/// What follows `sha256-<hex>` and a dot.
fn kind_of_tag(tag: &str) -> Option<&str> {
    let rest = tag.strip_prefix("sha256-")?;
    let (hex, kind) = rest.split_once('.').unwrap_or((rest, ""));
    format!("sha256:{hex}").parse::<Digest>().is_ok().then_some(kind)
}

/// An artifact in a place.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub digest: Digest,
    /// The launch index.
    pub index: Descriptor,
    /// The boot pack, if it has one.
    pub boot: Option<Descriptor>,
    /// The converted layers, each once.
    pub layers: Vec<Descriptor>,
    /// The manifest, if our own tag does not name it: it was published only half.
    untagged: Option<Bytes>,
}

impl Artifact {
    /// The artifact of an image: by our own tag, else by the referrers API or its fallback tag.
    pub async fn find(place: &Place, subject: &Digest) -> Result<Option<Self>, Error> {
        if let Some(found) = place.manifest_if_exists(&tag(subject), &[OCI_MANIFEST]).await? {
            return Self::read(found.digest, &found.bytes, subject).map(Some);
        }
        let referrers = place.referrers(subject, Some(LAUNCH_ARTIFACT)).await?;
        let Some(Descriptor { digest, .. }) = referrers.last() else { return Ok(None) };
        // A list may name what is gone.
        let Some(found) = place.manifest_if_exists(&digest.to_string(), &[OCI_MANIFEST]).await? else {
            return Ok(None);
        };
        let artifact = Self::read(found.digest, &found.bytes, subject)?;
        Ok(Some(Self { untagged: Some(found.bytes), ..artifact }))
    }

    fn read(digest: Digest, bytes: &[u8], subject: &Digest) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Artifact { artifact: digest, what: what.to_owned() };
        let manifest: ImageManifest = manifest::parse("launch artifact", digest, bytes)?;
        if manifest.artifact_type.as_deref() != Some(LAUNCH_ARTIFACT) {
            return Err(wrong("it has another artifact type"));
        }
        if manifest.subject.is_none_or(|named| named.digest != *subject) {
            return Err(wrong("its subject is another image"));
        }
        let mut layers = manifest.layers.into_iter();
        let index = layers.next().filter(|first| first.media_type == LAUNCH_INDEX);
        let index = index.ok_or_else(|| wrong("its first layer is no launch index"))?;
        let (boot, layers): (Vec<_>, Vec<_>) = layers.partition(|layer| layer.media_type == LAUNCH_BOOT_PACK);
        let layers = layers.into_iter().filter(|layer| layer.annotation(DIFF_ID).is_some()).collect();
        Ok(Self { digest, index, boot: boot.into_iter().next(), layers, untagged: None })
    }

    /// Whether our own tag names it.
    pub fn is_tagged(&self) -> bool {
        self.untagged.is_none()
    }

    /// Whether it has a boot pack that was made of starts, of this image or of one that it follows.
    pub fn has_learnt(&self) -> bool {
        self.boot.as_ref().is_some_and(is_learnt)
    }

    /// Its own manifest, and the blobs that it names.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        let named = self.layers.iter().chain([&self.index]).chain(&self.boot).map(|blob| blob.digest);
        named.chain([self.digest])
    }

    /// The converted blob that stands for a layer; in replace mode, the layer itself.
    pub fn converted(&self, layer: &Layer) -> Option<&Descriptor> {
        let (original, diff_id) = (layer.descriptor.digest.to_string(), layer.diff_id.to_string());
        let of_diff_id = || self.layers.iter().filter(|blob| blob.annotation(DIFF_ID) == Some(&diff_id));
        let stands_for = |blob: &&Descriptor| blob.annotation(ORIGINAL_DIGEST) == Some(&original);
        of_diff_id()
            .find(stands_for)
            .or_else(|| of_diff_id().find(|blob| blob.digest == layer.descriptor.digest))
    }

    /// The launch index, verified against its digest and opened.
    pub async fn launch_index(&self, place: &Place) -> Result<LaunchIndex<Vec<u8>>, Error> {
        read_index(place, &self.index.digest).await
    }

    /// Whether it is what converting `image` by `recipe` would give, with every blob in place.
    pub async fn is_complete(&self, place: &Place, image: &Image, recipe: &str) -> Result<bool, Error> {
        let converted: Option<Vec<_>> = image.layers.iter().map(|layer| self.converted(layer)).collect();
        let Some(converted) = converted else { return Ok(false) };
        // An image that was replaced has its layers, however they were made.
        if image.original.is_none() && converted.iter().any(|blob| blob.annotation(RECIPE) != Some(recipe)) {
            return Ok(false);
        }
        let blobs = stream::iter(self.layers.iter().map(|blob| async move {
            let found = place.blob_exists(&blob.digest).await?;
            Ok::<_, Error>(found == Some(blob.size))
        }));
        let present: Vec<bool> = blobs.buffer_unordered(PARALLEL).try_collect().await?;
        if present.contains(&false) || place.blob_exists(&self.index.digest).await?.is_none() {
            return Ok(false);
        }
        // An index that this version cannot read is made again.
        let Ok(index) = self.launch_index(place).await else { return Ok(false) };
        Ok(index.diff_ids().into_iter().eq(image.layers.iter().map(|layer| layer.diff_id)))
    }

    /// Does what is left to do when an earlier run was interrupted just before its end.
    pub async fn complete(&self, place: &Place, subject: &Digest) -> Result<(), Error> {
        if let Some(bytes) = self.untagged.clone() {
            place.push_manifest(&tag(subject), OCI_MANIFEST, bytes).await?;
        }
        Ok(())
    }

    /// Publishes one with the same blobs for another manifest, whose layers are the converted ones.
    pub async fn publish_for(&self, place: &Place, subject: &Descriptor) -> Result<Self, Error> {
        let Self { index, boot, layers, .. } = self.clone();
        Unpublished::new(subject, index, boot, layers)?.publish(place).await
    }
}

/// An artifact that is not in its place yet; its blobs are.
pub struct Unpublished {
    pub digest: Digest,
    subject: Descriptor,
    bytes: Bytes,
    index: Descriptor,
    boot: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

impl Unpublished {
    /// The artifact of a manifest.
    pub fn new(
        subject: &Descriptor,
        index: Descriptor,
        boot: Option<Descriptor>,
        layers: Vec<Descriptor>,
    ) -> Result<Self, Error> {
        let named = std::iter::once(&index).chain(&boot).chain(&layers).cloned();
        let artifact = ImageManifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            artifact_type: Some(LAUNCH_ARTIFACT.to_owned()),
            config: Descriptor::new(OCI_EMPTY, Digest::of(EMPTY), EMPTY.len() as u64),
            layers: named.collect(),
            subject: Some(subject.clone()),
            annotations: None,
        };
        let (digest, bytes) = manifest::encode(&artifact)?;
        Ok(Self { digest, subject: subject.clone(), bytes, index, boot, layers })
    }

    /// Publishes it.
    pub async fn publish(self, place: &Place) -> Result<Artifact, Error> {
        let Self { digest, subject, bytes, index, boot, layers } = self;
        place.push_blob(&Digest::of(EMPTY), EMPTY.into()).await?;
        let size = bytes.len() as u64;
        let pushed = place.push_manifest(&digest.to_string(), OCI_MANIFEST, bytes.clone()).await?;
        if pushed.subject.is_none() {
            let artifact_type = Some(LAUNCH_ARTIFACT.to_owned());
            let descriptor = Descriptor { artifact_type, ..Descriptor::new(OCI_MANIFEST, digest, size) };
            referrers::list(place, &subject.digest, &descriptor).await?;
        }
        place.push_manifest(&tag(&subject.digest), OCI_MANIFEST, bytes).await?;
        Ok(Artifact { digest, index, boot, layers, untagged: None })
    }
}

/// Whether this is a boot pack that was made of starts, of its image or of one that that follows.
pub fn is_learnt(blob: &Descriptor) -> bool {
    has_traces(blob) || follows(blob).is_some()
}

/// Whether this is a boot pack that was made of starts of its image: nodes go by it rather than learn.
pub fn has_traces(blob: &Descriptor) -> bool {
    let traces = blob.annotation(BOOT_TRACES).filter(|_| blob.media_type == LAUNCH_BOOT_PACK);
    traces.is_some_and(|traces| !traces.is_empty())
}

/// The pack of another image that this one was made of.
pub fn follows(blob: &Descriptor) -> Option<Digest> {
    blob.annotation(BOOT_PREDECESSOR).filter(|_| blob.media_type == LAUNCH_BOOT_PACK)?.parse().ok()
}

/// What a pack's descriptor says of its table.
pub fn table_place(boot: &Descriptor, artifact: Digest) -> Result<TablePlace, Error> {
    let place = boot.annotation(BOOT_TABLE).and_then(|text| text.parse().ok());
    let what = || "its boot pack's descriptor does not say where the table is".to_owned();
    place.ok_or_else(|| Error::Artifact { artifact, what: what() })
}

/// A launch index, verified against its digest and opened.
pub async fn read_index(place: &Place, digest: &Digest) -> Result<LaunchIndex<Vec<u8>>, Error> {
    open_index(place.blob(digest, INDEX_LIMIT).await?).await
}

/// A launch index as it lies in its blob, opened.
pub async fn open_index(packed: Bytes) -> Result<LaunchIndex<Vec<u8>>, Error> {
    let opened =
        tokio::task::spawn_blocking(move || LaunchIndex::open(jaunt_formats::launch::unpack(&packed)?));
    Ok(opened.await??)
}

/// Pushes a launch index.
pub async fn push_index(place: &Place, index: Bytes) -> Result<Descriptor, Error> {
    let descriptor = Descriptor::new(LAUNCH_INDEX, Digest::of(&index), index.len() as u64);
    place.push_blob(&descriptor.digest, index).await?;
    Ok(descriptor)
}

/// The descriptors of converted layers, each blob once.
pub fn describe(converted: &[&Processed], recipe: &str) -> Vec<Descriptor> {
    let mut layers: Vec<Descriptor> = Vec::new();
    for converted in converted {
        let (original, layer) = (&converted.original, &converted.layer);
        if layers.iter().any(|known| {
            known.digest == layer.digest
                && known.annotation(ORIGINAL_DIGEST) == Some(&original.digest.to_string())
        }) {
            continue;
        }
        let mut annotations: Annotations = layer.annotations.clone().into_iter().collect();
        annotations.insert(DIFF_ID.to_owned(), layer.diff_id.to_string());
        annotations.insert(ORIGINAL_DIGEST.to_owned(), original.digest.to_string());
        annotations.insert(RECIPE.to_owned(), recipe.to_owned());
        let annotations = Some(annotations);
        layers.push(Descriptor { annotations, ..Descriptor::new(OCI_LAYER_ZSTD, layer.digest, layer.len) });
    }
    layers
}
