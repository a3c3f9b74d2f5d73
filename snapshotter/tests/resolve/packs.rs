//! Boot packs, as far as the search for an image asks for them.

use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::boot::TablePlace;
use jaunt_formats::{Digest, media_type};
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::store::Store;
use jaunt_snapshotter::boot::BootPacks;
use jaunt_snapshotter::config::BootConfig;
use jaunt_snapshotter::resolve::{Resolve as _, Resolver};
use serde_json::json;

use crate::registry::{Image, Registry};
use crate::{LIMITS, Node, client};

/// The first Prepare asks for it as soon as the artifact is known, whatever becomes of the index.
#[tokio::test]
async fn a_pack_is_asked_for_beside_the_index() {
    let registry = Registry::start().await;
    let mut image = Image::new(2);
    let pack = Digest::of(b"a pack");
    image.artifact["layers"].as_array_mut().unwrap().push(json!({
        "mediaType": media_type::LAUNCH_BOOT_PACK, "digest": pack, "size": 4096,
        "annotations": {media_type::BOOT_TABLE: TablePlace::of(&[0; 64]).to_string()},
    }));
    registry.put_with_late_index(&image, Duration::from_secs(600)).await;

    let node = Node::new();
    let layers =
        Layers::new(Arc::new(Store::open(&node.dir.path().join("layers")).unwrap()), Settings::default());
    let packs = BootPacks::open(node.dir.path(), layers, BootConfig::default()).unwrap();
    let indexes = jaunt_snapshotter::index_store::IndexStore::open(node.dir.path()).unwrap();
    let resolver = Resolver::new(client(), node.store.clone(), indexes, LIMITS).with_packs(packs);
    let layer = image.layer(&registry, 1);
    let searching = tokio::spawn(async move { resolver.layer(&layer).await.is_ok() });
    let begun = std::time::Instant::now();
    while registry.requests_for(&pack.to_string()).await == 0 {
        assert!(begun.elapsed() < LIMITS.timeout && !searching.is_finished(), "the pack was not asked for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!searching.is_finished(), "the index never comes");
    searching.abort();
}
