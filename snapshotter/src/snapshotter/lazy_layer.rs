//! Prepare of a layer that may be there already: containerd's remote snapshot protocol.
//!
//! The answer "already exists" is a promise, so it is given only for a durable record whose index is on
//! disk and checked. Everything else is a fallback with a reason, and the layer is unpacked.

use jaunt_formats::ChainId;

use super::{Error, Snapshotter, is_for_pod};
use crate::fallback::{Fallback, FallbackCode};
use crate::labels::{self, LabelError, RemoteLayer};
use crate::lazy::LazyChain;
use crate::metastore::{self, Backing, Creation, Kind, Labels, Snapshot};
use crate::resolve::{ImageLayer, ResolvedLayer};

/// Why a layer is not lazy: a reason to unpack it, or a failure that unpacking would meet as well.
enum NotLazy {
    Fallback(Fallback),
    Failed(Error),
}

impl From<Fallback> for NotLazy {
    fn from(fallback: Fallback) -> Self {
        Self::Fallback(fallback)
    }
}

impl From<metastore::Error> for NotLazy {
    fn from(error: metastore::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Snapshotter {
    /// Whether the layer is present lazily now.
    pub(super) async fn lazily(
        &self,
        key: &str,
        target: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<bool, Error> {
        match self.make_lazy(target, parent, labels).await {
            Ok(Some(topmost)) => {
                self.expect(topmost, is_for_pod(key));
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(NotLazy::Failed(error)) => Err(error),
            Err(NotLazy::Fallback(fallback)) => {
                let label = |name| labels.get(name).map_or("", String::as_str);
                let layer = labels.get(labels::LAYER_DIGEST).map_or(target, String::as_str);
                self.fallbacks.record(&fallback, label(labels::IMAGE_REF), layer);
                Ok(false)
            }
        }
    }

    /// Has begun what makes a start of the chain quicker.
    fn expect(&self, chain: LazyChain, for_pod: bool) {
        let (lazy, store, releases) = (self.lazy.clone(), self.store.clone(), self.releases.clone());
        tokio::spawn(async move {
            lazy.expect(&chain, for_pod).await;
            let name = chain.chain_id.to_string();
            let on_record = store.read().find(&name).and_then(|snapshot| snapshot.lazy_chain());
            // Its removal may have come before there was anything to let go of.
            if on_record != Some(chain) {
                releases.release(chain).await;
            }
        });
    }

    /// The whole image's chain, where it has just become known.
    async fn make_lazy(
        &self,
        target: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Option<LazyChain>, NotLazy> {
        let state = self.store.read();
        if let Some(parent) = parent {
            state.parent(parent)?;
        }
        if let Some(known) = state.find(target) {
            stands_for(known, target, parent)?;
            return Ok(None);
        }
        drop(state);
        let layer = RemoteLayer::parse(labels).map_err(label_fallback)?;
        let resolved = self.resolver.layer(&layer).await?;
        check_parent(resolved.prefix, parent)?;
        self.record(&layer, &resolved, parent, labels).await?;
        let topmost = resolved.above.last().map_or(layer.target, |above| above.chain).to_string();
        // It is not on record yet where containerd has announced no more than some of the layers.
        Ok(self.store.read().find(&topmost).and_then(|snapshot| snapshot.lazy_chain()))
    }

    async fn record(
        &self,
        layer: &RemoteLayer,
        resolved: &ResolvedLayer,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<(), NotLazy> {
        let target = layer.target.to_string();
        let ResolvedLayer { index, prefix, .. } = *resolved;
        let backing = Backing::Lazy { chain_id: layer.target, index, prefix };
        let creation = self.creation(parent.map(str::to_owned), labels.clone(), backing, layer.target);
        let above = self.above(layer.target, resolved, labels);
        let step = self.trace.step("record", || target.clone());
        let created = self.store.create_lazy(resolved.learnt.clone(), creation, above).await;
        drop(step);
        match created {
            Ok(snapshot) => {
                tracing::info!(
                    image = %layer.image, chain = target, snapshot = snapshot.id, %index, prefix,
                    "layer is present lazily"
                );
                Ok(())
            }
            // Another Prepare of the same layer was first.
            Err(metastore::Error::AlreadyExists(_)) => match self.store.read().find(&target) {
                Some(known) => Ok(stands_for(known, &target, parent)?),
                None => Err(conflict("the layer was removed meanwhile".to_owned()).into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The image's other layers, which containerd asks for next, one after the other: what it is told of each would otherwise wait for
    /// the disk once more. It removes again what it did not ask for. An index is not believed in how many there are: only those
    /// that containerd itself has announced.
    fn above(&self, below: ChainId, resolved: &ResolvedLayer, labels: &Labels) -> Vec<Creation> {
        let announced = labels.get(labels::IMAGE_LAYERS).map_or("", String::as_str).split(',').skip(1);
        let parents = std::iter::once(below).chain(resolved.above.iter().map(|layer| layer.chain));
        let layers =
            resolved.above.iter().zip(announced).zip(parents).zip(resolved.prefix.saturating_add(1)..);
        let known = layers.take_while(|(((layer, blob), _), _)| layer.blob.to_string() == *blob);
        let creation = |(((layer, _), parent), prefix): (((&ImageLayer, &str), ChainId), u16)| {
            let backing = Backing::Lazy { chain_id: layer.chain, index: resolved.index, prefix };
            self.creation(Some(parent.to_string()), labels_of(layer, labels), backing, layer.chain)
        };
        known.map(creation).collect()
    }

    fn creation(&self, parent: Option<String>, labels: Labels, backing: Backing, chain: ChainId) -> Creation {
        let (name, id) = (chain.to_string(), self.store.reserve().id());
        Creation { name, id, kind: Kind::Committed, parent, labels, backing }
    }
}

/// What containerd will say of a layer, of whose image it has said this.
fn labels_of(layer: &ImageLayer, said: &Labels) -> Labels {
    let mut labels = said.clone();
    labels.remove(labels::IMAGE_LAYERS);
    labels.insert(labels::TARGET.to_owned(), layer.chain.to_string());
    labels.insert(labels::LAYER_DIGEST.to_owned(), layer.blob.to_string());
    labels
}

/// Whether a snapshot that has the target's name is what containerd will look for.
fn stands_for(known: &Snapshot, target: &str, parent: Option<&str>) -> Result<(), Fallback> {
    let labelled = known.labels.get(labels::TARGET).is_some_and(|label| label == target);
    if known.kind == Kind::Committed && labelled && known.parent.as_deref() == parent {
        return Ok(());
    }
    let (kind, beneath) = (known.kind.as_str(), &known.parent);
    Err(conflict(format!("a snapshot of its name is {kind} and stands on {beneath:?}, not on {parent:?}")))
}

/// With capability `rebase` containerd prepares every layer without its parent, and then looks for a
/// snapshot without one: a lazy record, which has its real parent, could not be that.
fn check_parent(prefix: u16, parent: Option<&str>) -> Result<(), Fallback> {
    if (prefix > 1) == parent.is_some() {
        return Ok(());
    }
    Err(conflict(format!("layer {prefix} of its image was prepared with parent {parent:?}")))
}

fn conflict(detail: String) -> Fallback {
    Fallback::new(FallbackCode::SnapshotConflict, detail)
}

fn label_fallback(error: LabelError) -> Fallback {
    let code = match error {
        LabelError::Absent => FallbackCode::NoImageLabels,
        LabelError::Missing(_) | LabelError::Digest { .. } | LabelError::Reference(_) => {
            FallbackCode::BadLabels
        }
    };
    Fallback::from_error(code, &error)
}
