//! All lazily pulled images, one after the other, for as long as the daemon works.
//!
//! containerd is asked for its images every ten seconds, and what it has not got is brought. An image that fails is
//! left for growing pauses, and does not keep the others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
/// How long attempts for an image share a lease: less than one lasts. What one has written is there for the next.
const SHARED: Duration = Duration::from_secs(12 * 3600);
/// Any namespace will do to ask which there are.
const SOME_NAMESPACE: &str = "default";

/// What need not be looked at again for now.
#[derive(Default)]
struct Memory {
    /// They have all of their originals.
    done: BTreeSet<Key>,
    /// No layer of theirs is lazy, as long as the lazy chains are those.
    eager: BTreeSet<Key>,
    lazy: BTreeSet<String>,
    failed: BTreeMap<Key, Failed>,
    /// containerd does not answer, and that was told.
    unreachable: bool,
}

/// A namespace, and what an image's name in it stands for.
type Key = (String, Digest);

struct Failed {
    until: Instant,
    pause: Duration,
}

/// What an image turned out to be.
enum Found {
    /// One of ours, that has all its originals by now.
    Lazy,
    /// None of ours.
    Eager,
    /// Something without layers, or that is not here yet.
    Nothing,
}

impl Memory {
    /// Begins a round with these lazy chains.
    fn begin(&mut self, lazy: BTreeSet<String>) {
        if self.lazy != lazy {
            self.eager.clear();
            self.lazy = lazy;
        }
    }

    /// Whether an image is left alone in this round.
    fn spares(&self, key: &Key) -> bool {
        let waits = self.failed.get(key).is_some_and(|failed| Instant::now() < failed.until);
        waits || self.done.contains(key) || self.eager.contains(key)
    }

    /// Forgets images that are no more: pulled again, they lack their originals again.
    fn retain(&mut self, listed: &BTreeSet<Key>) {
        self.done.retain(|key| listed.contains(key));
        self.eager.retain(|key| listed.contains(key));
        self.failed.retain(|key, _| listed.contains(key));
    }
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
        memory.begin(self.known.lazy_chains());
        let (mut present, mut listed) = (BTreeSet::new(), BTreeSet::new());
        if !memory.lazy.is_empty() {
            for node in Node::connect(&self.containerd, SOME_NAMESPACE).await?.namespaces().await? {
                for (name, target) in node.images().await? {
                    present.insert((node.namespace().to_owned(), name.clone()));
                    listed.insert((node.namespace().to_owned(), target));
                    self.see_to(&node, &name, target, memory).await;
                }
            }
        }
        memory.retain(&listed);
        self.forget_others(&present);
        Ok(())
    }

    async fn see_to(&self, node: &Node, name: &str, target: Digest, memory: &mut Memory) {
        let key = (node.namespace().to_owned(), target);
        // CRI names an image by its ID as well, which says of no repository.
        if memory.spares(&key) || name.starts_with("sha256:") {
            return;
        }
        match self.complete_lazy(node, name, target, &memory.lazy).await {
            Ok(Found::Lazy) => {
                memory.failed.remove(&key);
                memory.done.insert(key);
            }
            Ok(Found::Eager) => _ = memory.eager.insert(key),
            Ok(Found::Nothing) => {}
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

    /// Has an image get all its originals, if it is one of ours.
    async fn complete_lazy(
        &self,
        node: &Node,
        name: &str,
        target: Digest,
        lazy: &BTreeSet<String>,
    ) -> Result<Found, OriginalsError> {
        let image = Image::read(node, target).await?;
        if image.chains.is_disjoint(lazy) {
            return Ok(if image.chains.is_empty() { Found::Nothing } else { Found::Eager });
        }
        let brought =
            self.complete(node, name, &image, &attempt(&target, SystemTime::now()), &mut |_| {}).await?;
        if brought.layers > 0 {
            tracing::info!(
                image = name,
                namespace = node.namespace(),
                layers = brought.layers,
                bytes = brought.bytes,
                "original blobs are in containerd's content store"
            );
        }
        Ok(Found::Lazy)
    }

    fn forget_others(&self, present: &BTreeSet<Name>) {
        self.lock().retain(|name, _| present.contains(name));
    }
}

/// The name of the lease for an attempt to complete an image.
fn attempt(target: &Digest, now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:.16}-{}", target.hex(), since.as_secs() / SHARED.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("k8s.io".to_owned(), Digest::of(name.as_bytes()))
    }

    fn chains(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_image_that_was_removed_is_looked_at_when_it_is_back() {
        let mut memory = Memory::default();
        let until = Instant::now() + LONGEST_PAUSE;
        memory.done.extend([key("removed"), key("kept")]);
        memory.failed.insert(key("failed"), Failed { until, pause: LONGEST_PAUSE });
        memory.failed.insert(key("failing"), Failed { until, pause: LONGEST_PAUSE });
        memory.retain(&[key("kept"), key("failing"), key("new")].into());
        for (name, spared) in
            [("removed", false), ("failed", false), ("new", false), ("kept", true), ("failing", true)]
        {
            assert_eq!(memory.spares(&key(name)), spared, "{name}");
        }
    }

    #[test]
    fn an_image_without_a_lazy_layer_is_looked_at_again_when_other_layers_are_lazy() {
        let mut memory = Memory::default();
        memory.begin(chains(&["one"]));
        memory.eager.insert(key("eager"));
        memory.begin(chains(&["one"]));
        assert!(memory.spares(&key("eager")));
        memory.begin(chains(&["one", "two"]));
        assert!(!memory.spares(&key("eager")));
    }

    #[test]
    fn attempts_for_an_image_share_leases_that_outlast_them() {
        let at = |seconds| attempt(&Digest::of(b"image"), UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(SHARED.as_secs()), at(2 * SHARED.as_secs() - 1));
        assert_ne!(at(SHARED.as_secs()), at(2 * SHARED.as_secs()));
        assert_ne!(at(0), attempt(&Digest::of(b"other"), UNIX_EPOCH));
        assert!(2 * SHARED <= crate::lease::LEASE_TIME);
    }
}
