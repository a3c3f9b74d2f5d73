//! Completion, end to end: an image is there in full without anybody reading it, and then needs no registry.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Bed, await_ready, backings, everything, runnable, status};
use jaunt_formats::launch::{self, LaunchIndex};
use jaunt_formats::media_type::OCI_MANIFEST;
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::tree::Tree;
use jaunt_formats::{Digest, Entry};
use jaunt_tests::image::{BuiltImage, Image, Pushed, file, layer};
use jaunt_tests::process::wait_until;
use jaunt_tests::{Node, compare, needs_root};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);
const AT_ONCE: &str = "[completion]\ndelay_seconds = 0\n";

fn node<'b>(bed: &'b Bed, config: &str) -> Node<'b> {
    Node::configured(&bed.scratch, &bed.binaries, &[bed.registry.host()], config).unwrap()
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
