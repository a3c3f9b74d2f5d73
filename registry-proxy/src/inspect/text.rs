//! Reports as lines for a person.

use std::path::Path;

use super::file::{Found, IndexFile, LayerFile};
use super::image::{LayerReport, Mode, Readers, Report};
use super::storage::Storage;
use crate::console::{Console, bytes, ratio};

/// One image.
pub fn image(console: &Console, report: &Report) {
    let line = |name: &str, value: &str| console.line(&format!("  {name:<10}{value}"));
    let mode = match report.mode {
        Mode::NotConverted => ": not converted",
        Mode::Attached => ": converted, attached",
        Mode::Replaced => ": converted, replaced",
    };
    console.line(&format!("{} {}{mode}", report.platform, report.manifest));
    if let Some(original) = &report.original {
        line("original", original);
    }
    if let Some(tag) = &report.original_tag {
        line(
            "kept as",
            &format!("{tag}{}", if report.original_kept == Some(true) { "" } else { ", which is gone" }),
        );
    }
    report.artifact.iter().for_each(|artifact| line("artifact", &artifact.to_string()));
    report.tag.iter().for_each(|tag| line("tag", tag));
    if report.artifact.is_some() {
        line("recipe", report.recipe.as_deref().unwrap_or("unknown"));
    }
    for (what, by) in &report.signed {
        line("signed", &format!("{what}: {}", by.as_deref().unwrap_or("no")));
    }
    if let Some(index) = &report.index {
        let (packed, raw) = (bytes(index.bytes), bytes(index.unpacked_bytes as u64));
        let each = index.bytes_per_entry;
        line("index", &format!("{packed} ({raw} unpacked), {} entries, {each:.1} B an entry", index.entries));
    }
    if let Some(boot) = &report.boot {
        let (packed, content) = (bytes(boot.bytes), bytes(boot.content_bytes));
        line(
            "boot pack",
            &format!(
                "{packed}, {content} of files in {} extents, of {} traces",
                boot.extents,
                boot.traces.len()
            ),
        );
    }
    report.layers.iter().enumerate().for_each(|(number, one)| layer(console, number, one, true));
    if report.artifact.is_some() {
        total(console, &report.layers);
    }
    readers(report, &line);
}

fn layer(console: &Console, number: usize, layer: &LayerReport, looked_at: bool) {
    let mut text =
        format!("  layer {number:<3} {} {}", bytes(layer.original_bytes), layer.original_compression);
    if let (Some(digest), Some(len)) = (layer.converted, layer.converted_bytes) {
        let compression = layer.converted_compression.unwrap_or_default();
        let share = ratio(len, layer.original_bytes);
        text += &format!(" -> {} {compression} {digest}, {share:.3}", bytes(len));
    } else {
        text += &format!(" {}", layer.original);
    }
    layer.tar_bytes.iter().for_each(|len| text += &format!(", tar {}", bytes(*len)));
    layer.spans.iter().for_each(|spans| text += &format!(", {spans} spans"));
    layer.inodes.iter().for_each(|inodes| text += &format!(", {inodes} files"));
    for (is, name) in [
        (layer.zstd_chunked, ", zstd:chunked"),
        (layer.seek_table, ", seek table"),
        (looked_at && !layer.present, ", MISSING or of another length"),
    ] {
        text += if is { name } else { "" };
    }
    console.line(&text);
}

fn total(console: &Console, layers: &[LayerReport]) {
    let original = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.original_bytes));
    let lens = layers.iter().filter_map(|layer| layer.converted_bytes);
    let converted = lens.fold(0_u64, u64::saturating_add);
    let share = ratio(converted, original);
    console.line(&format!("  total     {} -> {}, {share:.3}", bytes(original), bytes(converted)));
}

fn readers(report: &Report, line: &impl Fn(&str, &str)) {
    let Readers { jaunt, podman_layers, seekable_layers, layers, eager_needs_zstd } = report.readers;
    let mut lazy = Vec::new();
    if jaunt {
        let as_it_is = report.mode == Mode::NotConverted;
        lazy.push(if as_it_is { "Jaunt, as it is: every layer is zstd:chunked" } else { "Jaunt" }.to_owned());
    }
    if podman_layers > 0 {
        lazy.push(format!("podman by zstd:chunked ({podman_layers} of {layers} layers)"));
    }
    if seekable_layers > 0 {
        let whose = if report.mode == Mode::Attached { "the artifact's " } else { "" };
        let count = format!("{seekable_layers} of {whose}{layers} layers");
        lazy.push(format!("any reader of the zstd seekable format ({count})"));
    }
    line("lazy", &if lazy.is_empty() { "nobody".to_owned() } else { lazy.join("; ") });
    line("eager", if eager_needs_zstd { "any runtime that reads zstd layers" } else { "any runtime" });
}

/// The totals of all images.
pub fn storage(console: &Console, storage: &Storage) {
    let Storage { image_bytes, index_bytes, attached_bytes, original_bytes, .. } = *storage;
    let mut parts = vec![format!("the images' layers {}", bytes(image_bytes))];
    for (len, what) in [
        (attached_bytes, "converted layers beside them"),
        (index_bytes, "launch indexes"),
        (original_bytes, "layers that only the original has"),
    ] {
        if len > 0 {
            parts.push(format!("{what} {}", bytes(len)));
        }
    }
    console.line(&format!(
        "storage: {}; added by the conversion: {}",
        parts.join(", "),
        bytes(storage.added_bytes)
    ));
}

/// A file.
pub fn file(console: &Console, path: &Path, found: &Found) {
    match found {
        Found::LaunchIndex(index) => launch_index(console, path, index),
        Found::Layer(layer) => layer_blob(console, path, layer),
    }
}

fn launch_index(console: &Console, path: &Path, index: &IndexFile) {
    let packed = if index.packed { "packed" } else { "raw" };
    console.line(&format!("{}: a launch index, {packed}", path.display()));
    console.line(&format!("  digest    {}", index.digest));
    let (len, raw, each) = (bytes(index.bytes), bytes(index.unpacked_bytes), index.bytes_per_entry);
    let (entries, inodes) = (index.entries, index.inodes);
    console.line(&format!(
        "  size      {len} ({raw} unpacked), {entries} entries, {inodes} inodes, {each:.1} B an entry"
    ));
    index.layers.iter().enumerate().for_each(|(number, one)| layer(console, number, one, false));
    total(console, &index.layers);
}

fn layer_blob(console: &Console, path: &Path, layer: &LayerFile) {
    let kind = if layer.toc.is_some() { "zstd:chunked" } else { "zstd with a seek table" };
    console.line(&format!("{}: a layer, {kind}, {}", path.display(), bytes(layer.bytes)));
    console.line(&format!("  digest    {}", layer.digest));
    match &layer.toc {
        Some(toc) => {
            let (len, raw) = (bytes(toc.bytes), bytes(toc.unpacked_bytes));
            let (entries, chunks) = (toc.entries, toc.further_chunks);
            console.line(&format!(
                "  TOC       {len} ({raw} unpacked), {entries} entries, {chunks} further chunks, {}",
                toc.digest
            ));
            console.line(&format!("  tar-split {}", bytes(toc.tar_split_bytes)));
        }
        None => console.line("  TOC       none"),
    }
    match &layer.seek_table {
        Some(table) => console.line(&format!(
            "  seek table {} frames, {} of them skippable, {} decompressed",
            table.frames,
            table.skippable_frames,
            bytes(table.decompressed_bytes),
        )),
        None => console.line("  seek table none"),
    }
    if let Some(lazy) = &layer.lazy {
        let (entries, spans, tar) = (lazy.entries, lazy.spans, bytes(lazy.tar_bytes));
        console.line(&format!("  lazy      by its TOC: {entries} entries, {spans} spans, tar {tar}"));
    }
    layer.not_lazy.iter().for_each(|why| console.line(&format!("  lazy      not by its TOC: {why}")));
}
