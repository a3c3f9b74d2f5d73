//! Images that Jaunt cannot mount, or not from where they are: a node has them as it would without Jaunt.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bed, await_ready, backings, noise, runnable};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::{Node, Registry, needs_root};

const LAYERS: usize = 6;

/// Layers of some size.
fn image() -> Image {
    let above = |n: usize| layer([dir("data", 0o755), file(format!("data/{n}"), noise(n as u64, 300_000))]);
    let image = Image::new().layer(layer(runnable()));
    (1..LAYERS).fold(image, |image, n| image.layer(above(n))).command(&[
        "/bin/sh",
        "-c",
        "echo ready; exec sleep 600",
    ])
}

/// containerd fetches them, all at once: each blob one time, and nothing is asked for twice.
#[test]
fn an_image_that_is_not_lazy_is_fetched_with_as_many_requests_as_without_jaunt() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(image());
    let fetched = |node: &Node<'_>| {
        let before = bed.registry.blob_requests().unwrap();
        node.pull(&pushed.reference).unwrap();
        bed.registry.blob_requests().unwrap() - before
    };
    let plain = Node::overlayfs(&bed.scratch, &[bed.registry.host()]).unwrap();
    let without = fetched(&plain);
    plain.wipe().unwrap();
    let node = bed.node();
    assert_eq!(fetched(&node), without);
    assert!(without > LAYERS as u64, "{without}: the layers and the configuration");
    assert_eq!(backings(&bed, &node), ["eager"; LAYERS]);
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
}

/// What Jaunt is told of a registry, or cannot reach of it, is of that registry alone; and where it cannot, containerd can.
#[test]
fn a_registry_that_jaunt_cannot_reach_is_pulled_from_all_the_same_and_others_stay_lazy() {
    needs_root!();
    let bed = Bed::new();
    let other = Registry::local(&bed.scratch).unwrap();
    let image = image().build().unwrap();
    let [there, elsewhere] = [&bed.registry, &other].map(|registry| {
        let pushed = image.push(registry, "fixture", "v1").unwrap();
        bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
        pushed
    });
    // For Jaunt, nobody listens there.
    let certs = bed.scratch.dir("certs").unwrap();
    let hosts = bed.scratch.dir(&format!("certs/{}", other.host())).unwrap().join("hosts.toml");
    std::fs::write(&hosts, "server = 'http://127.0.0.1:1'\n").unwrap();
    let config = format!("resolve_timeout_seconds = 2\n[registries]\ncerts_dirs = [{certs:?}]\n");
    let hosts = [bed.registry.host(), other.host()];
    let node = Node::configured(&bed.scratch, &bed.binaries, &hosts, &config).unwrap();

    let said = node.pull(&elsewhere.reference).unwrap();
    assert!(said.contains("0 of 6 layers lazy"), "{said}");
    await_ready(&mut node.containerd.run(&elsewhere.reference).unwrap());
    node.containerd.remove_images().unwrap();
    let said = node.pull(&there.reference).unwrap();
    assert!(said.contains("6 of 6 layers lazy"), "{said}");
    await_ready(&mut node.containerd.run(&there.reference).unwrap());
}
