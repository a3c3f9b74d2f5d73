//! Root file systems as containers get them: overlayfs over what a snapshotter of containerd's gives.

use std::fs;
use std::path::Path;
use std::time::Duration;

use jaunt_formats::{ChainId, DiffId, Digest};
use jaunt_tests::error::{Error, Result};
use jaunt_tests::mounts::Mounted;
use jaunt_tests::process::wait_until;
use jaunt_tests::{Binaries, Node, Registry, Scratch};

/// Only what is read is fetched: the mount stays as it began.
pub const STREAMING: &str = "[completion]\nenabled = false\n";
/// Everything is fetched at once, and checked.
const COMPLETION: &str = "[completion]\nlimit_mb_per_second = 0\ndelay_seconds = 0\n";
/// An image takes seconds, on a busy machine more.
const COMPLETION_LIMIT: Duration = Duration::from_secs(300);

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

    /// The same once all of it is there and was checked: mounted anew, as complete chains are. The store stays, everything
    /// else of the node is made again.
    pub fn complete(
        scratch: &'s Scratch,
        binaries: &Binaries,
        registry: &Registry,
        image: &str,
    ) -> Result<Self> {
        let node = Node::configured(scratch, binaries, &[registry.host()], COMPLETION)?;
        node.pull(&reference(registry, image))?;
        let mounted = node.containerd.view("jaunt", &top_chain(registry, image)?.to_string())?;
        let what = "completion of the image in the background";
        wait_until(what, COMPLETION_LIMIT, || is_checked(scratch))?;
        drop((mounted, node));
        Self::lazy(scratch, binaries, registry, image, COMPLETION)
    }

    /// Another image of the same node.
    pub fn beside(&self, registry: &Registry, image: &str) -> Result<Mounted> {
        mount(&self.node, "jaunt", registry, image)
    }

    /// Takes it away, and the node with all it had.
    pub fn wipe(self) -> Result<()> {
        drop(self.mounted);
        self.node.wipe()
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

/// Whether the daemon has noted that a chain is complete and its tree that of its layers.
fn is_checked(scratch: &Scratch) -> bool {
    let verdicts = scratch.path().join("jaunt/root/layers/verdicts");
    let names = fs::read_dir(verdicts).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.as_encoded_bytes().starts_with(b"checked-"))
}

fn mount(node: &Node<'_>, snapshotter: &str, registry: &Registry, image: &str) -> Result<Mounted> {
    node.pull(&reference(registry, image))?;
    node.containerd.root(snapshotter, &top_chain(registry, image)?.to_string())
}

fn reference(registry: &Registry, image: &str) -> String {
    format!("{}/{image}:latest", registry.host())
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
