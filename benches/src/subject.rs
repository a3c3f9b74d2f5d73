//! The image that is measured: built from a recipe, or any that the machine can reach.

use std::path::Path;

use jaunt_tests::debian::Builder;
use jaunt_tests::error::{Error, Result};
use jaunt_tests::{Readiness, Recipe, Registry, Scratch, skopeo};
use serde_json::Value;

use crate::Progress;

/// An image in a registry of the measurement's own.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it is called in the report.
    pub name: String,
    /// How many layers it has.
    pub layers: usize,
    /// Their compressed bytes.
    pub bytes: u64,
    /// Where it is: `host/repository:tag`.
    pub reference: String,
    /// When a container of it counts as ready.
    pub readiness: Readiness,
}

impl Subject {
    /// Builds a recipe's image, if need be, and puts it into `registry`.
    pub fn build(
        scratch: &Scratch,
        registry: &Registry,
        recipe: &Recipe,
        cache: &Path,
        progress: &Progress,
    ) -> Result<Self> {
        let say = |step: &str| progress.say(step);
        let layout = Builder::new(scratch, cache, &say).image(recipe)?;
        let reference = format!("{}/{}:latest", registry.host(), recipe.name);
        progress.say(&format!("pushing image {} to the registry", recipe.name));
        skopeo::push_layout(scratch, &layout, &reference)?;
        Self::at(registry, &recipe.name, &recipe.name, recipe.readiness())
    }

    /// Copies an image of another registry into `registry`.
    pub fn copy(scratch: &Scratch, registry: &Registry, image: &str, progress: &Progress) -> Result<Self> {
        let repository = "image";
        progress.say(&format!("copying {image} to the registry"));
        skopeo::copy_image(scratch, image, &format!("{}/{repository}:latest", registry.host()))?;
        Self::at(registry, repository, image, Readiness::FirstOutput)
    }

    /// The repository in the registry.
    pub fn repository(&self) -> &str {
        let path = self.reference.split_once('/').map_or("", |(_, path)| path);
        path.rsplit_once(':').map_or(path, |(repository, _)| repository)
    }

    fn at(registry: &Registry, repository: &str, name: &str, readiness: Readiness) -> Result<Self> {
        let (layers, bytes) = layers(&registry.manifest(repository, "latest")?.0)?;
        let reference = format!("{}/{repository}:latest", registry.host());
        Ok(Self { name: name.to_owned(), layers, bytes, reference, readiness })
    }
}

fn layers(manifest: &Value) -> Result<(usize, u64)> {
    let layers = manifest["layers"]
        .as_array()
        .ok_or_else(|| Error::unexpected("the image's manifest", "has no layers"))?;
    Ok((layers.len(), layers.iter().filter_map(|layer| layer["size"].as_u64()).sum()))
}
