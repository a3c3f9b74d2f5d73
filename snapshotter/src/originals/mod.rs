//! The original blobs of lazily pulled images, brought to containerd's content store.
//!
//! A lazy pull leaves an image's layers in their registry, and a snapshotter sees no reads of the content store: who saves
//! the image, or pushes it elsewhere, finds its layers missing. They can only come from the registry: a converted blob
//! decodes to the same tar and has other bytes.
//!
//! ```text
//! containerd: image -> manifests -> layers that are missing
//!   each, one at a time: registry -> content.Write (checks the digest; goes on where an attempt has ended)
//!                                    under a lease, until the manifest's labels keep the layer
//! ```

mod background;
mod blob;
mod command;
mod error;
mod image;
mod node;
mod pace;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use jaunt_distribution::{Client, Repository};
use jaunt_formats::{Digest, Reference};

use blob::Carrier;
pub use command::{MaterialiseError, Request, run};
pub use error::OriginalsError;
use image::Image;
use node::Node;
use pace::Pace;
pub use service::OriginalsService;

use crate::fallback::error_chain;

/// What the daemon knows of layers.
pub trait Known: Send + Sync + 'static {
    /// Repositories that a layer's blob was pulled from, or may be found in.
    fn repositories(&self, layer: &Digest) -> Vec<Repository>;

    /// Chain IDs of the lazy snapshots on record.
    fn lazy_chains(&self) -> BTreeSet<String>;
}

/// How far an image is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageState {
    /// Bytes that were missing when it was looked at.
    pub missing: u64,
    /// Those of them that are there now.
    pub brought: u64,
    /// Why the rest is not; `None` while nothing is in the way.
    pub trouble: Option<String>,
}

/// How far one call is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers that are there now.
    pub layers_done: usize,
    /// Layers that were missing.
    pub layers: usize,
    /// Their bytes that are there now.
    pub bytes_done: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// containerd's namespace, and an image's name there.
type Name = (String, String);

/// Brings originals, one at a time whoever asks.
pub struct Originals {
    client: Client,
    known: Box<dyn Known>,
    containerd: PathBuf,
    pace: Pace,
    /// Held across awaits by design, for one layer.
    turn: tokio::sync::Mutex<()>,
    states: Mutex<BTreeMap<Name, ImageState>>,
}

impl Originals {
    /// For the containerd that listens on `socket`, with `limit` bytes a second in the background.
    pub fn new(client: Client, known: Box<dyn Known>, socket: PathBuf, limit: Option<NonZeroU64>) -> Self {
        let (turn, states) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { client, known, containerd: socket, pace: Pace::new(limit), turn, states }
    }

    /// Every image that was looked at since the daemon started.
    pub fn states(&self) -> Vec<(Name, ImageState)> {
        self.lock().iter().map(|(name, state)| (name.clone(), state.clone())).collect()
    }

    /// Brings what an image lacks, at once and without a limit. Cancel-safe: what was written stays.
    pub async fn materialise(
        &self,
        containerd: Option<&Path>,
        namespace: &str,
        name: &str,
        told: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Progress, OriginalsError> {
        let _urgent = self.pace.lift();
        let node = Node::connect(containerd.unwrap_or(&self.containerd), namespace).await?;
        let image = Image::read(&node, node.image(name).await?).await?;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let attempt = format!("{}-{nanos}", std::process::id());
        self.complete(&node, name, &image, &attempt, told).await
    }

    /// Brings what is missing of an image under a lease of that name, and notes how that goes.
    async fn complete(
        &self,
        node: &Node,
        name: &str,
        image: &Image,
        attempt: &str,
        told: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Progress, OriginalsError> {
        let noted = (node.namespace().to_owned(), name.to_owned());
        let missing = image.missing_bytes();
        let note = |brought, trouble| {
            self.lock().insert(noted.clone(), ImageState { missing, brought, trouble });
        };
        note(0, None);
        let mut brought = 0;
        let mut noting = |progress: Progress| {
            brought = progress.bytes_done;
            note(brought, None);
            told(progress);
        };
        let done = self.bring(node, name, image, attempt, &mut noting).await;
        if let Err(error) = &done {
            note(brought, Some(error_chain(error)));
        }
        done
    }

    async fn bring(
        &self,
        node: &Node,
        name: &str,
        image: &Image,
        attempt: &str,
        told: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Progress, OriginalsError> {
        let bytes = image.missing_bytes();
        let mut progress = Progress { layers: image.missing.len(), bytes, ..Progress::default() };
        told(progress);
        if image.missing.is_empty() {
            // Something else may have brought them, and keeps them for itself: or not any more, and containerd has collected them since.
            image.keep(node).await?;
            if image.is_kept() {
                return Ok(progress);
            }
            let kept = Image::read(node, image.target).await?;
            if kept.missing.is_empty() {
                return Ok(progress);
            }
            return Box::pin(self.bring(node, name, &kept, attempt, told)).await;
        }
        let lease = node.lease(attempt).await?;
        let carrier = Carrier { node, lease: &lease, client: &self.client, pace: &self.pace };
        for layer in &image.missing {
            let _turn = self.turn.lock().await;
            let before = progress.bytes_done;
            let mut told_of_layer = |there: u64| told(Progress { bytes_done: before + there, ..progress });
            carrier.bring(*layer, &self.repositories(name, &layer.digest), &mut told_of_layer).await?;
            progress.layers_done += 1;
            progress.bytes_done = before + layer.size;
            told(progress);
        }
        image.keep(node).await?;
        node.end(lease).await?;
        Ok(progress)
    }

    /// Where a layer may be: where the daemon knows it from, before the repository of the image's own name, which
    /// for one that was built here is none.
    fn repositories(&self, image: &str, layer: &Digest) -> Vec<Repository> {
        let mut repositories = self.known.repositories(layer);
        let own = image.parse::<Reference>().ok().as_ref().map(Repository::from);
        repositories.extend(own.filter(|own| !repositories.contains(own)));
        repositories
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, ImageState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
