//! What a conversion tells: a line for each layer, a summary, and the same as JSON.

use std::time::Duration;

use jaunt_formats::Digest;
use serde_json::{Value, json};

use super::replace::Replaced;
use super::reuse::Origin;
use super::{Cost, Made, Outcome};
use crate::artifact;
use crate::console::{Console, bytes, rate, ratio};
use crate::image::Skipped;
use crate::pipeline::Processed;
use crate::place::ImageName;
use crate::replace::original_tag;

/// The first digits of a digest: enough for a person.
pub fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}

/// One converted layer.
pub fn layer(console: &Console, converted: &Processed, took: Duration) {
    let (original, layer) = (&converted.original, &converted.layer);
    let note = layer.obstacle.map(|why| format!(" (plain seekable zstd: {why})")).unwrap_or_default();
    console.line(&format!(
        "  layer {}: {} -> {}, {} of tar in {} spans, {:.0} MB/s{note}",
        short(&original.digest),
        bytes(original.len),
        bytes(layer.len),
        bytes(layer.tar_len),
        layer.spans.len(),
        rate(layer.tar_len, took.as_secs_f64()),
    ));
}

/// One layer that was there already.
pub fn reused(console: &Console, layer: &Processed, origin: Origin) {
    let (name, blob) = (short(&layer.original.digest), bytes(layer.layer.len));
    console.line(&format!("  layer {name}: {blob}, converted before, {}", origin.as_str()));
}

/// One reference: what became of its images, in lines and as JSON.
pub fn reference(
    console: &Console,
    reference: &ImageName,
    outcomes: &[Outcome<'_>],
    skipped: &[Skipped],
    replaced: Option<&Replaced>,
) -> Value {
    for outcome in outcomes.iter().filter(|outcome| outcome.layers.is_some()) {
        console.line(&format!(
            "attached {} {}: artifact {}, launch index {}",
            outcome.image.platform,
            outcome.image.descriptor.digest,
            outcome.artifact.digest,
            bytes(outcome.artifact.index.size),
        ));
    }
    json!({
        "reference": reference.to_string(),
        "images": outcomes.iter().map(|outcome| image(outcome, replaced)).collect::<Vec<_>>(),
        "replaced": replaced.map(replaced_json),
        "skipped": skipped.iter().map(|one| json!({ "digest": one.digest, "reason": one.reason })).collect::<Vec<_>>(),
    })
}

/// The whole run, in lines; adds the same to its JSON.
pub fn totals(console: &Console, totals: &Totals, cost: &Cost, document: &mut Value) {
    if totals.reused > 0 {
        console.line(&format!("{} layers had been converted before", totals.reused));
    }
    let wall = cost.wall.as_secs_f64();
    let speed = rate(totals.tar, wall);
    if totals.layers > 0 {
        console.line(&format!(
            "converted {} layers in {wall:.1} s with {:.1} CPU seconds, {speed:.0} MB/s of tar: \
             {} originally, {} more now ({:.3} of it)",
            totals.layers,
            cost.cpu_seconds,
            bytes(totals.original),
            bytes(totals.converted),
            ratio(totals.converted, totals.original),
        ));
    }
    for (key, value) in [
        ("layers_converted", json!(totals.layers)),
        ("layers_reused", json!(totals.reused)),
        ("original_bytes", json!(totals.original)),
        ("converted_bytes", json!(totals.converted)),
        ("tar_bytes", json!(totals.tar)),
        ("wall_s", json!(wall)),
        ("cpu_s", json!(cost.cpu_seconds)),
        ("tar_mb_per_s", json!(speed)),
    ] {
        document[key] = value;
    }
}

/// What this run converted.
#[derive(Default)]
pub struct Totals {
    layers: usize,
    /// Layers that were there already.
    reused: usize,
    original: u64,
    converted: u64,
    tar: u64,
}

impl Totals {
    /// Adds what another reference took.
    pub fn join(&mut self, other: &Self) {
        self.layers += other.layers;
        self.reused += other.reused;
        self.original += other.original;
        self.converted += other.converted;
        self.tar += other.tar;
    }

    /// Adds an image.
    pub fn add(&mut self, outcome: &Outcome<'_>) {
        let mut made = outcome.made.clone();
        for layer in outcome.layers.iter().flatten() {
            match made.remove(&(layer.original.digest, layer.layer.diff_id)) {
                Some(Made::Converted(_)) => {
                    self.layers += 1;
                    self.original += layer.original.len;
                    self.converted += layer.layer.len;
                    self.tar += layer.layer.tar_len;
                }
                Some(Made::Reused(_)) => self.reused += 1,
                None => {}
            }
        }
    }
}

fn replaced_json(replaced: &Replaced) -> Value {
    json!({
        "manifest": replaced.top,
        "original": replaced.original,
        "original_tag": original_tag(&replaced.original),
    })
}

fn image(outcome: &Outcome<'_>, replaced: Option<&Replaced>) -> Value {
    let status = if outcome.layers.is_some() { "converted" } else { "already converted" };
    json!({
        "platform": outcome.image.platform.to_string(),
        "manifest": outcome.image.descriptor.digest,
        "status": status,
        "replacement": replaced.and_then(|replaced| replaced.manifests.get(&outcome.image.descriptor.digest)).map(|new| new.digest),
        "artifact": outcome.artifact.digest,
        "tag": artifact::tag(&outcome.image.descriptor.digest),
        "index": { "digest": outcome.artifact.index.digest, "bytes": outcome.artifact.index.size },
        "layers": outcome.layers.iter().flatten().map(|layer| layer_json(layer, outcome)).collect::<Vec<_>>(),
    })
}

fn layer_json(converted: &Processed, outcome: &Outcome<'_>) -> Value {
    let (original, layer) = (&converted.original, &converted.layer);
    let (took, reused) = match outcome.made.get(&(original.digest, layer.diff_id)) {
        Some(Made::Converted(took)) => (Some(took.as_secs_f64()), None),
        Some(Made::Reused(origin)) => (None, Some(origin.as_str())),
        None => (None, Some(Origin::Here.as_str())),
    };
    json!({
        "original": original.digest,
        "original_bytes": original.len,
        "converted": layer.digest,
        "converted_bytes": layer.len,
        "diff_id": layer.diff_id,
        "tar_bytes": layer.tar_len,
        "spans": layer.spans.len(),
        "entries": layer.entries.len(),
        "zstd_chunked": !layer.annotations.is_empty(),
        "reused": reused,
        "seconds": took,
    })
}
