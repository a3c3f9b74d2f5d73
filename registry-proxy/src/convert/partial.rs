//! What a conversion has made so far, kept in the registry: a run that is killed loses the layers under
//! way, and no registry collects the others.
//!
//! Under a tag of the image's own stands a manifest without a subject: for each finished layer a launch
//! index of that layer alone, without a tree, and the converted blob. It is deleted once the launch
//! artifact is there; where a registry does not delete, it stays, and names nothing that the artifact
//! does not.

use std::sync::Arc;

use jaunt_formats::Digest;
use jaunt_formats::launch;
use jaunt_formats::media_type::{LAUNCH_INDEX, LAUNCH_PARTIAL, OCI_EMPTY, OCI_MANIFEST, ORIGINAL_MANIFEST};
use jaunt_formats::tree::Tree;
use tokio::sync::Mutex;

use crate::artifact::{self, EMPTY};
use crate::error::Error;
use crate::launch::launch_layer;
use crate::manifest::{self, Annotations, Descriptor, ImageManifest};
use crate::pipeline::Processed;
use crate::place::Place;

/// The layers of one image that are done. Safe to share: layers end at the same time.
pub struct Partial<'p> {
    place: &'p Place,
    recipe: &'p str,
    subject: Digest,
    state: Mutex<State>,
}

struct State {
    /// Layers that are still to come.
    left: usize,
    /// Layers that are not listed yet.
    waiting: Vec<Arc<Processed>>,
    layers: Vec<Descriptor>,
    /// Manifests that were pushed, the last of which has the tag.
    pushed: Vec<Digest>,
    /// Whether a layer was there already.
    reused: bool,
}

impl State {
    fn done(&mut self, layer: &Arc<Processed>) {
        self.left = self.left.saturating_sub(1);
        self.waiting.push(layer.clone());
    }
}

impl<'p> Partial<'p> {
    /// Of an image with so many layers to be made.
    pub fn new(place: &'p Place, recipe: &'p str, subject: Digest, layers: usize) -> Self {
        let state = State {
            left: layers,
            waiting: Vec::new(),
            layers: Vec::new(),
            pushed: Vec::new(),
            reused: false,
        };
        Self { place, recipe, subject, state: Mutex::new(state) }
    }

    /// A layer was there already. It is listed with the next one that is converted; all of them come first,
    /// so that nothing that is listed gets lost.
    pub async fn note(&self, layer: &Arc<Processed>) {
        let mut state = self.state.lock().await;
        state.done(layer);
        state.reused = true;
    }

    /// A layer is converted. Where that cannot be kept, only a killed run would notice.
    pub async fn add(&self, layer: &Arc<Processed>) {
        let mut state = self.state.lock().await;
        state.done(layer);
        // After the last one comes the artifact itself.
        if state.left > 0
            && let Err(error) = self.push(&mut state).await
        {
            tracing::warn!(layer = %layer.original.digest, %error, "a killed run would convert this layer again");
        }
    }

    async fn push(&self, state: &mut State) -> Result<(), Error> {
        for layer in std::mem::take(&mut state.waiting) {
            let index = launch::write(&[launch_layer(&layer)], Tree::of_layers([Vec::new()])?)?;
            let index = artifact::push_index(self.place, launch::pack(&index)?.into()).await?;
            state.layers.push(index);
            state.layers.extend(artifact::describe(&[&layer], self.recipe));
        }
        let of = Annotations::from([(ORIGINAL_MANIFEST.to_owned(), self.subject.to_string())]);
        self.place.push_blob(&Digest::of(EMPTY), EMPTY.into()).await?;
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            artifact_type: Some(LAUNCH_PARTIAL.to_owned()),
            config: Descriptor::new(OCI_EMPTY, Digest::of(EMPTY), EMPTY.len() as u64),
            layers: state.layers.clone(),
            subject: None,
            annotations: Some(of),
        };
        let (digest, bytes) = manifest::encode(&manifest)?;
        self.place.push_manifest(&artifact::partial_tag(&self.subject), OCI_MANIFEST, bytes).await?;
        state.pushed.push(digest);
        Ok(())
    }

    /// The artifact is there: what was kept until then is not needed any more. What nothing should name now.
    pub async fn remove(self) -> Vec<Digest> {
        let state = self.state.into_inner();
        let (mut manifests, mut layers) = (state.pushed, state.layers);
        if manifests.is_empty() && state.reused {
            // An earlier run may have kept them.
            let tag = artifact::partial_tag(&self.subject);
            let Ok(Some(found)) = self.place.manifest_if_exists(&tag, &[OCI_MANIFEST]).await else {
                return Vec::new();
            };
            let listed = manifest::parse::<ImageManifest>("launch artifact", found.digest, &found.bytes);
            layers = listed.map(|listed| listed.layers).unwrap_or_default();
            manifests.push(found.digest);
        }
        // The last one has the tag. Those before it are nobody's, and a layout has forgotten them.
        for (age, digest) in manifests.iter().rev().enumerate() {
            match self.place.delete_manifest(digest).await {
                Err(error) if age == 0 => {
                    tracing::debug!(%digest, %error, "what was kept for an interrupted run stays");
                    return Vec::new();
                }
                _ => {}
            }
        }
        let indexes =
            layers.iter().filter(|layer| layer.media_type == LAUNCH_INDEX).map(|layer| layer.digest);
        manifests.into_iter().chain(indexes).collect()
    }
}
