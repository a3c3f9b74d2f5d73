//! Images whose pull the kubelet has announced: looked for while containerd is still asking the registry for the image itself.
//!
//! containerd tells of a layer only once it has the image's manifests and its configuration, which are three requests of its own. Where
//! the kubelet's image calls come through here, the launch artifact, the index and the boot pack are asked for in the meantime; Prepare
//! then finds the search done, or joins it. Nothing depends on it.

use std::sync::Arc;

use jaunt_distribution::{Client, Repository};
use jaunt_formats::{Platform, Reference};

use crate::fallback::error_chain;
use crate::image;
use crate::metastore::Pin;
use crate::resolve::Resolve;

/// Counts every request for a manifest against the pulls that it allows.
const COUNTING: &str = "docker.io";

/// Looks for announced images.
pub struct Ahead {
    client: Client,
    resolver: Arc<dyn Resolve>,
    platform: Platform,
}

impl Ahead {
    /// Asks registries as `client`, and has `resolver` look for what this machine would run.
    pub fn new(client: Client, resolver: Arc<dyn Resolve>) -> Arc<Self> {
        Arc::new(Self { client, resolver, platform: Platform::host() })
    }

    /// Begins to look for an image, on the runtime that this is called on.
    pub fn announce(self: &Arc<Self>, image: Reference) {
        if image.host() == COUNTING {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            match image::manifest(&this.client, &image, &this.platform).await {
                Ok(manifest) => {
                    let pin = Pin { repository: Repository::from(&image), manifest };
                    this.resolver.expect(&pin).await;
                    tracing::debug!(image = %pin, "looked for ahead of its layers");
                }
                // containerd meets the same, and tells it.
                Err(error) => {
                    tracing::debug!(%image, error = error_chain(&error), "not looked for ahead of its layers");
                }
            }
        });
    }
}
