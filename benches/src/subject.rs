//! The image that is started: the demo's own, or any that the machine can reach.

use std::path::Path;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::{Readiness, Registry, Scratch, debian};
use serde_json::Value;

use crate::Progress;

/// An image in the demo's registry.
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
    /// Puts the image into `registry`: `image` if one is named, else the demo's own, built if need be.
    pub fn prepare(
        scratch: &Scratch,
        registry: &Registry,
        image: Option<&str>,
        cache: &Path,
        progress: &Progress,
    ) -> Result<Self> {
        let (name, readiness) = match image {
            Some(image) => (image.to_owned(), Readiness::FirstOutput),
            None => ("debian-python-pandas".to_owned(), Readiness::Line(debian::READY.to_owned())),
        };
        let reference = format!("{}/demo:latest", registry.host());
        if let Some(image) = image {
            progress.say(&format!("copying {image} to the registry"));
            debian::copy_image(scratch, image, &reference)?;
        } else {
            let layout = debian::python_image(scratch, cache, &|step| progress.say(step))?;
            progress.say("pushing the image to the registry");
            debian::push_layout(scratch, &layout, &reference)?;
        }
        let (layers, bytes) = layers(&registry.manifest("demo", "latest")?.0)?;
        Ok(Self { name, layers, bytes, reference, readiness })
    }
}

fn layers(manifest: &Value) -> Result<(usize, u64)> {
    let layers = manifest["layers"]
        .as_array()
        .ok_or_else(|| Error::unexpected("the image's manifest", "has no layers"))?;
    Ok((layers.len(), layers.iter().filter_map(|layer| layer["size"].as_u64()).sum()))
}
