//! Images without an artifact whose own layers can be read as they are: a blob that skopeo wrote.

use jaunt_formats::launch::LaunchIndex;
use jaunt_formats::{DigestScope, media_type};
use serde_json::Value;

use super::*;

const LAYER: &[u8] = include_bytes!("../../../formats/testdata/zstd-chunked-by-skopeo-1.22.tar.zst");
const DIFF_ID: &str = "sha256:0e7876e681072fb2f8152378db98563bbb334eb8a4345b3a7ad9935efb8f0665";
const CHECKSUM: &str = "sha256:3d76ebb6b30c55354371b90d147a4b2a4e655eb753d5c18f891add10c786cf11";

/// An image of the same layer twice, to be spoilt before it is put into a registry.
pub struct Chunked {
    config: Value,
    manifest: Value,
}

impl Chunked {
    pub fn new() -> Self {
        let layer = json!({
            "mediaType": media_type::OCI_LAYER_ZSTD, "digest": Digest::of(LAYER), "size": LAYER.len(),
            "annotations": {
                media_type::CHUNKED_MANIFEST_CHECKSUM: CHECKSUM,
                media_type::CHUNKED_MANIFEST_POSITION: "37196:1897:7544:1",
                media_type::CHUNKED_TARSPLIT_POSITION: "39101:1831:44102",
            },
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::OCI_CONFIG, "digest": "", "size": 0},
            "layers": [layer.clone(), layer],
        });
        Self { config: json!({"rootfs": {"type": "layers", "diff_ids": [DIFF_ID, DIFF_ID]}}), manifest }
    }

    /// Puts it into a registry; its layers from the bottom up, as containerd describes them.
    pub async fn put(mut self, registry: &Registry) -> Vec<RemoteLayer> {
        let config = registry.put_blob(self.config.to_string().as_bytes()).await;
        self.manifest["config"]["digest"] = json!(config);
        registry.put_blob(LAYER).await;
        let manifest = registry.put_by_digest(&self.manifest).await;
        let layer = Digest::of(LAYER);
        let image: jaunt_formats::Reference = format!("{}:1", registry.repository()).parse().unwrap();
        let diff_id = jaunt_formats::DiffId(DIFF_ID.parse().unwrap());
        ChainId::prefixes(&[diff_id, diff_id])
            .map(|target| RemoteLayer { target, image: image.clone(), manifest, layer })
            .collect()
    }
}

#[tokio::test]
async fn an_image_in_zstd_chunked_is_lazy_as_it_is() {
    let registry = Registry::start().await;
    let layers = Chunked::new().put(&registry).await;
    let mut node = Node::new();
    let found = futures_util::future::join_all(layers.iter().map(|layer| node.layer(layer))).await;
    let mut indexes = Vec::new();
    for (found, prefix) in found.into_iter().zip(1..) {
        let found = found.map_err(|fallback| fallback.detail).unwrap();
        assert_eq!(found.prefix, prefix);
        indexes.push(found.index);
    }
    // Our tag, the referrers' fallback tag, the manifest; the config; one range of each layer.
    assert_eq!(registry.requests_for("manifests").await, 3);
    assert_eq!(registry.requests_for("blobs").await, 3);
    let raw = std::fs::read(node.dir.path().join("index").join(indexes[0].hex())).unwrap();
    let index = LaunchIndex::open(raw).unwrap();
    assert!(
        index.layers().iter().all(|layer| layer.scope == DigestScope::Uncompressed && layer.covers_tar())
    );

    registry.clear().await;
    node.forget_what_is_in_memory();
    let again = node.layer(&layers[1]).await.map_err(|f| f.detail).unwrap();
    assert_eq!((again.index, again.prefix), (indexes[0], 2));
    assert_eq!(registry.requests_for("").await, 0, "the index is kept");
}

#[tokio::test]
async fn an_unusable_artifact_does_not_stop_it() {
    let registry = Registry::start().await;
    let layers = Chunked::new().put(&registry).await;
    let tag = format!("sha256-{}.jaunt", layers[0].manifest.hex());
    registry.put_manifest(&tag, &json!({"schemaVersion": 2, "artifactType": "something else"})).await;
    assert!(Node::new().layer(&layers[1]).await.is_ok());
}

#[tokio::test]
async fn a_layer_that_fails_its_checks_is_unpacked_and_the_reason_names_it() {
    let annotations = |key: &str| format!("/layers/1/annotations/{}", key.replace('/', "~1"));
    let other = Digest::of(b"other").to_string();
    for (pointer, value, code, detail) in [
        (
            annotations(media_type::CHUNKED_MANIFEST_POSITION),
            json!("1:2:3"),
            FallbackCode::UnusableLayer,
            "malformed",
        ),
        (
            annotations(media_type::CHUNKED_MANIFEST_POSITION),
            json!("38196:1897:7544:1"),
            FallbackCode::UnusableLayer,
            "overlap",
        ),
        (
            annotations(media_type::CHUNKED_MANIFEST_CHECKSUM),
            json!(other),
            FallbackCode::UnusableLayer,
            "TOC has digest",
        ),
        (
            annotations(media_type::CHUNKED_TARSPLIT_POSITION),
            json!("39102:1830:44102"),
            FallbackCode::UnusableLayer,
            "decompress",
        ),
        ("/layers/1/size".to_owned(), json!(40_000), FallbackCode::UnusableLayer, "outside the blob"),
        (
            "/layers/1/annotations".to_owned(),
            json!(null),
            FallbackCode::NoLaunchArtifact,
            "1 of its 2 layers",
        ),
    ] {
        let registry = Registry::start().await;
        let mut image = Chunked::new();
        *image.manifest.pointer_mut(&pointer).unwrap() = value;
        let layers = image.put(&registry).await;
        let node = Node::new();
        let Err(fallback) = node.layer(&layers[1]).await else { panic!("{pointer}: taken for lazy") };
        assert_eq!(fallback.code, code, "{pointer}: {}", fallback.detail);
        assert!(fallback.detail.contains(detail), "{pointer}: {}", fallback.detail);
        let names_it =
            code != FallbackCode::UnusableLayer || fallback.detail.contains(&Digest::of(LAYER).hex());
        assert!(names_it, "{}", fallback.detail);
        assert_eq!(std::fs::read_dir(node.dir.path().join("index")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_layer_without_a_tar_split_is_refused_clearly() {
    let registry = Registry::start().await;
    let mut image = Chunked::new();
    let annotations = image.manifest["layers"][0]["annotations"].as_object_mut().unwrap();
    annotations.remove(media_type::CHUNKED_TARSPLIT_POSITION);
    let layers = image.put(&registry).await;
    let Err(fallback) = Node::new().layer(&layers[0]).await else { panic!("taken for lazy") };
    assert_eq!(fallback.code, FallbackCode::UnusableLayer);
    assert!(fallback.detail.contains("no tar-split"), "{}", fallback.detail);
}

#[tokio::test]
async fn a_config_that_is_not_the_layers_is_refused() {
    for (diff_ids, code) in [
        (json!([DIFF_ID]), FallbackCode::UnusableLayer),
        (json!([DIFF_ID, Digest::of(b"x")]), FallbackCode::ChainMismatch),
        (json!("none"), FallbackCode::UnusableLayer),
    ] {
        let registry = Registry::start().await;
        let mut image = Chunked::new();
        image.config["rootfs"]["diff_ids"] = diff_ids;
        let layers = image.put(&registry).await;
        assert_eq!(Node::new().code(&layers[1]).await, code);
    }
}
