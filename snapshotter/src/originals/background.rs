//! All lazily pulled images, one after the other, for as long as the daemon works.
//!
//! containerd is asked for its images every ten seconds, and what it has not got is brought. An image that fails is
//! left for growing pauses, and does not keep the others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::Digest;
use tokio::time::Instant;

use super::error::OriginalsError;
use super::image::Image;
use super::node::Node;
use super::{Name, Originals};
use crate::fallback::error_chain;

/// How often images are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// The pause after a first failure, doubled with each further one up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Any namespace will do to ask which there are.
const SOME_NAMESPACE: &str = "default";

/// What need not be looked at again for now.
#[derive(Default)]
struct Memory {
    done: BTreeSet<(String, Digest)>,
    failed: BTreeMap<(String, Digest), Failed>,
    /// containerd does not answer, and that was told.
    unreachable: bool,
}

struct Failed {
    until: Instant,
    pause: Duration,
}

impl Originals {
    /// Brings the originals of every lazily pulled image; ends with the daemon.
    pub async fn in_background(self: Arc<Self>) {
        let mut memory = Memory::default();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.round(&mut memory).await {
                Ok(()) => memory.unreachable = false,
                Err(error) if memory.unreachable => {
                    tracing::debug!(error = error_chain(&error), "original blobs are not brought");
                }
                Err(error) => {
                    memory.unreachable = true;
                    tracing::warn!(
                        error = error_chain(&error),
                        "original blobs are not brought: containerd cannot be asked for its images"
                    );
                }
            }
        }
    }

    async fn round(&self, memory: &mut Memory) -> Result<(), OriginalsError> {
        let lazy = self.known.lazy_chains();
        let mut present = BTreeSet::new();
        if !lazy.is_empty() {
            for node in Node::connect(&self.containerd, SOME_NAMESPACE).await?.namespaces().await? {
                for (name, target) in node.images().await? {
                    present.insert((node.namespace().to_owned(), name.clone()));
                    self.see_to(&node, &name, target, &lazy, memory).await;
                }
            }
        }
        self.forget_others(&present);
        Ok(())
    }

    async fn see_to(
        &self,
        node: &Node,
        name: &str,
        target: Digest,
        lazy: &BTreeSet<String>,
        memory: &mut Memory,
    ) {
        let key = (node.namespace().to_owned(), target);
        let waits = memory.failed.get(&key).is_some_and(|failed| Instant::now() < failed.until);
        // CRI names an image by its ID as well, which says of no repository.
        if memory.done.contains(&key) || waits || name.starts_with("sha256:") {
            return;
        }
        match self.complete_lazy(node, name, target, lazy).await {
            Ok(true) => {
                memory.failed.remove(&key);
                memory.done.insert(key);
            }
            Ok(false) => {}
            Err(error) => {
                let before = memory.failed.get(&key).map(|failed| failed.pause);
                let pause = before.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                tracing::warn!(
                    image = name,
                    namespace = node.namespace(),
                    error = error_chain(&error),
                    "original blobs could not be brought; tried again in {} s",
                    pause.as_secs()
                );
                memory.failed.insert(key, Failed { until: Instant::now() + pause, pause });
            }
        }
    }

    /// Whether the image is one of ours, and then has all its originals.
    async fn complete_lazy(
        &self,
        node: &Node,
        name: &str,
        target: Digest,
        lazy: &BTreeSet<String>,
    ) -> Result<bool, OriginalsError> {
        let image = Image::read(node, target).await?;
        if image.chains.is_disjoint(lazy) {
            return Ok(false);
        }
        let brought = self.complete(node, name, &image, &mut |_| {}).await?;
        if brought.layers > 0 {
            tracing::info!(
                image = name,
                namespace = node.namespace(),
                layers = brought.layers,
                bytes = brought.bytes,
                "original blobs are in containerd's content store"
            );
        }
        Ok(true)
    }

    fn forget_others(&self, present: &BTreeSet<Name>) {
        self.lock().retain(|name, _| present.contains(name));
    }
}
