//! Root file systems as containers get them: overlayfs over what a snapshotter of containerd's gives.

use std::path::Path;

use jaunt_formats::{ChainId, DiffId, Digest};
use jaunt_tests::error::{Error, Result};
use jaunt_tests::mounts::Mounted;
use jaunt_tests::{Binaries, Node, Registry, Scratch};

/// A container's root file system, and the node below it. Whatever is done to it, the image is left alone.
#[derive(Debug)]
pub struct Root<'s> {
    // Unmounted before the node stops.
    mounted: Mounted,
    /// The node.
    pub node: Node<'s>,
}

impl<'s> Root<'s> {
    /// Unpacked by containerd, on whatever the scratch lies on.
    pub fn unpacked(scratch: &'s Scratch, registry: &Registry, image: &str) -> Result<Self> {
        Self::on(Node::overlayfs(scratch, &[registry.host()])?, "overlayfs", registry, image)
    }

    /// Mounted by our snapshotter, whose configuration file says `config`.
    pub fn lazy(
        scratch: &'s Scratch,
        binaries: &Binaries,
        registry: &Registry,
        image: &str,
        config: &str,
    ) -> Result<Self> {
        let node = Node::configured(scratch, binaries, &[registry.host()], config)?;
        Self::on(node, "jaunt", registry, image)
    }

    /// Another image of the same node.
    pub fn beside(&self, registry: &Registry, image: &str) -> Result<Mounted> {
        mount(&self.node, "jaunt", registry, image)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.mounted.point()
    }

    fn on(node: Node<'s>, snapshotter: &str, registry: &Registry, image: &str) -> Result<Self> {
        let mounted = mount(&node, snapshotter, registry, image)?;
        Ok(Self { mounted, node })
    }
}

fn mount(node: &Node<'_>, snapshotter: &str, registry: &Registry, image: &str) -> Result<Mounted> {
    node.pull(&format!("{}/{image}:latest", registry.host()))?;
    node.containerd.root(snapshotter, &top_chain(registry, image)?.to_string())
}

/// The chain of all of an image's layers, as its configuration names them.
fn top_chain(registry: &Registry, image: &str) -> Result<ChainId> {
    let wrong = |what: String| move || Error::unexpected(image, what.clone());
    let (manifest, _) = registry.manifest(image, "latest")?;
    let digest: Option<Digest> = manifest["config"]["digest"].as_str().and_then(|digest| digest.parse().ok());
    let config = registry.blob(image, &digest.ok_or_else(wrong("has no configuration".to_owned()))?)?;
    let config: serde_json::Value = serde_json::from_slice(&config)
        .map_err(|error| Error::unexpected(image, format!("its configuration is no JSON: {error}")))?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
    let diff_ids: Option<Vec<DiffId>> =
        diff_ids.map(|id| id.as_str().and_then(|id| id.parse().ok()).map(DiffId)).collect();
    let chain = ChainId::prefixes(&diff_ids.unwrap_or_default()).last();
    chain.ok_or_else(wrong("has no layers".to_owned()))
}
