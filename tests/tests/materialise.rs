//! The original layers of a lazily pulled image, brought to containerd: it is saved and pushed as it was.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Bed, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_tests::image::{BuiltImage, Image, Pushed, dir, file, layer};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Binaries, Network, Node, Registry, Scratch, needs_root};

const LIMIT: Duration = Duration::from_secs(120);

/// Layers in each compression; the second has `bytes` that do not compress.
fn image(bytes: usize) -> Image {
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/noise", noise(3, bytes))]))
        .layer(layer([file("data/zstd", "zstd\n")]).zstd())
        .command(&["/bin/sh", "-c", "echo ready; exec sleep 600"])
}

fn materialise(binaries: &Binaries, scratch: &Scratch, node: &Node<'_>, reference: &str) -> Command {
    let mut command = binaries.snapshotter(scratch, &["materialise", "--address"]);
    command.arg(node.containerd.socket()).arg("--socket").arg(node.jaunt.as_ref().unwrap().socket());
    command.arg(reference);
    command
}

/// The digests of an image's layers, as its registry has them.
fn layers(registry: &Registry, pushed: &Pushed) -> Vec<Digest> {
    let (manifest, _) = registry.manifest(&pushed.repository, "v1").unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().parse().unwrap()).collect()
}

/// Every blob that containerd has of `wanted`.
fn present(node: &Node<'_>, wanted: &[Digest]) -> usize {
    let listed = run(&mut node.containerd.ctr(&["content", "ls", "--quiet"])).unwrap();
    wanted.iter().filter(|digest| listed.contains(&digest.to_string())).count()
}

fn pulled(bed: &Bed, bytes: usize) -> (BuiltImage, Pushed, Node<'_>) {
    let (built, pushed) = bed.converted(image(bytes));
    let node = bed.node();
    let said = node.pull(&pushed.reference).unwrap();
    assert!(said.contains("3 of 3 layers lazy"), "{said}");
    (built, pushed, node)
}

#[test]
fn an_image_is_saved_and_pushed_elsewhere_byte_for_byte() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed, node) = pulled(&bed, 1 << 20);
    let wanted = layers(&bed.registry, &pushed);
    let saved = bed.scratch.path().join("saved.tar");
    let save = || node.containerd.ctr(&["images", "export", saved.to_str().unwrap(), &pushed.reference]);
    assert_eq!(present(&node, &wanted), 0, "a lazy pull fetches no layer");
    assert!(run(&mut save()).is_err(), "containerd saves an image whose layers it lacks");
    let mut text = bed.binaries.snapshotter(&bed.scratch, &["status", "--socket"]);
    let text = run(text.arg(node.jaunt.as_ref().unwrap().socket())).unwrap();
    assert!(text.contains("`jaunt-snapshotter materialise REF`"), "{text}");

    let said = run(&mut materialise(&bed.binaries, &bed.scratch, &node, &pushed.reference)).unwrap();
    assert!(said.contains("brought 3 original layers"), "{said}");
    assert_eq!(present(&node, &wanted), 3);
    let again = run(&mut materialise(&bed.binaries, &bed.scratch, &node, &pushed.reference)).unwrap();
    assert!(again.contains("all original layers are in"), "{again}");
    // As it is where they came with another image, which keeps them for itself.
    let (manifest, label) = (pushed.digest.to_string(), "containerd.io/gc.ref.content.l.0");
    run(&mut node.containerd.ctr(&["content", "label", &manifest, &format!("{label}=")])).unwrap();
    run(&mut materialise(&bed.binaries, &bed.scratch, &node, &pushed.reference)).unwrap();
    let listed = run(&mut node.containerd.ctr(&["content", "ls"])).unwrap();
    let kept = listed.lines().find(|line| line.starts_with(&manifest)).unwrap();
    assert!(kept.contains(&format!("{label}={}", wanted[0])), "{kept}");
    let told = &status(&bed, &node)["originals"];
    assert_eq!((told["policy"].as_str(), told["images"][0]["trouble"].as_str()), (Some("never"), Some("")));

    run(&mut save()).unwrap();
    let unpacked = bed.scratch.dir("saved").unwrap();
    run(bed.scratch.command("tar").arg("-xf").arg(&saved).arg("-C").arg(&unpacked)).unwrap();
    for digest in wanted.iter().chain([&pushed.digest]) {
        let blob = fs::read(unpacked.join("blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!(Digest::of(&blob), *digest);
    }

    let other = Registry::local(&bed.scratch).unwrap();
    let elsewhere = format!("{}/moved/app:v1", other.host());
    run(&mut node.containerd.ctr(&["images", "tag", &pushed.reference, &elsewhere])).unwrap();
    run(&mut node.containerd.ctr(&["images", "push", "--plain-http", &elsewhere])).unwrap();
    assert_eq!(other.manifest("moved/app", "v1").unwrap().1, pushed.digest);
    for digest in &wanted {
        assert_eq!(Digest::of(&other.blob("moved/app", digest).unwrap()), *digest);
    }

    node.containerd.remove_images().unwrap();
    wait_until("collection of the originals", LIMIT, || present(&node, &wanted) == 0).unwrap();
    let leases = run(&mut node.containerd.ctr(&["leases", "ls", "--quiet"])).unwrap();
    assert!(!leases.contains("jaunt-originals"), "{leases}");
}

#[test]
fn originals_arrive_in_the_background_where_that_is_configured() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image(1 << 20));
    let wanted = layers(&bed.registry, &pushed);
    let socket = bed.scratch.path().join("containerd/containerd.sock");
    let config = format!("originals = \"background\"\ncontainerd = {socket:?}\n");
    let node = bed.node_with(&config);
    assert_eq!(node.containerd.socket(), socket);
    node.pull(&pushed.reference).unwrap();
    wait_until("the originals", LIMIT, || present(&node, &wanted) == 3).unwrap();
    let told = || status(&bed, &node)["originals"].clone();
    wait_until("word of it", LIMIT, || told()["images"][0]["brought_bytes"].as_u64() > Some(1 << 20))
        .unwrap();
    assert_eq!(told()["policy"], "background");
    node.containerd.remove_images().unwrap();
    wait_until("it to be forgotten", LIMIT, || told()["images"] == serde_json::json!([])).unwrap();
    wait_until("collection of the originals", LIMIT, || present(&node, &wanted) == 0).unwrap();
    node.pull(&pushed.reference).unwrap();
    wait_until("the originals of what is back", LIMIT, || present(&node, &wanted) == 3).unwrap();
}

#[test]
fn an_original_that_the_registry_has_lost_is_named() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed, node) = pulled(&bed, 1 << 20);
    let lost = layers(&bed.registry, &pushed)[1];
    let path = format!("{}/blobs/{lost}", pushed.repository);
    assert_eq!(bed.registry.request("DELETE", &path, &[], b"").unwrap().status, 202);
    fs::remove_file(bed.registry.blob_file(&lost)).unwrap();
    let error = run(&mut materialise(&bed.binaries, &bed.scratch, &node, &pushed.reference)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(&format!("the original layer {lost} is no longer in")), "{error}");
    assert!(error.contains("cannot be made of its converted blob"), "{error}");
    let trouble = status(&bed, &node)["originals"]["images"][0]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains(&lost.to_string()), "{trouble}");
}

#[test]
fn wrong_bytes_never_reach_containerd() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed, node) = pulled(&bed, 1 << 20);
    let wrong = layers(&bed.registry, &pushed)[1];
    let blob = bed.registry.blob_file(&wrong);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[700_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let error = run(&mut materialise(&bed.binaries, &bed.scratch, &node, &pushed.reference)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("gives wrong bytes for layer") && error.contains(&wrong.to_string()), "{error}");
    assert_eq!(present(&node, &[wrong]), 0);
    // Nothing of it is left for the next attempt to go on with.
    let mut bytes = fs::read(&blob).unwrap();
    bytes[700_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    run(&mut materialise(&bed.binaries, &bed.scratch, &node, &pushed.reference)).unwrap();
    assert_eq!(present(&node, &[wrong]), 1);
}

/// Bytes of blobs that containerd is being given.
fn underway(node: &Node<'_>) -> u64 {
    // Not for people: `ctr content active` rounds.
    let ingests = node.containerd.content_root().join("ingest");
    let entries = fs::read_dir(ingests).unwrap().flatten();
    let data = entries.filter_map(|entry| fs::metadata(entry.path().join("data")).ok());
    data.map(|data| data.len()).max().unwrap_or(0)
}

#[test]
fn what_was_interrupted_goes_on_where_it_was() {
    needs_root!();
    const LARGE: usize = 16 << 20;
    let scratch = Scratch::new().unwrap();
    let network = Network::new(&scratch, 20_000_000).unwrap();
    let registry = Registry::remote(&scratch, &network).unwrap();
    let binaries = Binaries::find().unwrap();
    let pushed = image(LARGE).build().unwrap().push(&registry, "fixture", "v1").unwrap();
    binaries.convert(&scratch, &pushed.reference).unwrap();
    let wanted = layers(&registry, &pushed);
    // What nobody reads is left alone: the bytes that are counted are those of the original.
    let config = "[completion]\nenabled = false\n";
    let node = Node::configured(&scratch, &binaries, &[registry.host()], config).unwrap();
    node.pull(&pushed.reference).unwrap();

    let mut first = materialise(&binaries, &scratch, &node, &pushed.reference);
    let mut first = first.stdout(Stdio::null()).spawn().unwrap();
    wait_until("half of the layer", LIMIT, || underway(&node) > LARGE as u64 / 2).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    // The daemon stops when it learns that nobody listens, and containerd closes what was open.
    let mut still = underway(&node);
    wait_until("the fetch to stop", LIMIT, || {
        std::thread::sleep(Duration::from_secs(1));
        std::mem::replace(&mut still, underway(&node)) == underway(&node)
    })
    .unwrap();
    let kept = underway(&node);
    assert!(kept > LARGE as u64 / 2, "{kept}");
    let before = network.received().unwrap();
    run(&mut materialise(&binaries, &scratch, &node, &pushed.reference)).unwrap();
    let fetched = network.received().unwrap() - before;
    assert_eq!(present(&node, &wanted), 3);
    assert!(fetched < LARGE as u64 * 3 / 4, "{fetched} bytes fetched with {kept} of {LARGE} there");
}
