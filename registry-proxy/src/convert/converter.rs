//! Images one after the other, their layers several at a time.

mod boot;
mod predecessor;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::Client;
use jaunt_formats::Digest;

use super::partial::Partial;
use super::progress::LayerProgress;
use super::reuse::{Key, Library, Origin, key};
use super::{layer, report};
use crate::artifact::{self, Artifact, Unpublished};
use crate::cli::ConvertArgs;
use crate::console::Console;
use crate::error::Error;
use crate::image::{Image, Layer};
use crate::launch;
use crate::pipeline::{Processed, Workshop};
use crate::place::{ImageName, Place};
use crate::sign::Signer;
use crate::tries::Tries;

/// How a layer came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// By converting it, which took so long.
    Converted(Duration),
    /// An earlier image or run had it.
    Reused(Origin),
}

/// What became of one image.
pub struct Outcome<'i> {
    pub image: &'i Image,
    pub artifact: Artifact,
    /// Bottom to top; `None` when the image was converted already.
    pub layers: Option<Vec<Arc<Processed>>>,
    /// How those of its layers came to be that no earlier image of this run had.
    pub made: HashMap<Key, Made>,
}

/// Converts images into one place.
pub struct Converter<'c> {
    pub place: Place,
    pub library: Library,
    workshop: Arc<Workshop>,
    recipe: String,
    concurrency: usize,
    level: i32,
    /// Whether images get boot packs.
    with_boot: bool,
    /// How many bytes of files these may hold, if that was said.
    boot_limit: Option<u64>,
    /// Whose packs they start from, if that was said.
    predecessor: Option<(Place, ImageName)>,
    /// Layers that this run has at hand.
    known: HashMap<Key, Arc<Processed>>,
    /// Those of them that it did not convert itself.
    reused: HashSet<Key>,
    /// What signs the artifacts.
    pub signer: Option<Signer>,
    /// Blobs of finished images that nothing should name any more.
    litter: Vec<Digest>,
    console: &'c Console,
}

impl<'c> Converter<'c> {
    /// One that writes where `target` is.
    pub fn new(
        client: &Client,
        args: &ConvertArgs,
        target: &ImageName,
        console: &'c Console,
    ) -> Result<Self, Error> {
        let place = Place::of(client, target);
        let recipe = artifact::recipe(args.level);
        let others = args.reuse_from.iter().chain([&args.common.reference]);
        let others = others.map(|name| Place::of(client, name));
        Ok(Self {
            library: Library::new(place.clone(), others, recipe.clone()),
            place,
            workshop: Arc::new(Workshop::new(args.level)?),
            recipe,
            concurrency: args.concurrency.into(),
            level: args.level,
            with_boot: !args.no_boot_pack,
            boot_limit: args.max_boot_mib.map(|mib| mib.saturating_mul(1 << 20)),
            predecessor: args.predecessor.as_ref().map(|name| (Place::of(client, name), name.clone())),
            known: HashMap::new(),
            reused: HashSet::new(),
            signer: args.sign_key.as_deref().map(Signer::load).transpose()?,
            litter: Vec::new(),
            console,
        })
    }

    /// Lets go of the layers at hand: those of later images come out of artifacts, as after a restart.
    pub fn forget_layers(&mut self) {
        self.known.clear();
    }

    /// Ends the work. A layout on disk lets nobody remove anything while there is a writer, so what is left over
    /// goes now.
    pub async fn finish(self, client: &Client, target: &ImageName) {
        let (litter, place) = (self.litter, Place::of(client, target));
        drop((self.place, self.library));
        if let Err(error) = place.collect(litter).await {
            tracing::warn!(%error, "what was kept for an interrupted run stays");
        }
    }

    /// Converts an image and publishes its artifact.
    pub async fn convert<'i>(&mut self, image: &'i Image) -> Result<Outcome<'i>, Error> {
        let subject = image.descriptor.digest;
        let found = self.find(image).await?;
        if let Some((artifact, true)) = found {
            artifact.complete(&self.place, &subject).await?;
            self.console.line(&format!(
                "already converted: {} {subject}, artifact {}",
                image.platform, artifact.digest
            ));
            return Ok(Outcome { image, artifact, layers: None, made: HashMap::new() });
        }
        self.console.line(&format!("converting {} {subject}, {} layers", image.platform, image.layers.len()));
        let (place, recipe) = (self.place.clone(), self.recipe.clone());
        let wanted = self.wanted(image);
        let partial = Partial::new(&place, &recipe, subject, wanted.len());
        let made = self.make_layers(wanted, &partial).await?;
        let layers: Vec<_> = image.layers.iter().map(|layer| Arc::clone(&self.known[&key(layer)])).collect();
        let parts = layers.clone();
        let index = tokio::task::spawn_blocking(move || {
            launch::build(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        });
        let converted: Vec<_> = layers.iter().map(AsRef::as_ref).collect();
        let packed = Bytes::from(index.await??);
        let index = artifact::push_index(&place, packed.clone()).await?;
        let described = artifact::describe(&converted, &recipe);
        let before = found.map(|(before, _)| before);
        let boot = self.boot_pack(image, before.as_ref(), (index.digest, packed), &described).await?;
        let artifact = Unpublished::new(&image.descriptor, index, boot, described)?.publish(&place).await?;
        self.library.learn(subject, &artifact).await;
        self.litter.extend(partial.remove().await);
        if let Some(before) = before {
            let kept: HashSet<Digest> = artifact.blobs().collect();
            self.litter.extend(before.blobs().filter(|blob| !kept.contains(blob)));
        }
        Ok(Outcome { image, artifact, layers: Some(layers), made })
    }

    /// Whether this run converted all layers of an image from the originals.
    pub fn has_seen(&self, image: &Image) -> bool {
        !image.layers.iter().any(|layer| self.reused.contains(&key(layer)))
    }

    /// The image's artifact, if it is what this run would make.
    pub async fn existing(&self, image: &Image) -> Result<Option<Artifact>, Error> {
        Ok(self.find(image).await?.and_then(|(artifact, complete)| complete.then_some(artifact)))
    }

    /// The image's artifact, and whether it is what this run would make.
    async fn find(&self, image: &Image) -> Result<Option<(Artifact, bool)>, Error> {
        let found = match Artifact::find(&self.place, &image.descriptor.digest).await {
            Err(error @ (Error::Artifact { .. } | Error::Document(_))) => {
                tracing::warn!(%error, "the launch artifact there is will be replaced");
                None
            }
            found => found?,
        };
        let Some(artifact) = found else { return Ok(None) };
        let complete = artifact.is_complete(&self.place, image, &self.recipe).await?;
        Ok(Some((artifact, complete)))
    }

    /// The layers of an image that are not at hand yet, each once.
    fn wanted<'i>(&self, image: &'i Image) -> Vec<&'i Layer> {
        let mut wanted = HashMap::new();
        let new = image
            .layers
            .iter()
            .filter(|layer| !self.known.contains_key(&key(layer)) && wanted.insert(key(layer), ()).is_none());
        new.collect()
    }

    /// Takes the layers that are there already, then converts the others, several at a time.
    async fn make_layers(
        &mut self,
        wanted: Vec<&Layer>,
        partial: &Partial<'_>,
    ) -> Result<HashMap<Key, Made>, Error> {
        let converter = &*self;
        let taken = stream::iter(wanted.into_iter().map(|layer| async move {
            let taken = converter.take(layer, partial).await?;
            Ok::<_, Error>((layer, taken))
        }));
        let taken: Vec<_> = taken.buffer_unordered(self.concurrency).try_collect().await?;
        let (mut made, mut known, mut rest) = (HashMap::new(), HashMap::new(), Vec::new());
        let mut reused = Vec::new();
        for (layer, taken) in taken {
            match taken {
                Some((processed, origin)) => {
                    made.insert(key(layer), Made::Reused(origin));
                    reused.push(key(layer));
                    known.insert(key(layer), processed);
                }
                None => rest.push(layer),
            }
        }
        let converted = stream::iter(rest.into_iter().map(|layer| async move {
            let (converted, took) = converter.convert_layer(layer).await?;
            partial.add(&converted).await;
            Ok::<_, Error>((key(layer), converted, took))
        }));
        let converted: Vec<_> = converted.buffer_unordered(self.concurrency).try_collect().await?;
        for (key, converted, took) in converted {
            made.insert(key, Made::Converted(took));
            known.insert(key, converted);
        }
        self.known.extend(known);
        self.reused.extend(reused);
        Ok(made)
    }

    async fn take(
        &self,
        layer: &Layer,
        partial: &Partial<'_>,
    ) -> Result<Option<(Arc<Processed>, Origin)>, Error> {
        let Some((processed, origin)) = self.library.take(layer).await? else { return Ok(None) };
        let processed = Arc::new(processed);
        partial.note(&processed).await;
        report::reused(self.console, &processed, origin);
        Ok(Some((processed, origin)))
    }

    async fn try_convert_layer(
        &self,
        layer: &Layer,
        progress: &Arc<LayerProgress>,
    ) -> Result<Processed, Error> {
        let mut tries = Tries::new();
        loop {
            progress.restart();
            let (workshop, shared) = (Arc::clone(&self.workshop), Arc::clone(progress));
            match layer::convert(&self.place, layer, workshop, shared).await {
                Err(error) => tries.again(error).await?,
                converted => return converted,
            }
        }
    }

    async fn convert_layer(&self, layer: &Layer) -> Result<(Arc<Processed>, Duration), Error> {
        let name = report::short(&layer.descriptor.digest);
        let progress = Arc::new(LayerProgress::start(self.console, name, layer.descriptor.size));
        let converted = self.try_convert_layer(layer, &progress).await;
        progress.finish();
        let converted = converted?;
        let took = progress.elapsed();
        report::layer(self.console, &converted, took);
        Ok((Arc::new(converted), took))
    }
}
