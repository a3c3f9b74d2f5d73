//! The ground the other tests stand on: a fixture, a registry and containerd's own snapshotter.
//!
//! None of our programs take part. When this fails, the machine or the harness is at fault.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use jaunt_tests::{Node, Readiness, Registry, Scratch, compare, mounts, needs_root};

#[test]
fn a_fixture_is_pulled_run_viewed_and_removed() {
    needs_root!();
    let scratch = Scratch::new().unwrap();
    let registry = Registry::local(&scratch).unwrap();
    let image = common::everything().build().unwrap();
    let pushed = image.push(&registry, "fixture", "v1").unwrap();
    let node = Node::overlayfs(&scratch, &[registry.host()]).unwrap();
    node.pull(&pushed.reference).unwrap();

    let mut container = node.containerd.run(&pushed.reference).unwrap();
    container.wait_ready(&Readiness::Line("ready".to_owned()), Duration::from_secs(30)).unwrap();
    container.stop().unwrap();

    let chain_ids = image.chain_ids();
    let whole = chain_ids.last().unwrap().to_string();
    let view = node.containerd.view("overlayfs", &whole).unwrap();
    let tree = compare::read(view.point()).unwrap();
    let has = |path: &str| tree.contains_key(std::path::Path::new(path));
    assert!(has("kept") && has("opaque/third"), "{:?}", tree.keys());
    assert!(!has("opaque/below") && !has("opaque/above") && !has("d/zeros"));
    drop(view);
    node.containerd.end_view("overlayfs", &whole).unwrap();

    node.containerd.remove_images().unwrap();
    drop(node);
    assert_eq!(mounts::below(scratch.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_container_that_is_stopped_while_it_is_being_made_is_gone() {
    needs_root!();
    let scratch = Scratch::new().unwrap();
    let registry = Registry::local(&scratch).unwrap();
    let pushed = common::everything().build().unwrap().push(&registry, "fixture", "v1").unwrap();
    let node = Node::overlayfs(&scratch, &[registry.host()]).unwrap();
    node.pull(&pushed.reference).unwrap();
    for _ in 0..3 {
        node.containerd.run(&pushed.reference).unwrap().stop().unwrap();
    }
    node.containerd.remove_images().unwrap();
}
