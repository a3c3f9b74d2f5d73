//! `inspect`: what an image consists of and who can read it how, or what a file is that a conversion made.
//!
//! It tells what manifests, annotations and indexes say, and whether blobs are there; `verify` is for
//! whether all of that is true.

mod file;
mod image;
mod storage;
mod text;

use jaunt_distribution::Client;
use jaunt_formats::media_type::ORIGINAL_MANIFEST;
use serde_json::{Value, json};

use crate::cli::{InspectArgs, InspectTarget};
use crate::console::Console;
use crate::error::Error;
use crate::image::{ACCEPT, Resolved, resolve};
use crate::place::{ImageName, Place};
use crate::replace::original_tag;
use storage::Storage;

/// Runs the command.
pub async fn run(client: Client, args: &InspectArgs) -> Result<(), Error> {
    let console = Console::new(args.json);
    match &args.target {
        InspectTarget::Image(reference) => image(&client, reference, args, &console).await,
        InspectTarget::File(path) => {
            let owned = path.clone();
            let read = tokio::task::spawn_blocking(move || file::read(&owned)).await?;
            let found = read.map_err(|source| Error::File { path: path.clone(), source })?;
            text::file(&console, path, &found);
            let mut document = serde_json::to_value(&found).map_err(std::io::Error::from)?;
            document["file"] = path.display().to_string().into();
            console.result(&document)
        }
    }
}

async fn image(
    client: &Client,
    reference: &ImageName,
    args: &InspectArgs,
    console: &Console,
) -> Result<(), Error> {
    let place = Place::of(client, reference);
    let resolved = resolve(&place, reference, &args.platforms.wanted).await?;
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        return Err(resolved.nothing(reference));
    }
    let original = Original::of(&place, &resolved).await?;
    let mut reports = Vec::new();
    for image in &resolved.images {
        let report = image::report(&place, image, original.as_ref()).await;
        let report = report.map_err(|error| error.of_image(reference, image.descriptor.digest))?;
        text::image(console, &report);
        reports.push(report);
    }
    let skipped = || resolved.skipped.iter();
    skipped().for_each(|one| console.line(&format!("skipped {}: {}", one.digest, one.reason)));
    resolved.failed.iter().for_each(|error| console.line(&error.to_string()));
    let storage = Storage::of(&reports);
    text::storage(console, &storage);
    let skipped = skipped().map(|one| json!({ "digest": one.digest, "reason": one.reason }));
    console.result(&json!({
        "reference": reference.to_string(),
        "manifest": resolved.top.digest,
        "images": serde_json::to_value(&reports).map_err(std::io::Error::from)?,
        "skipped": skipped.collect::<Vec<_>>(),
        "failed": resolved.failed.iter().map(Error::to_string).collect::<Vec<_>>(),
        "storage": serde_json::to_value(&storage).map_err(std::io::Error::from)?,
    }))
}

/// What a replaced reference named before.
pub struct Original {
    /// The tag that should keep it.
    pub tag: String,
    /// Whether it does.
    pub kept: bool,
}

impl Original {
    async fn of(place: &Place, resolved: &Resolved) -> Result<Option<Self>, Error> {
        let top: Value = crate::manifest::parse("manifest", resolved.top.digest, &resolved.top.bytes)?;
        let named = top["annotations"][ORIGINAL_MANIFEST].as_str();
        let Some(digest) = named.and_then(|named| named.parse().ok()) else { return Ok(None) };
        let tag = original_tag(&digest);
        let kept = place.manifest_if_exists(&tag, &ACCEPT).await?.is_some();
        Ok(Some(Self { tag, kept }))
    }
}
