//! One image: how it is converted, if it is, and what each layer is.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_formats::launch::{LaunchIndex, LaunchLayer};
use jaunt_formats::media_type::{BOOT_TRACES, CHUNKED_MANIFEST_CHECKSUM, RECIPE};
use jaunt_formats::zstd_chunked::{Annotations, foreign};
use jaunt_formats::{DiffId, Digest, seekable};
use serde::Serialize;

use super::Original;
use crate::artifact::{self, Artifact, table_place};
use crate::console::ratio;
use crate::error::Error;
use crate::image::{Image, Layer};
use crate::manifest::Descriptor;
use crate::place::Place;
use crate::signed;

/// Blobs looked at at the same time.
const PARALLEL: usize = 8;

/// What is told of one image. Names of fields are names in JSON.
#[derive(Serialize)]
pub struct Report {
    pub platform: String,
    pub manifest: Digest,
    pub mode: Mode,
    /// Of an image that was replaced: the manifest that it stands for, as it is written.
    pub original: Option<String>,
    pub original_tag: Option<String>,
    pub original_kept: Option<bool>,
    pub artifact: Option<Digest>,
    pub tag: Option<String>,
    pub recipe: Option<String>,
    /// Where a signature is, by what it signs: `image`, `artifact`.
    pub signed: BTreeMap<&'static str, Option<String>>,
    pub index: Option<IndexReport>,
    pub boot: Option<BootReport>,
    pub readers: Readers,
    pub layers: Vec<LayerReport>,
    /// The layers that its manifest names.
    #[serde(skip)]
    pub named: Vec<(Digest, u64)>,
}

/// How an image is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    NotConverted,
    Attached,
    Replaced,
}

#[derive(Serialize)]
pub struct IndexReport {
    pub digest: Digest,
    pub bytes: u64,
    pub unpacked_bytes: usize,
    pub entries: usize,
    pub inodes: usize,
    pub bytes_per_entry: f64,
}

/// What starts are seen to touch.
#[derive(Serialize)]
pub struct BootReport {
    pub digest: Digest,
    pub bytes: u64,
    pub content_bytes: u64,
    pub extents: usize,
    pub frames: usize,
    pub recipe: Option<String>,
    /// Digests of what it was made of.
    pub traces: Vec<String>,
    /// The pack of another image that it was made of.
    pub predecessor: Option<Digest>,
}

/// Who needs not fetch the image whole. Whatever else runs images does.
#[derive(Serialize)]
pub struct Readers {
    /// Jaunt, by the launch index, or by the tables of contents of all layers.
    pub jaunt: bool,
    /// Layers that podman can read in part: those in zstd:chunked that the image's own manifest names.
    pub podman_layers: usize,
    /// Blobs with a seek table, of those that Jaunt reads.
    pub seekable_layers: usize,
    pub layers: usize,
    /// Whether others need to understand zstd.
    pub eager_needs_zstd: bool,
}

#[derive(Serialize)]
pub struct LayerReport {
    pub original: Digest,
    pub original_bytes: u64,
    pub original_compression: &'static str,
    /// None of an image that is not converted, as all that follows from it.
    pub converted: Option<Digest>,
    pub converted_bytes: Option<u64>,
    pub converted_compression: Option<&'static str>,
    pub ratio: Option<f64>,
    pub diff_id: DiffId,
    pub tar_bytes: Option<u64>,
    pub spans: Option<usize>,
    pub inodes: Option<u32>,
    pub zstd_chunked: bool,
    /// Whether the blob that is read lazily ends in a seek table.
    pub seek_table: bool,
    /// Whether that blob is there, in the length that is stated.
    pub present: bool,
}

/// Looks at one image.
pub async fn report(place: &Place, image: &Image, original: Option<&Original>) -> Result<Report, Error> {
    let subject = image.descriptor.digest;
    let artifact = Artifact::find(place, &subject).await?;
    let index = match &artifact {
        Some(artifact) => Some(artifact.launch_index(place).await?),
        None => None,
    };
    let converted = artifact.as_ref().zip(index.as_ref());
    let mut layers: Vec<_> = match converted {
        Some((artifact, index)) => converted_layers(artifact, index),
        None => image.layers.iter().map(original_layer).collect(),
    };
    look_at_blobs(place, &mut layers).await?;
    let mut signed = BTreeMap::from([("image", signed::signature(place, &subject).await?)]);
    if let Some(artifact) = &artifact {
        signed.insert("artifact", signed::signature(place, &artifact.digest).await?);
    }
    let mode = match (&artifact, &image.original) {
        (None, _) => Mode::NotConverted,
        (Some(_), None) => Mode::Attached,
        (Some(_), Some(_)) => Mode::Replaced,
    };
    let original = original.filter(|_| image.original.is_some());
    Ok(Report {
        platform: image.platform.to_string(),
        manifest: subject,
        mode,
        original: image.original.clone(),
        original_tag: original.map(|original| original.tag.clone()),
        original_kept: original.map(|original| original.kept),
        artifact: artifact.as_ref().map(|artifact| artifact.digest),
        tag: artifact.as_ref().map(|_| artifact::tag(&subject)),
        recipe: artifact.as_ref().and_then(recipe),
        signed,
        readers: readers(image, &layers, artifact.is_some()),
        boot: boot_report(place, artifact.as_ref()).await?,
        index: converted.map(|(artifact, index)| index_report(&artifact.index, index)),
        layers,
        named: image.layers.iter().map(|layer| (layer.descriptor.digest, layer.descriptor.size)).collect(),
    })
}

fn readers(image: &Image, layers: &[LayerReport], converted: bool) -> Readers {
    let chunked = image.layers.iter().filter(|layer| is_lazy(&layer.descriptor)).count();
    let zstd = |layer: &&Layer| layer.descriptor.media_type.ends_with("zstd");
    Readers {
        jaunt: converted || chunked == image.layers.len(),
        podman_layers: chunked,
        seekable_layers: layers.iter().filter(|layer| layer.seek_table).count(),
        layers: layers.len(),
        eager_needs_zstd: image.layers.iter().any(|layer| zstd(&layer)),
    }
}

async fn boot_report(place: &Place, artifact: Option<&Artifact>) -> Result<Option<BootReport>, Error> {
    let Some((artifact, boot)) = artifact.and_then(|artifact| Some((artifact, artifact.boot.as_ref()?)))
    else {
        return Ok(None);
    };
    let table = table_place(boot, artifact.digest)?;
    let bytes = place.blob_range(&boot.digest, 0..table.len() as u64).await?;
    let pack = table.open(&bytes)?;
    Ok(Some(BootReport {
        digest: boot.digest,
        bytes: boot.size,
        content_bytes: pack.content_len(),
        extents: pack.extents.len(),
        frames: pack.frames.len(),
        recipe: boot.annotation(RECIPE).map(str::to_owned),
        traces: boot
            .annotation(BOOT_TRACES)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        predecessor: artifact::follows(boot),
    }))
}

fn index_report(named: &Descriptor, index: &LaunchIndex<Vec<u8>>) -> IndexReport {
    let entries = index.entry_count();
    IndexReport {
        digest: named.digest,
        bytes: named.size,
        unpacked_bytes: index.bytes_len(),
        entries,
        inodes: index.inode_count(),
        bytes_per_entry: ratio(named.size, entries as u64),
    }
}

fn converted_layers(artifact: &Artifact, index: &LaunchIndex<Vec<u8>>) -> Vec<LayerReport> {
    let is_chunked = |digest: Digest| {
        let named = artifact.layers.iter().find(|named| named.digest == digest);
        named.is_some_and(|named| named.annotation(CHUNKED_MANIFEST_CHECKSUM).is_some())
    };
    let layers = index.layers().iter().enumerate().map(|(number, layer)| {
        let inodes = index.layer_stats(number).map(|stats| stats.inodes);
        LayerReport { zstd_chunked: is_chunked(layer.converted.digest), ..layer_report(layer, inodes) }
    });
    layers.collect()
}

/// What an index says of a layer.
pub fn layer_report(layer: &LaunchLayer, inodes: Option<u32>) -> LayerReport {
    LayerReport {
        original: layer.original.digest,
        original_bytes: layer.original.len,
        original_compression: layer.original.compression.name(),
        converted: Some(layer.converted.digest),
        converted_bytes: Some(layer.converted.len),
        converted_compression: Some(layer.converted.compression.name()),
        ratio: Some(ratio(layer.converted.len, layer.original.len)),
        diff_id: layer.diff_id,
        tar_bytes: Some(layer.tar_len),
        spans: Some(layer.spans.len()),
        inodes,
        zstd_chunked: false,
        seek_table: false,
        present: false,
    }
}

fn original_layer(layer: &Layer) -> LayerReport {
    let Descriptor { digest, size, media_type, .. } = &layer.descriptor;
    LayerReport {
        original: *digest,
        original_bytes: *size,
        original_compression: match media_type.as_str() {
            zstd if zstd.ends_with("zstd") => "zstd",
            gzip if gzip.ends_with("gzip") => "gzip",
            _ => "none",
        },
        converted: None,
        converted_bytes: None,
        converted_compression: None,
        ratio: None,
        diff_id: layer.diff_id,
        tar_bytes: None,
        spans: None,
        inodes: None,
        zstd_chunked: is_lazy(&layer.descriptor),
        seek_table: false,
        present: false,
    }
}

/// Whether a layer's annotations name what is needed to read it by its files.
fn is_lazy(layer: &Descriptor) -> bool {
    let annotations = layer.annotations.iter().flatten();
    let map = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    let parsed = Annotations::parse(&map).ok().flatten();
    parsed.is_some_and(|annotations| foreign::tail(&annotations, layer.size).is_ok())
}

/// Asks for the last bytes of each blob.
async fn look_at_blobs(place: &Place, layers: &mut [LayerReport]) -> Result<(), Error> {
    let looks = stream::iter(layers.iter().map(|layer| {
        let converted = layer.converted.zip(layer.converted_bytes);
        let (digest, len) = converted.unwrap_or((layer.original, layer.original_bytes));
        async move {
            if place.blob_exists(&digest).await? != Some(len) {
                return Ok((false, false));
            }
            let footer = seekable::FOOTER_LEN as u64;
            if len < footer {
                return Ok((true, false));
            }
            let tail = place.blob_range(&digest, len - footer..len).await?;
            Ok::<_, Error>((true, seekable::footer(&tail).is_ok()))
        }
    }));
    let found: Vec<_> = looks.buffered(PARALLEL).try_collect().await?;
    for (layer, (present, seek_table)) in layers.iter_mut().zip(found) {
        (layer.present, layer.seek_table) = (present, seek_table);
    }
    Ok(())
}

fn recipe(artifact: &Artifact) -> Option<String> {
    artifact.layers.iter().find_map(|layer| layer.annotation(RECIPE)).map(str::to_owned)
}
