//! What an image consists of, and what of it containerd's content store lacks.
//!
//! Of an index, containerd fetches the manifests and configs of the platforms it was asked for: those are
//! looked at. An image that was pulled lazily has them, and lacks layers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jaunt_formats::{ChainId, DiffId, Digest};
use serde::Deserialize;

use super::error::OriginalsError;
use super::node::Node;

/// containerd keeps what these labels of a blob name.
const CHILD: &str = "containerd.io/gc.ref.content.";
/// Blobs looked at: an index, with manifests and configs of more platforms than there are.
const MAX_BLOBS: usize = 256;

/// A layer that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub digest: Digest,
    pub size: u64,
}

/// An image as containerd has it.
#[derive(Debug)]
pub(super) struct Image {
    /// Its manifest or index.
    pub target: Digest,
    /// Layers that are missing, each once.
    pub missing: Vec<Layer>,
    /// Chain IDs of its layers, from the lowest up: an image that was built on a lazy one has layers of its own on top.
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

#[derive(Default, Deserialize)]
struct Config {
    rootfs: Rootfs,
}

#[derive(Default, Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
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
        let mut image = Self { target, chains: BTreeSet::new(), missing: Vec::new(), unkept: Vec::new() };
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
            match node.manifest(&config.digest).await {
                Ok(config) => image.chains.extend(chains(&config)),
                Err(OriginalsError::NotHere(_)) => continue,
                // Not that of a container image.
                Err(OriginalsError::TooLarge(_)) => {}
                Err(error) => return Err(error),
            }
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

    /// Whether every manifest kept its layers when they were looked at.
    pub fn is_kept(&self) -> bool {
        self.unkept.is_empty()
    }

    /// How much is missing.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
    }
}

/// The chain IDs of a config's layers; none where it is no container image's.
fn chains(config: &[u8]) -> Vec<String> {
    let config: Config = serde_json::from_slice(config).unwrap_or_default();
    let diff_ids: Vec<DiffId> = config.rootfs.diff_ids.into_iter().map(DiffId).collect();
    ChainId::prefixes(&diff_ids).map(|chain| chain.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_chains_of_all_that_it_is_built_on() {
        let [below, above] = [Digest::of(b"below"), Digest::of(b"above")];
        let config = |diff_ids: &[Digest]| {
            let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
            serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string()
        };
        let (base, built) = (chains(config(&[below]).as_bytes()), chains(config(&[below, above]).as_bytes()));
        assert_eq!(base, [below.to_string()]);
        assert_eq!((built.len(), &built[0]), (2, &base[0]));
        for other in ["{}", "", "\0binary", r#"{"rootfs": {"diff_ids": ["no digest"]}}"#] {
            assert_eq!(chains(other.as_bytes()), [""; 0]);
        }
    }
}
