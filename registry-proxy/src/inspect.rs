//! `inspect`: what a converted image consists of.

use jaunt_distribution::Client;
use jaunt_formats::launch::{LaunchIndex, LaunchLayer};
use jaunt_formats::media_type::{CHUNKED_MANIFEST_CHECKSUM, RECIPE};
use serde_json::{Value, json};

use crate::artifact::{self, Artifact};
use crate::cli::ReadArgs;
use crate::console::{Console, bytes, ratio};
use crate::error::Error;
use crate::image::{self, Image};
use crate::place::Place;

/// Runs the command.
pub async fn run(client: Client, args: &ReadArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let reference = &args.common.reference;
    let place = Place::of(&client, reference);
    let resolved = image::resolve(&place, reference, &args.platforms.wanted).await?;
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        return Err(resolved.nothing(reference));
    }
    resolved.failed.iter().for_each(|error| console.line(&error.to_string()));
    let mut images = Vec::new();
    for image in &resolved.images {
        let subject = image.descriptor.digest;
        let Some(artifact) = Artifact::find(&place, &subject).await? else {
            console.line(&format!("{} {subject}: not converted", image.platform));
            images.push(
                json!({ "platform": image.platform.to_string(), "manifest": subject, "artifact": null }),
            );
            continue;
        };
        let index = artifact.launch_index(&place).await?;
        show(&console, image, &artifact, &index);
        images.push(document(image, &artifact, &index));
    }
    console.result(&json!({ "reference": reference.to_string(), "images": images }))
}

fn show(console: &Console, image: &Image, artifact: &Artifact, index: &LaunchIndex<Vec<u8>>) {
    console.line(&format!("{} {}", image.platform, image.descriptor.digest));
    console.line(&format!("  artifact  {}", artifact.digest));
    console.line(&format!("  tag       {}", artifact::tag(&image.descriptor.digest)));
    console.line(&format!("  recipe    {}", recipe(artifact)));
    let (packed, entries) = (bytes(artifact.index.size), index.entry_count());
    console.line(&format!("  index     {packed}, {entries} entries"));
    let (mut original, mut converted) = (0, 0);
    for (number, layer) in index.layers().iter().enumerate() {
        original += layer.original.len;
        converted += layer.converted.len;
        let inodes = index.layer_stats(number).map_or(0, |stats| stats.inodes);
        console.line(&format!(
            "  layer {number:<3} {} {:?} -> {} {}, {:.3}, tar {}, {} spans, {inodes} files{}",
            bytes(layer.original.len),
            layer.original.compression,
            bytes(layer.converted.len),
            layer.converted.digest,
            ratio(layer.converted.len, layer.original.len),
            bytes(layer.tar_len),
            layer.spans.len(),
            if is_chunked(artifact, layer) { ", zstd:chunked" } else { "" },
        ));
    }
    let total = ratio(converted, original);
    console.line(&format!("  total     {} -> {}, {total:.3}", bytes(original), bytes(converted)));
}

fn document(image: &Image, artifact: &Artifact, index: &LaunchIndex<Vec<u8>>) -> Value {
    let layers = index.layers().iter().enumerate().map(|(number, layer)| {
        json!({
            "original": layer.original.digest,
            "original_bytes": layer.original.len,
            "converted": layer.converted.digest,
            "converted_bytes": layer.converted.len,
            "diff_id": layer.diff_id,
            "tar_bytes": layer.tar_len,
            "spans": layer.spans.len(),
            "inodes": index.layer_stats(number).map(|stats| stats.inodes),
            "zstd_chunked": is_chunked(artifact, layer),
        })
    });
    json!({
        "platform": image.platform.to_string(),
        "manifest": image.descriptor.digest,
        "artifact": artifact.digest,
        "tag": artifact::tag(&image.descriptor.digest),
        "recipe": recipe(artifact),
        "index": { "digest": artifact.index.digest, "bytes": artifact.index.size, "entries": index.entry_count() },
        "layers": layers.collect::<Vec<_>>(),
    })
}

fn recipe(artifact: &Artifact) -> &str {
    artifact.layers.iter().find_map(|layer| layer.annotation(RECIPE)).unwrap_or("unknown")
}

fn is_chunked(artifact: &Artifact, layer: &LaunchLayer) -> bool {
    let named = artifact.layers.iter().find(|named| named.digest == layer.converted.digest);
    named.is_some_and(|named| named.annotation(CHUNKED_MANIFEST_CHECKSUM).is_some())
}
