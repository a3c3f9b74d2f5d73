//! `convert`: from an image in a registry to its launch artifact beside it, and to the image that
//! replaces it if that is asked for.
//!
//! Every layer is converted once, however many images share it (`reuse`), and what a killed run had finished
//! is found by the next (`partial`). An image that is converted already, by the same recipe and with every
//! blob in place, is left alone: a repeated run costs a few requests.

mod backfill;
mod converter;
mod layer;
mod partial;
mod plan;
mod progress;
mod replace;
mod report;
mod reuse;
mod summary;

use std::time::{Duration, Instant};

use jaunt_distribution::Client;
use jaunt_formats::Digest;
use serde_json::Value;

use crate::cli::{ConvertArgs, Mode};
use crate::console::{Console, cpu_seconds};
use crate::copy;
use crate::error::Error;
use crate::image::{self, Resolved, Skipped};
use crate::manifest;
use crate::place::{ImageName, Place};
use crate::verify;
use converter::{Converter, Made, Outcome};
use report::Totals;

/// Runs the command.
pub async fn run(client: Client, args: &ConvertArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    if args.dry_run {
        return plan::run(&client, args, &console).await;
    }
    let (started, target) = (Instant::now(), args.to.as_ref().unwrap_or(&args.common.reference));
    let mut converter = Converter::new(&client, args, target, &console)?;
    let (mut document, totals, outcome) = if args.all_tags {
        backfill::run(&client, args, &mut converter, &console).await?
    } else {
        let done = one(&client, args, &mut converter, &console).await?;
        (done.document, done.totals, done.failed.map_or(Ok(()), Err))
    };
    converter.finish(&client, target).await;
    let cost = Cost { wall: started.elapsed(), cpu_seconds: cpu_seconds() };
    report::totals(&console, &totals, &cost, &mut document);
    console.result(&document)?;
    outcome
}

/// What became of a reference.
struct Done {
    document: Value,
    totals: Totals,
    /// Images that are converted now,
    images: usize,
    /// and those of them that were not before.
    converted: usize,
    skipped: Vec<Skipped>,
    /// Some of its images could not be converted; each has been named.
    failed: Option<Error>,
}

/// Converts what a reference names.
async fn one(
    client: &Client,
    args: &ConvertArgs,
    converter: &mut Converter<'_>,
    console: &Console,
) -> Result<Done, Error> {
    let reference = args.to.as_ref().unwrap_or(&args.common.reference);
    let (resolved, then) = prepare(client, args, console).await?;
    let (mut outcomes, mut failed, mut totals) = (Vec::new(), 0, Totals::default());
    for image in &resolved.images {
        let mut converted = converter.convert(image).await;
        if let Ok(outcome) = &converted
            && let Err(error) = sign(converter, reference, outcome, console).await
        {
            converted = Err(error);
        }
        let told = |error| match error {
            Error::Place(refusal) if args.to.is_none() && refusal.is_refusal() => Error::MayNotWrite(refusal),
            error => error,
        };
        match converted.map_err(|e| told(e).of_image(reference, image.descriptor.digest)) {
            Ok(outcome) => {
                totals.add(&outcome);
                outcomes.push(outcome);
            }
            Err(error) if !manifest::is_index(&resolved.top) => return Err(error),
            // One image that cannot be converted takes nothing from the others.
            Err(error) => {
                console.error(&error);
                failed += 1;
            }
        }
    }
    let (failed, images) = (failed + resolved.failed.len(), resolved.images.len() + resolved.failed.len());
    let replaced = if args.mode == Mode::Replace && failed == 0 && images > 0 {
        replace::finish(converter, reference, &resolved, &outcomes, then, console).await?
    } else {
        None
    };
    let document = report::reference(console, reference, &outcomes, &resolved.skipped, replaced.as_ref());
    let reference = reference.to_string();
    let failed = match args.mode {
        _ if failed == 0 => None,
        Mode::Attach => Some(Error::Images { reference, failed, images }),
        Mode::Replace => Some(Error::NotReplaced { reference, failed, images }),
    };
    let converted = outcomes.iter().filter(|outcome| outcome.layers.is_some()).count();
    // An image that is replaced now was attached to before.
    let converted = converted.max(replaced.map_or(0, |replaced| replaced.manifests.len()));
    Ok(Done { document, totals, images: outcomes.len(), converted, skipped: resolved.skipped, failed })
}

/// Signs the artifact of an image, if there is a key. What this run did not make itself is read back first.
async fn sign(
    converter: &Converter<'_>,
    reference: &ImageName,
    outcome: &Outcome<'_>,
    console: &Console,
) -> Result<(), Error> {
    let Some(signer) = &converter.signer else { return Ok(()) };
    if outcome.layers.is_none() || !converter.has_seen(outcome.image) {
        verify::verify(&converter.place, outcome.image, console).await?;
    }
    signer.sign(&converter.place, reference, outcome.artifact.digest, console).await
}

/// Finds the images, brings them to where `--to` says, and tells what of them stays as it is. With them
/// comes what the tag names that will move in replace mode.
async fn prepare(
    client: &Client,
    args: &ConvertArgs,
    console: &Console,
) -> Result<(Resolved, Option<Digest>), Error> {
    let mut reference = &args.common.reference;
    if let (Mode::Attach, Some(to)) = (args.mode, &args.to) {
        copy::copy(client, reference, to, console).await?;
        reference = to;
    }
    let resolved = image::resolve(&Place::of(client, reference), reference, &args.platforms.wanted).await?;
    for skipped in &resolved.skipped {
        console.line(&format!("skipped {}: {}", skipped.digest, skipped.reason));
    }
    resolved.failed.iter().for_each(|error| console.error(error));
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        if !args.platforms.wanted.is_empty() {
            return Err(resolved.nothing(reference));
        }
        console.line(&format!("nothing to convert: {reference} has no image that could be started lazily"));
    }
    let then = match args.mode {
        Mode::Attach => None,
        Mode::Replace => replace::prepare(client, args, &resolved, console).await?,
    };
    Ok((resolved, then))
}

/// What a run took.
pub struct Cost {
    wall: Duration,
    cpu_seconds: f64,
}
