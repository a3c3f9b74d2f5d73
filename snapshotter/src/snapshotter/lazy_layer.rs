//! Prepare of a layer that may be there already: containerd's remote snapshot protocol.
//!
//! The answer "already exists" is a promise, so it is given only for a durable record whose index is on
//! disk and checked. Everything else is a fallback with a reason, and the layer is unpacked.

use super::{Error, Snapshotter};
use crate::fallback::{Fallback, FallbackCode};
use crate::labels::{self, LabelError, RemoteLayer};
use crate::metastore::{self, Backing, Creation, Kind, Labels, Snapshot};

impl Snapshotter {
    /// Whether the layer is present lazily now.
    pub(super) async fn lazily(
        &self,
        target: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<bool, Error> {
        match self.make_lazy(target, parent, labels).await? {
            Ok(()) => Ok(true),
            Err(fallback) => {
                let label = |name| labels.get(name).map_or("", String::as_str);
                let layer = labels.get(labels::LAYER_DIGEST).map_or(target, String::as_str);
                self.fallbacks.record(&fallback, label(labels::IMAGE_REF), layer);
                Ok(false)
            }
        }
    }

    /// Errors are those that would meet the unpacked snapshot as well, such as a full disk.
    async fn make_lazy(
        &self,
        target: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Result<(), Fallback>, Error> {
        {
            let state = self.store.read();
            if let Some(parent) = parent {
                state.parent(parent)?;
            }
            if let Some(known) = state.find(target) {
                return Ok(stands_for(known, target, parent));
            }
        }
        let layer = match RemoteLayer::parse(labels) {
            Ok(layer) => layer,
            Err(error) => {
                let code = match error {
                    LabelError::Absent => FallbackCode::NoImageLabels,
                    _ => FallbackCode::BadLabels,
                };
                return Ok(Err(Fallback::from_error(code, &error)));
            }
        };
        let resolved = match self.resolver.layer(&layer).await {
            Ok(resolved) => resolved,
            Err(fallback) => return Ok(Err(fallback)),
        };
        // With capability `rebase` containerd would prepare every layer without its parent, and look
        // for a snapshot without one: a lazy record could not be what it looks for.
        if (resolved.prefix > 1) != parent.is_some() {
            let detail =
                format!("layer {} of its image was prepared with parent {parent:?}", resolved.prefix);
            return Ok(Err(Fallback::new(FallbackCode::SnapshotConflict, detail)));
        }
        let creation = Creation {
            name: target.to_owned(),
            id: self.store.reserve().id(),
            kind: Kind::Committed,
            parent: parent.map(str::to_owned),
            labels: labels.clone(),
            backing: Backing::Lazy { chain_id: layer.target, index: resolved.index, prefix: resolved.prefix },
        };
        match self.store.create(creation).await {
            Ok(snapshot) => {
                tracing::info!(
                    image = %layer.image,
                    chain = target,
                    snapshot = snapshot.id,
                    index = %resolved.index,
                    layer = resolved.prefix,
                    "layer is present lazily"
                );
                Ok(Ok(()))
            }
            // Another Prepare of the same layer was first.
            Err(metastore::Error::AlreadyExists(_)) => {
                let state = self.store.read();
                Ok(state.find(target).map_or_else(
                    || Err(Fallback::new(FallbackCode::SnapshotConflict, "the layer was removed meanwhile")),
                    |known| stands_for(known, target, parent),
                ))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a snapshot that has the target's name is what containerd will look for.
fn stands_for(known: &Snapshot, target: &str, parent: Option<&str>) -> Result<(), Fallback> {
    let labelled = known.labels.get(labels::TARGET).is_some_and(|label| label == target);
    if known.kind == Kind::Committed && labelled && known.parent.as_deref() == parent {
        return Ok(());
    }
    let detail = format!("a {} snapshot named {target} stands on {:?}", known.kind.as_str(), known.parent);
    Err(Fallback::new(FallbackCode::SnapshotConflict, detail))
}
