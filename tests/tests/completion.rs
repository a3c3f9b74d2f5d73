//! Completion, end to end: an image is there in full without anybody reading it, and then needs no registry.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Bed, await_ready, backings, everything, noise, runnable, status};
use jaunt_formats::launch::{self, LaunchIndex, LaunchLayer};
use jaunt_formats::media_type::OCI_MANIFEST;
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::tree::Tree;
use jaunt_formats::{Digest, Entry};
use jaunt_tests::image::{BuiltImage, Image, Pushed, file, layer};
use jaunt_tests::process::wait_until;
use jaunt_tests::{Node, compare, needs_root};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);
const SECRET: usize = 300_000;
const AT_ONCE: &str = "[completion]\ndelay_seconds = 0\n";

fn node<'b>(bed: &'b Bed, config: &str) -> Node<'b> {
    bed.node_with(config)
}

/// K2: A complete image needs no registry, also after a restart.
#[test]
fn a_completed_image_starts_and_reads_everything_without_its_registry() {
    needs_root!();
    let mut bed = Bed::new();
    let (image, pushed) = bed.converted(everything());
    let lazy = node(&bed, AT_ONCE);
    lazy.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &lazy), vec!["lazy"; image.chain_ids().len()]);
    let mut container = lazy.containerd.run(&pushed.reference).unwrap();
    await_ready(&mut container);
    let jaunt = lazy.jaunt.as_ref().unwrap();
    wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
    assert!(!jaunt.log().contains("quarantine"), "{}", jaunt.log());
    lazy.containerd.pull("overlayfs", &pushed.reference).unwrap();
    drop(container);
    drop(lazy);
    bed.registry.stop().unwrap();

    let lazy = node(&bed, AT_ONCE);
    let mut container = lazy.containerd.run(&pushed.reference).unwrap();
    await_ready(&mut container);
    let whole = image.chain_ids().last().unwrap().to_string();
    let mounted = lazy.containerd.view("jaunt", &whole).unwrap();
    let unpacked = lazy.containerd.view("overlayfs", &whole).unwrap();
    let (left, right) = (compare::read(mounted.point()).unwrap(), compare::read(unpacked.point()).unwrap());
    let mut found = compare::differences(&left, &right);
    // containerd ignores what a layer says about its root, which so has the time of unpacking.
    found.retain(|line| !line.starts_with("/: mtime: "));
    assert!(found.is_empty() && left.len() > 20, "{}", found.join("\n"));
}

/// A program in a layer of its own, whose mode is what two such images differ in.
fn with_program(mode: u32) -> Image {
    let program = layer([file("usr-helper", "#!/bin/sh\n").mode(mode)]).plain();
    Image::new().layer(layer(runnable())).layer(program).command(&[
        "/bin/sh",
        "-c",
        "echo ready; exec sleep 600",
    ])
}

/// The entries of a layer that is not compressed.
fn entries(tar: &[u8]) -> Vec<Entry> {
    let (mut scanner, mut entries) = (Scanner::new(), Vec::new());
    let scanned = scanner.push(tar, &mut |event| {
        if let Event::Member(member) = event {
            entries.push(member.entry);
        }
    });
    scanned.unwrap();
    entries
}

/// Has the image's artifact name an index with the same layers and the tree of another image, whose upper layer is not
/// compressed and whose lower one is the same.
fn forge(bed: &Bed, pushed: &Pushed, image: &BuiltImage, other: &BuiltImage) -> Digest {
    let mut artifact = bed.artifact(pushed);
    let honest: Digest = artifact["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let honest = launch::unpack(&bed.registry.blob(&pushed.repository, &honest).unwrap()).unwrap();
    let honest = LaunchIndex::open(honest).unwrap();
    let lower = decompressed(&image.layers[0].bytes);
    let tree = Tree::of_layers([entries(&lower), entries(&other.layers[1].bytes)]).unwrap();
    let forged = launch::pack(&launch::write(honest.layers(), &tree).unwrap()).unwrap();
    let digest = bed.registry.push_blob(&pushed.repository, &forged).unwrap();
    artifact["layers"][0]["digest"] = json!(digest.to_string());
    artifact["layers"][0]["size"] = json!(forged.len());
    let tag = format!("sha256-{}.jaunt", pushed.digest.hex());
    let bytes = serde_json::to_vec(&artifact).unwrap();
    bed.registry.push_manifest(&pushed.repository, &tag, OCI_MANIFEST, &bytes).unwrap();
    digest
}

fn decompressed(gzip: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(gzip), &mut tar).unwrap();
    tar
}

/// K4: An index whose tree is not that of its layers is in quarantine from then on, lastingly: no container is started
/// from it any more.
#[test]
fn a_setuid_bit_that_only_the_index_has_is_found_out_and_starts_no_second_container() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(with_program(0o755));
    let index = forge(&bed, &pushed, &image, &with_program(0o4755).build().unwrap());
    let lazy = node(&bed, AT_ONCE);
    lazy.pull(&pushed.reference).unwrap();
    // It runs, unless it is found out so soon that this one is refused as well.
    let container = lazy.containerd.run(&pushed.reference);
    let found = "/usr-helper: mode 0755 and 4755";
    let jaunt = lazy.jaunt.as_ref().unwrap();
    wait_until("the quarantine", LIMIT, || jaunt.log().contains("quarantine")).unwrap();
    assert!(jaunt.log().contains(found), "{}", jaunt.log());
    drop(container);
    drop(lazy);

    let lazy = node(&bed, AT_ONCE);
    let refused = lazy.containerd.run(&pushed.reference).and_then(|mut container| container.finish(LIMIT));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains(found) && refused.contains(&index.to_string()), "{refused}");
    lazy.containerd.remove_images().unwrap();
    lazy.pull(&pushed.reference).unwrap();
    await_ready(&mut lazy.containerd.run(&pushed.reference).unwrap());
    assert_eq!(backings(&bed, &lazy), ["eager", "eager"]);
    assert_eq!(status(&bed, &lazy)["fallbacks"][0]["code"], "quarantined");
}

/// A container that reads a file of a layer of its own when it starts, and once more when it is told to; between
/// that layer and its programs is one that it does not read.
fn with_secret(seed: u64) -> Image {
    let secret = layer([file("secret", noise(seed, SECRET))]).plain();
    let unread = layer([file("unread", noise(9, SECRET))]);
    let reads = "mkfifo /go; sha256sum /secret; cat /go >/dev/null; sha256sum /secret; echo done";
    Image::new().layer(layer(runnable())).layer(unread).layer(secret).command(&["/bin/sh", "-ec", reads])
}

fn layers_of(bed: &Bed, pushed: &Pushed) -> Vec<LaunchLayer> {
    let artifact = bed.artifact(pushed);
    let digest: Digest = artifact["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let index = launch::unpack(&bed.registry.blob(&pushed.repository, &digest).unwrap()).unwrap();
    LaunchIndex::open(index).unwrap().layers().to_vec()
}

/// Has the artifact of an image claim that its topmost layer's tar stands behind another's converted blob.
fn forge_layer(bed: &Bed, pushed: &Pushed, image: &BuiltImage, other: &[LaunchLayer]) {
    let (mut layers, mut artifact) = (layers_of(bed, pushed), bed.artifact(pushed));
    let (honest, forged) = (layers.pop().unwrap(), other.last().unwrap().clone());
    layers.push(LaunchLayer { diff_id: honest.diff_id, original: honest.original, ..forged.clone() });
    let (top, below) = image.layers.split_last().unwrap();
    let tars = below.iter().map(|layer| decompressed(&layer.bytes)).chain([top.bytes.clone()]);
    let tree = Tree::of_layers(tars.map(|tar| entries(&tar))).unwrap();
    let index = launch::pack(&launch::write(&layers, &tree).unwrap()).unwrap();
    for blob in artifact["layers"].as_array_mut().unwrap() {
        if blob["digest"] == honest.converted.digest.to_string() {
            blob["digest"] = json!(forged.converted.digest.to_string());
            blob["size"] = json!(forged.converted.len);
        }
    }
    artifact["layers"][0]["digest"] =
        json!(bed.registry.push_blob(&pushed.repository, &index).unwrap().to_string());
    artifact["layers"][0]["size"] = json!(index.len());
    let tag = format!("sha256-{}.jaunt", pushed.digest.hex());
    let bytes = serde_json::to_vec(&artifact).unwrap();
    bed.registry.push_manifest(&pushed.repository, &tag, OCI_MANIFEST, &bytes).unwrap();
}

/// K3: A layer that is not what its diffID says is in quarantine from then on, lastingly, and no byte of its converted
/// blob is read any more. Nor by way of what the kernel has kept of it.
#[test]
fn a_forgery_that_a_container_has_read_is_read_by_nobody_once_it_is_found_out() {
    needs_root!();
    let bed = Bed::new();
    let other = layers_of(&bed, &bed.converted(with_secret(2)).1);
    let (image, pushed) = bed.converted(with_secret(1));
    let unread = layers_of(&bed, &pushed)[1].clone();
    forge_layer(&bed, &pushed, &image, &other);
    let [right, wrong] = [1, 2].map(|seed| Digest::of(&noise(seed, SECRET)).hex().to_string());
    // Layers are completed from the lowest up: nothing is found out before this one is there.
    let blobs = [unread.converted.digest, unread.original.digest].map(|blob| bed.registry.blob_file(&blob));
    let aside = |blob: &std::path::Path| blob.with_extension("aside");
    let lazy = node(&bed, &format!("avoid_kernel_features = [\"erofs\"]\n{AT_ONCE}"));
    lazy.pull(&pushed.reference).unwrap();
    blobs.iter().for_each(|blob| std::fs::rename(blob, aside(blob)).unwrap());
    let mut first = lazy.containerd.run(&pushed.reference).unwrap();
    assert!(first.next_line(LIMIT).unwrap().unwrap().starts_with(&wrong), "nobody knows yet");
    blobs.iter().for_each(|blob| std::fs::rename(aside(blob), blob).unwrap());
    let jaunt = lazy.jaunt.as_ref().unwrap();
    wait_until("the quarantine", LIMIT, || jaunt.log().contains("the kernel has forgotten")).unwrap();
    lazy.containerd.wake(&first).unwrap();
    assert!(first.next_line(LIMIT).unwrap().unwrap().starts_with(&right), "{}", jaunt.log());
    let mut second = lazy.containerd.run(&pushed.reference).unwrap();
    assert!(second.next_line(LIMIT).unwrap().unwrap().starts_with(&right), "{}", jaunt.log());
    wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
    drop((first, second));
}
