//! Finds the launch index that a layer belongs to.

use jaunt_formats::Digest;

use crate::fallback::Fallback;
use crate::labels::RemoteLayer;

/// A layer whose launch index is on disk, checked and on record.
pub struct ResolvedLayer {
    /// The index.
    pub index: Digest,
    /// How many of its layers the layer's chain has.
    pub prefix: u16,
    /// Keeps the index from being collected until a snapshot uses it.
    pub in_use: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
}

/// Says whether a layer can be lazy. The snapshotter's view of the registry.
#[tonic::async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The index for a layer's chain, or why there is none.
    async fn layer(&self, layer: &RemoteLayer) -> Result<ResolvedLayer, Fallback>;

    /// Forgets indexes that no snapshot uses.
    async fn collect(&self);
}
