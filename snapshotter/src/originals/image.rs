//! What an image consists of, and what of it containerd's content store lacks.
//!
//! Of an index, containerd fetches the manifests and configs of the platforms it was asked for: those are
//! looked at. An image that was pulled lazily has them, and lacks layers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jaunt_formats::Digest;
use serde::Deserialize;

use super::error::OriginalsError;
use super::node::Node;

/// containerd keeps what these labels of a blob name.
const CHILD: &str = "containerd.io/gc.ref.content.";
/// Those of a config: the topmost snapshot of every snapshotter that has the image.
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// Blobs looked at: an index, with manifests and configs of more platforms than there are.
const MAX_BLOBS: usize = 256;

/// A layer that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub digest: Digest,
    pub size: u64,
}

/// An image as containerd has it.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// Layers that are missing, each once.
    pub missing: Vec<Layer>,
    /// Chain IDs of the snapshots that it was unpacked to.
    pub chains: BTreeSet<String>,
    /// Manifests that do not keep one of their layers: it is to be named by that label.
    unkept: Vec<(Digest, String, Digest)>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    size: u64,
}

impl Image {
    /// Looks at the image whose manifest or index is `target`.
    pub async fn read(node: &Node, target: Digest) -> Result<Self, OriginalsError> {
        if node.labels(&target).await?.is_none() {
            return Err(OriginalsError::NotHere(target));
        }
        let mut image = Self::default();
        let mut missing = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut blobs = VecDeque::from([target]);
        while let Some(digest) = blobs.pop_front() {
            if seen.len() == MAX_BLOBS || !seen.insert(digest) {
                continue;
            }
            let Some(labels) = node.labels(&digest).await? else { continue };
            let document: Document = serde_json::from_slice(&node.manifest(&digest).await?)
                .map_err(|source| OriginalsError::Manifest { digest, source })?;
            blobs.extend(document.manifests.into_iter().flatten().map(|child| child.digest));
            let Some(config) = document.config else { continue };
            let Some(of_config) = node.labels(&config.digest).await? else { continue };
            image.chains.extend(snapshots(of_config));
            let kept: BTreeSet<&str> = labels
                .iter()
                .filter(|(key, _)| key.starts_with(CHILD))
                .map(|(_, digest)| digest.as_str())
                .collect();
            for (position, layer) in document.layers.into_iter().flatten().enumerate() {
                if !kept.contains(layer.digest.to_string().as_str()) {
                    image.unkept.push((digest, format!("{CHILD}l.{position}"), layer.digest));
                }
                if node.labels(&layer.digest).await?.is_none() {
                    missing.insert(layer.digest, layer.size);
                }
            }
        }
        image.missing = missing.into_iter().map(|(digest, size)| Layer { digest, size }).collect();
        Ok(image)
    }

    /// Has every manifest keep its layers. containerd sets these labels when it pulls, and takes them away where it
    /// is told to discard layers once they are unpacked.
    pub async fn keep(&self, node: &Node) -> Result<(), OriginalsError> {
        for (manifest, label, layer) in &self.unkept {
            node.label(manifest, label.clone(), layer.to_string()).await?;
        }
        Ok(())
    }

    /// How much is missing.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
    }
}

fn snapshots(labels: std::collections::HashMap<String, String>) -> impl Iterator<Item = String> {
    labels.into_iter().filter(|(key, _)| key.starts_with(SNAPSHOT)).map(|(_, chain)| chain)
}
