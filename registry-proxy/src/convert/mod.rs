//! `convert`: from an image in a registry to its launch artifact beside it, and to the image that
//! replaces it if that is asked for.
//!
//! Every layer is converted once, however many images share it (`reuse`), and what a killed run had finished
//! is found by the next (`partial`). An image that is converted already, by the same recipe and with every
//! blob in place, is left alone: a repeated run costs a few requests.

mod converter;
mod launch;
mod layer;
mod partial;
mod progress;
mod replace;
mod report;
mod reuse;

use std::time::{Duration, Instant};

use jaunt_distribution::Client;
use jaunt_formats::Digest;

pub use launch::tree_of;

use crate::cli::{ConvertArgs, Mode};
use crate::console::{Console, cpu_seconds};
use crate::copy;
use crate::error::Error;
use crate::image::{self, Resolved};
use crate::manifest;
use crate::place::Place;
use converter::{Converter, Made, Outcome};

/// Runs the command.
pub async fn run(client: Client, args: &ConvertArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let started = Instant::now();
    let reference = args.to.as_ref().unwrap_or(&args.common.reference);
    let (resolved, then) = prepare(&client, args, &console).await?;
    let mut converter = Converter::new(&client, args, reference, &console)?;
    let (mut outcomes, mut failed) = (Vec::new(), 0);
    for image in &resolved.images {
        match converter.convert(image).await.map_err(|e| e.of_image(reference, image.descriptor.digest)) {
            Ok(outcome) => outcomes.push(outcome),
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
        replace::finish(&converter.place, reference, &resolved, &outcomes, then, &console).await?
    } else {
        None
    };
    converter.finish(&client, reference).await;
    let cost = Cost { wall: started.elapsed(), cpu_seconds: cpu_seconds() };
    report::summary(&console, reference, &outcomes, &resolved.skipped, replaced.as_ref(), &cost)?;
    let reference = reference.to_string();
    match args.mode {
        _ if failed == 0 => Ok(()),
        Mode::Attach => Err(Error::Images { reference, failed, images }),
        Mode::Replace => Err(Error::NotReplaced { reference, failed, images }),
    }
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
