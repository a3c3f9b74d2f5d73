//! Converted layers that are there already: the same layer is never converted twice.
//!
//! Launch artifacts, and what interrupted conversions left, say which blobs stand for which layers, and
//! by which recipe. Those of the target are read, and of the places it may be filled from: once a run,
//! when the first layer is wanted. A layer's spans come from the launch index it is listed with, its
//! entries from the blob's own TOC and tar-split; a blob without them is read whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::media_type::{
    CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION, DIFF_ID,
    LAUNCH_ARTIFACT, LAUNCH_INDEX, LAUNCH_PARTIAL, OCI_MANIFEST, ORIGINAL_DIGEST, RECIPE,
};
use jaunt_formats::zstd_chunked::{Annotations, ConvertedLayer, foreign};
use jaunt_formats::{DiffId, Digest, DigestScope, EntryLog};
use tokio::sync::{Mutex, OnceCell};

use crate::artifact::{self, Artifact};
use crate::copy::blobs;
use crate::error::Error;
use crate::image::Layer;
use crate::manifest::{self, Descriptor, ImageManifest};
use crate::pipeline::Processed;
use crate::place::Place;
use crate::spill::spill;
use crate::stream::BlobRead;
use crate::verify;

/// Artifacts read at the same time.
const PARALLEL: usize = 16;
/// What of a converted layer's descriptor describes the blob itself.
const CHUNKED: [&str; 3] = [CHUNKED_MANIFEST_CHECKSUM, CHUNKED_MANIFEST_POSITION, CHUNKED_TARSPLIT_POSITION];

/// A layer by its blob and its tar.
pub type Key = (Digest, DiffId);

/// What identifies a layer.
pub fn key(layer: &Layer) -> Key {
    (layer.descriptor.digest, layer.diff_id)
}

/// Every converted layer that can be had.
pub struct Library {
    /// The target first.
    places: Vec<Place>,
    recipe: String,
    shelves: OnceCell<Mutex<Shelves>>,
    /// Layers of the launch indexes that were looked into.
    indexes: Mutex<HashMap<Digest, Arc<[LaunchLayer]>>>,
}

/// What the artifacts of all places list.
#[derive(Default)]
struct Shelves {
    layers: HashMap<Key, Vec<Found>>,
    /// Those of the target that have a learnt boot pack.
    learnt: Vec<Learnt>,
}

/// An artifact with a boot pack that was made of starts.
#[derive(Clone, Debug)]
pub struct Learnt {
    /// The image's manifest.
    pub subject: Digest,
    /// The diffIDs of its layers, and the lengths of the converted blobs.
    layers: Vec<(String, u64)>,
}

impl Learnt {
    /// Of an artifact with these layers, if it has such a pack.
    fn of(subject: Digest, layers: &[Descriptor]) -> Option<Self> {
        layers.iter().find(|blob| artifact::is_learnt(blob))?;
        let diff_id = |blob: &Descriptor| Some((blob.annotation(DIFF_ID)?.to_owned(), blob.size));
        Some(Self { subject, layers: layers.iter().filter_map(diff_id).collect() })
    }

    /// Bytes of the layers that an image with these diffIDs has as well.
    pub fn in_common(&self, diff_ids: &HashSet<String>) -> u64 {
        let common = self.layers.iter().filter(|(diff_id, _)| diff_ids.contains(diff_id));
        common.map(|(_, len)| *len).fold(0, u64::saturating_add)
    }
}

/// A converted layer that some artifact lists.
#[derive(Clone, Debug)]
struct Found {
    place: Place,
    blob: Descriptor,
    /// The launch index that has its spans.
    index: Descriptor,
}

/// How a layer that was there already came to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Here,
    /// From another repository of the same registry, without moving a byte.
    Mounted,
    /// From another place, byte by byte.
    Copied,
}

impl Origin {
    /// As reports say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Here => "in place",
            Self::Mounted => "mounted",
            Self::Copied => "copied",
        }
    }
}

impl Library {
    /// What `target` has, and what the other places have that is made by the same recipe.
    pub fn new(target: Place, others: impl IntoIterator<Item = Place>, recipe: String) -> Self {
        let mut places = vec![target];
        for place in others {
            if !places.iter().any(|known| known.is_same(&place)) {
                places.push(place);
            }
        }
        Self { places, recipe, shelves: OnceCell::new(), indexes: Mutex::default() }
    }

    /// Where a layer could be had from, and its bytes there; nothing is moved.
    pub async fn look_up(&self, layer: &Layer) -> Result<Option<(Origin, u64)>, Error> {
        let target = &self.places[0];
        for found in self.shelf(layer).await {
            if found.place.blob_exists(&found.blob.digest).await? == Some(found.blob.size) {
                let origin = match &found.place {
                    place if place.is_same(target) => Origin::Here,
                    place if place.shares_registry(target) => Origin::Mounted,
                    _ => Origin::Copied,
                };
                return Ok(Some((origin, found.blob.size)));
            }
        }
        Ok(None)
    }

    /// An artifact was published in the target.
    pub async fn learn(&self, subject: Digest, artifact: &Artifact) {
        let Some(shelves) = self.shelves.get() else { return };
        let named = std::iter::once(&artifact.index).chain(&artifact.boot).chain(&artifact.layers);
        shelves.lock().await.add(&self.places[0], Some(subject), named.cloned().collect(), &self.recipe);
    }

    /// The artifacts of the target that have learnt boot packs.
    pub async fn learnt(&self) -> Vec<Learnt> {
        self.shelves().await.lock().await.learnt.clone()
    }

    /// Brings a layer to the target; `None` when it has to be converted.
    pub async fn take(&self, layer: &Layer) -> Result<Option<(Processed, Origin)>, Error> {
        for found in self.shelf(layer).await {
            match self.bring(layer, &found).await {
                Ok(Some(taken)) => return Ok(Some(taken)),
                Ok(None) => {}
                // One that cannot be used costs a conversion, never an error.
                Err(error) => {
                    tracing::warn!(layer = %layer.descriptor.digest, blob = %found.blob.digest, %error, "a converted layer cannot be used again");
                }
            }
        }
        Ok(None)
    }

    async fn bring(&self, layer: &Layer, found: &Found) -> Result<Option<(Processed, Origin)>, Error> {
        let target = &self.places[0];
        let Some(launch) = self.launch_layer(layer, found).await? else { return Ok(None) };
        let Some(origin) = self.fill(found).await? else { return Ok(None) };
        let entries = entries(target, &found.blob, &launch).await?;
        let named = found.blob.annotations.iter().flatten();
        let annotations = named.filter(|(key, _)| CHUNKED.contains(&key.as_str()));
        let converted = ConvertedLayer {
            digest: launch.converted.digest,
            len: launch.converted.len,
            diff_id: launch.diff_id,
            tar_len: launch.tar_len,
            spans: launch.spans,
            entries,
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
            obstacle: None,
        };
        let original = BlobRead { digest: launch.original.digest, len: launch.original.len };
        let processed = Processed { original, compression: launch.original.compression, layer: converted };
        Ok(Some((processed, origin)))
    }

    /// Has the target hold the blob; `None` when it is gone.
    async fn fill(&self, found: &Found) -> Result<Option<Origin>, Error> {
        let (target, digest) = (&self.places[0], &found.blob.digest);
        if target.blob_exists(digest).await? == Some(found.blob.size) {
            return Ok(Some(Origin::Here));
        }
        if found.place.is_same(target) || found.place.blob_exists(digest).await? != Some(found.blob.size) {
            return Ok(None);
        }
        let moved = blobs::copy_one(&found.place, target, &found.blob).await?;
        Ok(Some(if moved == 0 { Origin::Mounted } else { Origin::Copied }))
    }

    /// The layer as the launch index beside it has it, if that is the same layer.
    async fn launch_layer(&self, layer: &Layer, found: &Found) -> Result<Option<LaunchLayer>, Error> {
        let mut indexes = self.indexes.lock().await;
        let layers = match indexes.get(&found.index.digest) {
            Some(layers) => layers.clone(),
            None => {
                let index = artifact::read_index(&found.place, &found.index.digest).await?;
                let layers: Arc<[LaunchLayer]> = index.layers().into();
                indexes.insert(found.index.digest, layers.clone());
                layers
            }
        };
        let is_it = |known: &&LaunchLayer| {
            (known.original.digest, known.original.len) == (layer.descriptor.digest, layer.descriptor.size)
                && known.diff_id == layer.diff_id
                && (known.converted.digest, known.converted.len) == (found.blob.digest, found.blob.size)
                && known.scope == DigestScope::Compressed
        };
        Ok(layers.iter().find(is_it).cloned())
    }

    async fn shelf(&self, layer: &Layer) -> Vec<Found> {
        self.shelves().await.lock().await.layers.get(&key(layer)).cloned().unwrap_or_default()
    }

    async fn shelves(&self) -> &Mutex<Shelves> {
        let read = || async {
            let mut shelves = Shelves::default();
            for (at, place) in self.places.iter().enumerate() {
                for manifest in list(place).await {
                    let subject = manifest.subject.map(|subject| subject.digest).filter(|_| at == 0);
                    shelves.add(place, subject, manifest.layers, &self.recipe);
                }
            }
            Mutex::new(shelves)
        };
        self.shelves.get_or_init(read).await
    }
}

impl Shelves {
    /// Adds what an artifact lists; its `subject` if it is in the target.
    fn add(&mut self, place: &Place, subject: Option<Digest>, layers: Vec<Descriptor>, recipe: &str) {
        self.learnt.extend(subject.and_then(|subject| Learnt::of(subject, &layers)));
        for (key, found) in shelve(place, layers, recipe) {
            self.layers.entry(key).or_default().push(found);
        }
    }
}

/// The artifacts of a place. A place that cannot be read has nothing: it is no reason to fail.
async fn list(place: &Place) -> Vec<ImageManifest> {
    let tags = place.tags().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for converted layers that are there already");
        Vec::new()
    });
    let tags = tags.into_iter().filter(|tag| artifact::is_launch_tag(tag));
    let manifests = stream::iter(tags.map(|tag| async move {
        let found = place.manifest_if_exists(&tag, &[OCI_MANIFEST]).await;
        let found = found.inspect_err(|error| tracing::warn!(tag, %error, "cannot read a launch artifact"));
        let found = found.ok().flatten()?;
        manifest::parse::<ImageManifest>("launch artifact", found.digest, &found.bytes).ok()
    }));
    let manifests: Vec<_> = manifests.buffered(PARALLEL).collect().await;
    let ours = |manifest: &ImageManifest| {
        [Some(LAUNCH_ARTIFACT), Some(LAUNCH_PARTIAL)].contains(&manifest.artifact_type.as_deref())
    };
    manifests.into_iter().flatten().filter(ours).collect()
}

/// The converted layers of one artifact; each has its spans in the nearest launch index above it.
fn shelve(place: &Place, layers: Vec<Descriptor>, recipe: &str) -> Vec<(Key, Found)> {
    let (mut index, mut found) = (None, Vec::new());
    for blob in layers {
        if blob.media_type == LAUNCH_INDEX {
            index = Some(blob);
            continue;
        }
        let digest = |key| blob.annotation(key).and_then(|value| value.parse::<Digest>().ok());
        if let (Some(original), Some(diff_id), Some(index)) =
            (digest(ORIGINAL_DIGEST), digest(DIFF_ID), &index)
            && blob.annotation(RECIPE) == Some(recipe)
        {
            let key = (original, DiffId(diff_id));
            found.push((key, Found { place: place.clone(), index: index.clone(), blob }));
        }
    }
    found
}

/// The entries of a converted layer that is in the target.
async fn entries(target: &Place, blob: &Descriptor, launch: &LaunchLayer) -> Result<EntryLog, Error> {
    let annotations = blob.annotations.clone().unwrap_or_default().into_iter().collect();
    if let Ok(Some(annotations)) = Annotations::parse(&annotations)
        && let Ok(tail) = foreign::tail(&annotations, blob.size)
    {
        let bytes = target.blob_range(&blob.digest, tail).await?;
        let len = blob.size;
        let read = move || foreign::log_entries(len, &annotations, &bytes, spill);
        let read = tokio::task::spawn_blocking(read);
        return read.await?.map_err(|error| Error::Mismatch { layer: blob.digest, what: error.to_string() });
    }
    let entries = verify::verify_layer(target, launch, blob).await?;
    EntryLog::of(&entries, spill).map_err(Error::Spool)
}
