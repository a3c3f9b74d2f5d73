//! doc/SEMANTICS.md B8: what a running container notices when its image's conversion is deleted.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Bed, noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::container::Container;
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::process::{signal_pid, wait_until};
use jaunt_tests::{Binaries, Network, Node, Registry, Scratch, needs_root};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);
/// What nobody reads is left alone, however long it takes.
const ON_DEMAND: &str = "[completion]\nenabled = false\n";
const FILES: u64 = 6;

/// Two layers, compressed each in its way, that the container reads once it is told to.
fn image(bytes: usize) -> Image {
    let files = |name: &str, seed: u64| {
        let files = (0..FILES).map(|n| file(format!("{name}/{n}"), noise(seed + n, bytes)));
        layer([dir(name, 0o755)].into_iter().chain(files))
    };
    Image::new().layer(layer(runnable())).layer(files("gzip", 1)).layer(files("zstd", 100).zstd()).command(&[
        "/bin/sh",
        "-ec",
        "mkfifo /go; echo ready; cat /go; sha256sum /gzip/* /zstd/*; echo done",
    ])
}

fn sums(bytes: usize) -> Vec<String> {
    let sum =
        |name: &str, seed: u64, n: u64| format!("{}  /{name}/{n}", Digest::of(&noise(seed + n, bytes)).hex());
    let gzip = (0..FILES).map(|n| sum("gzip", 1, n));
    gzip.chain((0..FILES).map(|n| sum("zstd", 100, n))).collect()
}

/// Deletes the launch artifact and every blob that it alone names.
fn delete_conversion(registry: &Registry, pushed: &Pushed) {
    let tag = format!("sha256-{}.jaunt", pushed.digest.hex());
    let (artifact, digest) = registry.manifest(&pushed.repository, &tag).unwrap();
    let delete = |path: &str| {
        let path = format!("{}/{path}", pushed.repository);
        assert_eq!(registry.request("DELETE", &path, &[], b"").unwrap().status, 202, "{path}");
    };
    delete(&format!("manifests/{digest}"));
    for blob in artifact["layers"].as_array().unwrap() {
        let blob: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
        delete(&format!("blobs/{blob}"));
        // As a collector of garbage would.
        let _ = std::fs::remove_file(registry.blob_file(&blob));
    }
}

/// What the container read, once it has read everything.
fn read_by(container: &mut Container) -> Vec<String> {
    let said = container.finish(LIMIT).unwrap();
    assert!(said.lines().any(|line| line == "done"), "{said}");
    said.lines().filter(|line| line.contains("  /")).map(str::to_owned).collect()
}

/// B8: Deleting an image's conversion under a running container gives it no error.
#[test]
fn deleting_the_artifact_and_its_blobs_gives_a_running_container_no_error() {
    needs_root!();
    let bed = Bed::new();
    let bytes = 1 << 20;
    let (_, pushed) = bed.converted(image(bytes));
    let node = bed.node_with(ON_DEMAND);
    node.pull(&pushed.reference).unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    common::await_ready(&mut container);
    delete_conversion(&bed.registry, &pushed);
    node.containerd.wake(&container).unwrap();
    assert_eq!(read_by(&mut container), sums(bytes));
    let log = node.jaunt.as_ref().unwrap().log();
    assert_eq!(log.matches("its original is streamed instead").count(), 2, "once a layer:\n{log}");
}

/// doc/SEMANTICS.md B8, over a link on which the originals take seconds: the worker that follows begins them anew.
#[test]
fn a_worker_killed_in_the_middle_of_an_original_costs_no_byte() {
    needs_root!();
    let scratch = Scratch::new().unwrap();
    let network = Network::new(&scratch, 40_000_000).unwrap();
    let registry = Registry::remote(&scratch, &network).unwrap();
    let binaries = Binaries::find().unwrap();
    let bytes = 2 << 20;
    let pushed = image(bytes).build().unwrap().push(&registry, "fixture", "v1").unwrap();
    binaries.convert(&scratch, &pushed.reference).unwrap();
    let node = Node::configured(&scratch, &binaries, &[registry.host()], ON_DEMAND).unwrap();
    node.pull(&pushed.reference).unwrap();
    let jaunt = node.jaunt.as_ref().unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    common::await_ready(&mut container);
    delete_conversion(&registry, &pushed);
    node.containerd.wake(&container).unwrap();
    let streamed = || jaunt.log().matches("its original is streamed instead").count();
    wait_until("an original on its way", LIMIT, || streamed() > 0).unwrap();
    let begun = streamed();
    let worker = jaunt.worker().unwrap();
    signal_pid(worker, Signal::KILL);
    wait_until("another worker", LIMIT, || jaunt.worker().is_some_and(|pid| pid != worker)).unwrap();
    assert_eq!(read_by(&mut container), sums(bytes));
    assert!(streamed() > begun, "begun anew:\n{}", jaunt.log());
}
