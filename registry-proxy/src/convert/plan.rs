//! `convert --dry-run`: what would be done, exactly; nothing is written.

use std::collections::HashSet;

use jaunt_distribution::Client;
use serde_json::{Value, json};

use super::converter::Converter;
use super::report::short;
use super::reuse::{Key, Origin, key};
use super::{backfill, replace};
use crate::cli::{ConvertArgs, Mode};
use crate::console::{Console, bytes};
use crate::error::Error;
use crate::image::{self, Image};
use crate::manifest;
use crate::place::{ImageName, Place};

/// What a run would cost. A converted layer is about as large as its original.
#[derive(Default)]
struct Estimate {
    convert: usize,
    reuse: usize,
    read: u64,
    written: u64,
}

/// Runs the command.
pub async fn run(client: &Client, args: &ConvertArgs, console: &Console) -> Result<(), Error> {
    let target = args.to.as_ref().unwrap_or(&args.common.reference);
    let converter = Converter::new(client, args, target, console)?;
    let mut planner =
        Planner { client, converter, console, planned: HashSet::new(), sum: Estimate::default() };
    let references = if args.all_tags { backfill::each_tag(client, args).await? } else { vec![args.clone()] };
    let (mut documents, mut failed) = (Vec::new(), 0);
    for one in &references {
        match planner.reference(one).await {
            Ok(document) => documents.push(document),
            Err(error) if !args.all_tags => return Err(error),
            Err(error) => {
                console.error(&error);
                failed += 1;
                let reference = one.common.reference.to_string();
                documents.push(json!({ "reference": reference, "error": error.to_string() }));
            }
        }
    }
    let Estimate { convert, reuse, read, written } = planner.sum;
    console.line(&format!(
        "would convert {convert} layers and use {reuse} again: {} to read, about {} to write; nothing was done",
        bytes(read),
        bytes(written),
    ));
    console.result(&json!({
        "dry_run": true, "references": documents, "failed": failed, "layers_to_convert": convert,
        "layers_to_reuse": reuse, "bytes_to_read": read, "bytes_to_write_about": written,
    }))?;
    let (repository, tags) = (args.common.reference.place_name(), references.len());
    if failed == 0 { Ok(()) } else { Err(Error::Tags { repository, failed, tags }) }
}

struct Planner<'c> {
    client: &'c Client,
    converter: Converter<'c>,
    console: &'c Console,
    /// Layers that an earlier image would have brought.
    planned: HashSet<Key>,
    sum: Estimate,
}

impl Planner<'_> {
    async fn reference(&mut self, args: &ConvertArgs) -> Result<Value, Error> {
        let from = &args.common.reference;
        let source = Place::of(self.client, from);
        let resolved = image::resolve(&source, from, &args.platforms.wanted).await?;
        if args.mode == Mode::Replace {
            replace::refuse(&source, args, &resolved).await?;
        }
        self.console.line(&format!("{from}{}", moves(args)));
        resolved.failed.iter().for_each(|error| self.console.error(error));
        for skipped in &resolved.skipped {
            self.console.line(&format!("  stays as it is: {}: {}", skipped.digest, skipped.reason));
        }
        let mut images = Vec::new();
        for image in &resolved.images {
            images.push(self.image(image).await.map_err(|e| e.of_image(from, image.descriptor.digest))?);
        }
        let skipped =
            resolved.skipped.iter().map(|one| json!({ "digest": one.digest, "reason": one.reason }));
        Ok(json!({
            "reference": from.to_string(), "images": images, "skipped": skipped.collect::<Vec<_>>(),
            "failed": resolved.failed.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "index": manifest::is_index(&resolved.top),
        }))
    }

    async fn image(&mut self, image: &Image) -> Result<Value, Error> {
        let subject = image.descriptor.digest;
        if let Some(artifact) = self.converter.existing(image).await? {
            self.console.line(&format!("  {} {subject}: already converted", image.platform));
            return Ok(json!({
                "platform": image.platform.to_string(), "manifest": subject, "action": "none",
                "artifact": artifact.digest,
            }));
        }
        self.console.line(&format!("  {} {subject}: would be converted", image.platform));
        let mut layers = Vec::new();
        for layer in &image.layers {
            if !self.planned.insert(key(layer)) {
                continue;
            }
            let (digest, size) = (layer.descriptor.digest, layer.descriptor.size);
            let found = self.converter.library.look_up(layer).await?;
            let (action, moved) = match found {
                None => ("convert", size),
                Some((Origin::Here, _)) => ("in place", 0),
                Some((Origin::Mounted, _)) => ("mount", 0),
                Some((Origin::Copied, size)) => ("copy", size),
            };
            *(if found.is_none() { &mut self.sum.convert } else { &mut self.sum.reuse }) += 1;
            self.sum.read += moved;
            self.sum.written += moved;
            self.console.line(&format!("    layer {}, {}: {action}", short(&digest), bytes(size)));
            layers.push(
                json!({ "original": digest, "original_bytes": size, "action": action, "bytes": moved }),
            );
        }
        let platform = image.platform.to_string();
        Ok(json!({ "platform": platform, "manifest": subject, "action": "convert", "layers": layers }))
    }
}

/// Where the image would go, and whether a tag would move.
fn moves(args: &ConvertArgs) -> String {
    let to = |to: &ImageName| format!(", copied to {to} first");
    let copied = args.to.as_ref().map(to).unwrap_or_default();
    match args.mode {
        Mode::Attach => copied,
        Mode::Replace => format!("{copied}: its tag would move to the converted image"),
    }
}
