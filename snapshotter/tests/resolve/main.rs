//! Finding and admitting launch indexes, against a registry that misbehaves on command.
#![allow(clippy::unwrap_used)]

mod foreign;
mod packs;
mod registry;
mod trust;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jaunt_distribution::{Client, ClientConfig};
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::{BlobOffset, ChainId, Digest, Platform, Span, TarOffset, media_type};
use jaunt_snapshotter::ahead::Ahead;
use jaunt_snapshotter::fallback::{Fallback, FallbackCode};
use jaunt_snapshotter::index_store::IndexStore;
use jaunt_snapshotter::labels::RemoteLayer;
use jaunt_snapshotter::metastore::MetaStore;
use jaunt_snapshotter::resolve::{ImageLayer, Resolve as _, ResolveLimits, ResolvedLayer, Resolver};
use jaunt_snapshotter::trust::Trust;
use serde_json::json;

use registry::{Image, Registry};

/// A node: its state directory, and a resolver on it.
struct Node {
    dir: tempfile::TempDir,
    store: MetaStore,
    resolver: Arc<Resolver>,
    trust: Trust,
}

const LIMITS: ResolveLimits =
    ResolveLimits { timeout: Duration::from_secs(10), remember_failure: Duration::from_millis(200) };

/// Asks once, as nobody.
fn client() -> Client {
    let config = ClientConfig { auth_files: Vec::new(), attempts: 1, ..ClientConfig::default() };
    Client::new(config).unwrap()
}

impl Node {
    fn new() -> Self {
        Self::trusting(Trust::default())
    }

    fn trusting(trust: Trust) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = MetaStore::open(&dir.path().join("meta.redb")).unwrap();
        let resolver = Self::resolver(&dir, &store, trust.clone());
        Self { dir, store, resolver, trust }
    }

    fn resolver(dir: &tempfile::TempDir, store: &MetaStore, trust: Trust) -> Arc<Resolver> {
        let indexes = IndexStore::open(dir.path()).unwrap();
        let resolver = Resolver::new(client(), store.clone(), indexes, LIMITS);
        Arc::new(resolver.with_trust(trust))
    }

    /// As after a restart of the daemon.
    fn forget_what_is_in_memory(&mut self) {
        self.resolver = Self::resolver(&self.dir, &self.store, self.trust.clone());
    }

    /// Finds a layer, and puts on record what was learnt of its image, as is done with a snapshot of it.
    async fn layer(&self, layer: &RemoteLayer) -> Result<ResolvedLayer, Fallback> {
        let found = self.resolver.layer(layer).await?;
        let (pin, learnt) = found.learnt.clone();
        self.store.learn(pin, learnt).await.unwrap();
        Ok(found)
    }

    async fn code(&self, layer: &RemoteLayer) -> FallbackCode {
        match self.layer(layer).await {
            Ok(_) => panic!("the layer was taken for lazy"),
            Err(fallback) => fallback.code,
        }
    }
}

#[tokio::test]
async fn every_prefix_is_found_with_one_search() {
    let registry = Registry::start().await;
    let image = Image::new(3);
    registry.put_tagged(&image).await;
    let node = Node::new();
    let layers: Vec<_> = (1..=3).map(|prefix| image.layer(&registry, prefix)).collect();
    let found = futures_util::future::join_all(layers.iter().map(|layer| node.layer(layer))).await;
    for (found, prefix) in found.into_iter().zip(1..) {
        let found = found.map_err(|fallback| fallback.detail).unwrap();
        assert_eq!((found.index, found.prefix), (image.index, prefix));
        let above = layers[usize::from(prefix)..].iter();
        let above: Vec<_> =
            above.map(|layer| ImageLayer { chain: layer.target, blob: layer.layer }).collect();
        assert_eq!(found.above, above);
    }
    assert_eq!(registry.requests_for("manifests").await, 1);
    assert_eq!(registry.requests_for(&image.index.to_string()).await, 1);
    let sources = node.store.sources(&image.index);
    assert_eq!(sources.into_iter().map(|s| s.to_string()).collect::<Vec<_>>(), [registry.repository()]);
}

/// An announced image is looked for with one request more than by its layers, and they ask for nothing any more.
#[tokio::test]
async fn an_announced_image_is_found_before_its_layers_are_asked_for() {
    let registry = Registry::start().await;
    let image = Image::new(2);
    registry.put_tagged(&image).await;
    let host = Platform::host();
    let described = |digest, os, architecture| {
        let platform = json!({"os": os, "architecture": architecture});
        json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 2, "platform": platform})
    };
    let own = described(image.manifest, host.os(), host.architecture());
    let manifests = [described(Digest::of(b"other"), "plan9", "mips"), own];
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests});
    registry.put_index("1", &index).await;
    let node = Node::new();
    let ahead = Ahead::new(client(), node.resolver.clone());
    let layer = image.layer(&registry, 1);
    ahead.announce(layer.image.clone());
    while registry.requests_for(&image.index.to_string()).await == 0 {
        tokio::task::yield_now().await;
    }
    assert!(node.layer(&layer).await.is_ok());
    let all = registry.requests_for("").await;
    assert_eq!(registry.requests_for("manifests").await, 2, "the image's index, and its artifact");
    assert!(node.layer(&image.layer(&registry, 2)).await.is_ok());
    assert_eq!(registry.requests_for("").await, all);
}

#[tokio::test]
async fn a_known_image_needs_no_registry() {
    let registry = Registry::start().await;
    let image = Image::new(2);
    registry.put_tagged(&image).await;
    let mut node = Node::new();
    let layer = image.layer(&registry, 2);
    assert!(node.layer(&layer).await.is_ok());
    registry.clear().await;
    node.forget_what_is_in_memory();
    assert_eq!(node.layer(&layer).await.map_err(|f| f.detail).unwrap().prefix, 2);
    assert_eq!(registry.requests_for("").await, 0);
}

#[tokio::test]
async fn one_repositorys_index_is_not_anothers() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    let node = Node::new();
    assert!(node.layer(&image.layer(&registry, 1)).await.is_ok());
    let elsewhere = RemoteLayer {
        image: format!("{}2:1", registry.repository()).parse().unwrap(),
        ..image.layer(&registry, 1)
    };
    assert_eq!(node.code(&elsewhere).await, FallbackCode::NoLaunchArtifact);
}

#[tokio::test]
async fn a_damaged_index_is_fetched_again() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    let mut node = Node::new();
    let layer = image.layer(&registry, 1);
    assert!(node.layer(&layer).await.is_ok());
    let file = node.dir.path().join("index").join(image.index.hex());
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    node.forget_what_is_in_memory();
    assert!(node.layer(&layer).await.is_ok());
    assert_ne!(std::fs::read(&file).unwrap(), bytes);
    std::fs::remove_file(&file).unwrap();
    assert!(node.layer(&layer).await.is_ok() && file.exists());
}

#[tokio::test]
async fn referrers_serve_where_the_tag_is_missing() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_referrer(&image).await;
    let node = Node::new();
    assert_eq!(
        node.layer(&image.layer(&registry, 1)).await.map_err(|f| f.detail).unwrap().index,
        image.index
    );
}

#[tokio::test]
async fn a_failure_is_remembered_only_briefly() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    let node = Node::new();
    let layer = image.layer(&registry, 1);
    assert_eq!(node.code(&layer).await, FallbackCode::NoLaunchArtifact);
    let asked = registry.requests_for("").await;
    assert_eq!(node.code(&layer).await, FallbackCode::NoLaunchArtifact);
    assert_eq!(registry.requests_for("").await, asked);
    registry.put_tagged(&image).await;
    tokio::time::sleep(LIMITS.remember_failure).await;
    assert!(node.layer(&layer).await.is_ok());
}

#[tokio::test]
async fn a_dead_registry_costs_no_more_than_the_timeout() {
    let image = Image::new(1);
    let registry = Registry::start().await;
    registry.be_silent().await;
    let node = Node::new();
    let started = Instant::now();
    assert_eq!(node.code(&image.layer(&registry, 1)).await, FallbackCode::Timeout);
    assert!(started.elapsed() < 2 * LIMITS.timeout);

    let gone = RemoteLayer { image: "127.0.0.1:1/a:1".parse().unwrap(), ..image.layer(&registry, 1) };
    let node = Node { resolver: node.resolver, ..Node::new() };
    let code = node.code(&gone).await;
    assert!(matches!(code, FallbackCode::RegistryUnreachable | FallbackCode::Timeout), "{code:?}");
}

#[tokio::test]
async fn nothing_is_promised_on_an_artifact_that_is_wrong() {
    let other = Digest::of(b"other");
    for (pointer, value, code) in [
        ("/artifactType", json!("application/x"), FallbackCode::BadArtifact),
        ("/subject/digest", json!(other), FallbackCode::BadArtifact),
        ("/layers/0/digest", json!(other), FallbackCode::BadArtifact),
        ("/layers/0/size", json!(3), FallbackCode::BadIndex),
        ("/layers/0/size", json!(1_u64 << 40), FallbackCode::BadIndex),
        ("/layers/1/digest", json!(other), FallbackCode::ConvertedLayerMissing),
    ] {
        let registry = Registry::start().await;
        let mut image = Image::new(1);
        *image.artifact.pointer_mut(pointer).unwrap() = value;
        registry.put_tagged(&image).await;
        assert_eq!(Node::new().code(&image.layer(&registry, 1)).await, code, "{pointer}");
    }
}

#[tokio::test]
async fn nothing_is_promised_on_an_index_that_is_wrong() {
    for damage in [
        (|blob: &mut Vec<u8>| blob.truncate(blob.len() / 2)) as fn(&mut Vec<u8>),
        |blob| *blob = b"not an index".to_vec(),
        |blob| blob.clear(),
    ] {
        let registry = Registry::start().await;
        let mut image = Image::new(2);
        damage(&mut image.blob);
        image.seal();
        registry.put_tagged(&image).await;
        let node = Node::new();
        assert_eq!(node.code(&image.layer(&registry, 2)).await, FallbackCode::BadIndex);
        assert_eq!(std::fs::read_dir(node.dir.path().join("index")).unwrap().count(), 0);
    }
    let registry = Registry::start().await;
    let image = Image::new(2);
    registry.put_tagged(&image).await;
    let foreign = RemoteLayer { target: ChainId(Digest::of(b"x")), ..image.layer(&registry, 1) };
    assert_eq!(Node::new().code(&foreign).await, FallbackCode::ChainMismatch);
}

#[tokio::test]
async fn nothing_is_promised_on_spans_that_lie() {
    type Lie = fn(&mut LaunchLayer);
    let lies: [(&str, Lie); 9] = [
        ("beyond the blob", |layer| layer.spans[0].blob_offset = BlobOffset(1)),
        ("beyond all numbers", |layer| layer.spans[0].blob_offset = BlobOffset(u64::MAX - 1)),
        ("longer than the blob", |layer| layer.converted.len = 99),
        ("short of the tar", |layer| layer.tar_len = 1025),
        ("beyond the tar", |layer| layer.tar_len = 1023),
        ("empty", |layer| layer.spans[0].compressed_len = 0),
        ("endless", |layer| {
            (layer.spans[0].tar_len, layer.tar_len) = (u32::MAX, u32::MAX.into());
        }),
        ("twice the same", |layer| layer.spans.push(layer.spans[0])),
        ("overlapping in the blob", |layer| {
            layer.tar_len = 2048;
            layer.spans.push(Span {
                tar_offset: TarOffset(1024),
                blob_offset: BlobOffset(50),
                ..layer.spans[0]
            });
        }),
    ];
    for (what, lie) in lies {
        let registry = Registry::start().await;
        let image = Image::lying(lie);
        registry.put_tagged(&image).await;
        let node = Node::new();
        let refused = node.layer(&image.layer(&registry, 1)).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{what}: taken for lazy"));
        assert_eq!(refused.code, FallbackCode::BadIndex, "{what}: {}", refused.detail);
        assert!(refused.detail.contains("span"), "{what}: {}", refused.detail);
        assert_eq!(std::fs::read_dir(node.dir.path().join("index")).unwrap().count(), 0, "{what}");
    }
}

#[tokio::test]
async fn an_unused_index_is_collected_unless_a_promise_is_being_made() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    let node = Node::new();
    let layer = image.layer(&registry, 1);
    let found = node.layer(&layer).await.map_err(|f| f.detail).unwrap();
    let file = node.dir.path().join("index").join(image.index.hex());
    node.resolver.collect().await;
    assert!(file.exists());
    drop(found);
    node.resolver.collect().await;
    assert!(!file.exists() && node.store.sources(&image.index).is_empty());
    assert!(node.layer(&layer).await.is_ok());
}
