//! `convert`: from an image in a registry to its launch artifact beside it, and to the image that
//! replaces it if that is asked for.
//!
//! Every layer is converted once, however many images of an index share it. An image that is converted
//! already, by the same recipe and with every blob in place, is left alone; so a run that was
//! interrupted can be repeated, and a repeated run costs a few requests.

mod launch;
mod layer;
mod progress;
mod replace;
mod report;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::Client;
use jaunt_formats::{DiffId, Digest};

pub use launch::tree_of;

use crate::artifact::{self, Artifact};
use crate::cli::{ConvertArgs, Mode};
use crate::console::{Console, cpu_seconds};
use crate::copy;
use crate::error::Error;
use crate::image::{self, Image, Layer, Resolved};
use crate::manifest;
use crate::pipeline::{Processed, Workshop};
use crate::place::Place;
use progress::LayerProgress;

/// Runs the command.
pub async fn run(client: Client, args: &ConvertArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let started = Instant::now();
    let reference = args.to.as_ref().unwrap_or(&args.common.reference);
    let (resolved, then) = prepare(&client, args, &console).await?;
    let mut converter = Converter {
        place: Place::of(&client, reference),
        workshop: Arc::new(Workshop::new(args.level)?),
        recipe: artifact::recipe(args.level),
        jobs: args.jobs.into(),
        known: HashMap::new(),
        console: &console,
    };
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

/// What became of one image.
pub struct Outcome<'i> {
    image: &'i Image,
    artifact: Artifact,
    /// Bottom to top; `None` when the image was converted already.
    layers: Option<Vec<Arc<Processed>>>,
    /// What of it this run converted, and how long that took.
    fresh: HashMap<(Digest, DiffId), Duration>,
}

struct Converter<'c> {
    place: Place,
    workshop: Arc<Workshop>,
    recipe: String,
    jobs: usize,
    /// Layers converted by this run.
    known: HashMap<(Digest, DiffId), Arc<Processed>>,
    console: &'c Console,
}

impl Converter<'_> {
    async fn convert<'i>(&mut self, image: &'i Image) -> Result<Outcome<'i>, Error> {
        let subject = image.descriptor.digest;
        if let Some(artifact) = self.existing(image).await? {
            artifact.complete(&self.place, &subject).await?;
            self.console.line(&format!(
                "already converted: {} {subject}, artifact {}",
                image.platform, artifact.digest
            ));
            return Ok(Outcome { image, artifact, layers: None, fresh: HashMap::new() });
        }
        self.console.line(&format!("converting {} {subject}, {} layers", image.platform, image.layers.len()));
        let fresh = self.convert_layers(image).await?;
        let layers: Vec<_> = image.layers.iter().map(|layer| Arc::clone(&self.known[&key(layer)])).collect();
        let parts = layers.clone();
        let index = tokio::task::spawn_blocking(move || {
            launch::build(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        });
        let converted: Vec<_> = layers.iter().map(AsRef::as_ref).collect();
        let index = artifact::push_index(&self.place, index.await??).await?;
        let described = artifact::describe(&converted, &self.recipe);
        let artifact = Artifact::publish(&self.place, &image.descriptor, index, described).await?;
        Ok(Outcome { image, artifact, layers: Some(layers), fresh })
    }

    /// The image's artifact, if it is what this run would make.
    async fn existing(&self, image: &Image) -> Result<Option<Artifact>, Error> {
        let found = match Artifact::find(&self.place, &image.descriptor.digest).await {
            Err(error @ (Error::Artifact { .. } | Error::Document(_))) => {
                tracing::warn!(%error, "the launch artifact there is will be replaced");
                None
            }
            found => found?,
        };
        let Some(artifact) = found else { return Ok(None) };
        let complete = artifact.is_complete(&self.place, image, &self.recipe).await?;
        Ok(complete.then_some(artifact))
    }

    /// Converts the layers of an image that are not known yet, several at a time.
    async fn convert_layers(&mut self, image: &Image) -> Result<HashMap<(Digest, DiffId), Duration>, Error> {
        let mut wanted: HashMap<(Digest, DiffId), &Layer> = HashMap::new();
        let new = image.layers.iter().filter(|layer| {
            !self.known.contains_key(&key(layer)) && wanted.insert(key(layer), layer).is_none()
        });
        let new: Vec<_> = new.collect();
        let converter = &*self;
        let converted = stream::iter(new.into_iter().map(|layer| async move {
            let (converted, took) = converter.convert_layer(layer).await?;
            Ok::<_, Error>((key(layer), converted, took))
        }));
        let converted: Vec<_> = converted.buffer_unordered(self.jobs).try_collect().await?;
        let times = converted.iter().map(|(key, _, took)| (*key, *took)).collect();
        self.known.extend(converted.into_iter().map(|(key, converted, _)| (key, Arc::new(converted))));
        Ok(times)
    }

    async fn convert_layer(&self, layer: &Layer) -> Result<(Processed, Duration), Error> {
        let name = report::short(&layer.descriptor.digest);
        let progress = Arc::new(LayerProgress::start(self.console, name, layer.descriptor.size));
        let (workshop, shared) = (Arc::clone(&self.workshop), Arc::clone(&progress));
        let converted = layer::convert(&self.place, layer, workshop, shared).await;
        progress.finish();
        let converted = converted?;
        let took = progress.elapsed();
        report::layer(self.console, &converted, took);
        Ok((converted, took))
    }
}

fn key(layer: &Layer) -> (Digest, DiffId) {
    (layer.descriptor.digest, layer.diff_id)
}
