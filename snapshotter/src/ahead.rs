//! Images whose pull the kubelet has announced: looked for while containerd is still asking the registry for the image itself.
//!
//! containerd tells of a layer only once it has the image's manifests and its configuration, which are three requests of its own. Where
//! the kubelet's image calls come through here, the launch artifact, the index and the boot pack are asked for in the meantime; Prepare
//! then finds the search done, or joins it. Nothing depends on it: a few are looked for at once, for a limited time, what fails is
//! forgotten, and what was fetched of images that nobody asked for after all is deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jaunt_distribution::{Client, Repository};
use jaunt_formats::{Platform, Reference};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::fallback::error_chain;
use crate::image;
use crate::metastore::Pin;
use crate::resolve::Resolve;

/// Counts every request for a manifest against the pulls that it allows.
const COUNTING: &str = "docker.io";
/// Images that are looked for at once; of more, containerd's own questions are waited for.
const AT_ONCE: usize = 4;
/// What a registry that does not answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// By then, what was fetched is in use, or was in vain: longer than a pack is kept unused.
const IN_VAIN: Duration = Duration::from_secs(660);

/// Looks for announced images.
pub struct Ahead {
    client: Client,
    resolver: Arc<dyn Resolve>,
    platform: Platform,
    room: Arc<Semaphore>,
    /// Whether it will be looked what was in vain.
    is_to_tidy: AtomicBool,
}

impl Ahead {
    /// Asks registries as `client`, and has `resolver` look for what this machine would run.
    pub fn new(client: Client, resolver: Arc<dyn Resolve>) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        Arc::new(Self {
            client,
            resolver,
            platform: Platform::host(),
            room,
            is_to_tidy: AtomicBool::new(false),
        })
    }

    /// Begins to look for an image, on the runtime that this is called on.
    pub fn announce(self: &Arc<Self>, image: Reference) {
        let Ok(room) = self.room.clone().try_acquire_owned() else { return };
        if image.host() == COUNTING {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if timeout(LIMIT, this.look_for(&image)).await.is_err() {
                tracing::debug!(%image, "not found ahead of its layers in time");
            }
            drop(room);
            this.tidy_later();
        });
    }

    async fn look_for(&self, image: &Reference) {
        match image::manifest(&self.client, image, &self.platform).await {
            Ok(manifest) => {
                let pin = Pin { repository: Repository::from(image), manifest };
                self.resolver.expect(&pin).await;
                tracing::debug!(image = %pin, "looked for ahead of its layers");
            }
            // containerd meets the same, and tells it.
            Err(error) => {
                tracing::debug!(%image, error = error_chain(&error), "not looked for ahead of its layers");
            }
        }
    }

    fn tidy_later(self: &Arc<Self>) {
        if self.is_to_tidy.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            sleep(IN_VAIN).await;
            this.is_to_tidy.store(false, Ordering::Release);
            this.resolver.collect().await;
        });
    }
}
