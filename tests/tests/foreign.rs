//! Images in zstd:chunked start lazily with no launch artifact: the node makes the index of their own tables.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Bed, await_ready, backings, copied, differences, everything, status};
use jaunt_formats::media_type::{CHUNKED_TARSPLIT_POSITION, OCI_MANIFEST};
use jaunt_tests::buildah::Buildah;
use jaunt_tests::podman::{self, Podman};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Node, host, needs_programs, needs_root};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_replaced_image_is_lazy_where_its_artifact_did_not_follow() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.pushed(everything().in_words());
    run(&mut bed.binaries.proxy(&bed.scratch, &["convert", "--mode", "replace", &pushed.reference])).unwrap();
    let (_, reference) = copied(&bed, "fixture", "elsewhere");
    let found = differences(&bed, &image.chain_ids(), &reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// Has an image completed whose layers have bytes that no span covers, and starts it without its registry.
fn complete(bed: &mut Bed, reference: &str) {
    let config = "[completion]\ndelay_seconds = 0\n";
    let hosts = [bed.registry.host()];
    let node = Node::configured(&bed.scratch, &bed.binaries, &hosts, config).unwrap();
    node.pull(reference).unwrap();
    await_ready(&mut node.containerd.run(reference).unwrap());
    let log = || node.jaunt.as_ref().unwrap().log();
    wait_until("completion", LIMIT, || log().contains("an image is complete")).unwrap();
    assert!(!log().contains("quarantine"), "{}", log());
    drop(node);
    bed.registry.stop().unwrap();
    let node = Node::configured(&bed.scratch, &bed.binaries, &hosts, config).unwrap();
    await_ready(&mut node.containerd.run(reference).unwrap());
}

#[test]
fn a_layer_whose_headers_are_in_no_span_is_completed_and_then_needs_no_registry() {
    needs_root!();
    let mut bed = Bed::new();
    let (_, pushed) = bed.pushed(everything().in_words());
    run(&mut bed.binaries.proxy(&bed.scratch, &["convert", "--mode", "replace", &pushed.reference])).unwrap();
    let (_, reference) = copied(&bed, "fixture", "elsewhere");
    complete(&mut bed, &reference);
}

#[test]
fn an_image_that_skopeo_recompressed_starts_lazily() {
    needs_root!();
    let bed = Bed::new();
    // Those before 1.15 cannot be made to recompress, and write no tar-split.
    let help =
        host::find("skopeo").map(|_| run(bed.scratch.command("skopeo").args(["copy", "--help"])).unwrap());
    if help.is_none_or(|help| !help.contains("--dest-force-compress-format")) {
        eprintln!("skipped: {}: needs skopeo 1.15 or later", module_path!());
        return;
    }
    let (image, pushed) = bed.pushed(everything().in_words());
    let reference = format!("{}/chunked:v1", bed.registry.host());
    let mut skopeo = bed.scratch.command("skopeo");
    skopeo.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    skopeo.args(["--dest-compress-format", "zstd:chunked", "--dest-force-compress-format"]);
    run(skopeo.args([format!("docker://{}", pushed.reference), format!("docker://{reference}")])).unwrap();
    let found = differences(&bed, &image.chain_ids(), &reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

#[test]
fn an_image_that_podman_pushed_starts_lazily() {
    needs_root!();
    needs_programs!("podman", "unshare");
    let mut bed = Bed::new();
    let version = Podman::version(&bed.scratch).unwrap();
    if version < podman::FIRST_VERSION {
        eprintln!("skipped: {}: podman {version} is too old (make test-matrix has 5)", module_path!());
        return;
    }
    let (image, pushed) = bed.pushed(everything().in_words());
    let reference = format!("{}/podman:v1", bed.registry.host());
    let podman = Podman::new(&bed.scratch).unwrap();
    podman.pull(&pushed.reference).unwrap();
    podman.push_chunked(&pushed.reference, &reference).unwrap();
    let found = differences(&bed, &image.chain_ids(), &reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
    drop(podman);
    complete(&mut bed, &reference);
}

#[test]
fn an_image_that_buildah_pushed_starts_lazily() {
    needs_root!();
    needs_programs!("buildah");
    let bed = Bed::new();
    let help = run(bed.scratch.command("buildah").args(["push", "--help"])).unwrap();
    if !help.contains(podman::CHUNKED[2]) {
        eprintln!("skipped: {}: this buildah cannot be made to recompress", module_path!());
        return;
    }
    let (image, pushed) = bed.pushed(everything().in_words());
    let reference = format!("{}/buildah:v1", bed.registry.host());
    let buildah = Buildah::new(&bed.scratch).unwrap();
    buildah.run_trusting(&["pull", "--quiet", "--tls-verify=false", &pushed.reference]).unwrap();
    let target = format!("docker://{reference}");
    let push = ["push", "--quiet", "--tls-verify=false"];
    buildah.run_trusting(&[&push[..], &podman::CHUNKED, &[&pushed.reference, &target]].concat()).unwrap();
    let found = differences(&bed, &image.chain_ids(), &reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// What `unusable-layer` is for: the image still runs, and the reason is told.
#[test]
fn a_layer_that_fails_its_checks_is_unpacked_and_that_is_said() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(everything().in_words());
    run(&mut bed.binaries.proxy(&bed.scratch, &["convert", "--mode", "replace", &pushed.reference])).unwrap();
    let (mut manifest, _) = copied(&bed, "fixture", "spoilt");
    manifest["layers"][0]["annotations"].as_object_mut().unwrap().remove(CHUNKED_TARSPLIT_POSITION);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    bed.registry.push_manifest("spoilt", "v1", OCI_MANIFEST, &bytes).unwrap();
    let node = bed.node();
    let reference = format!("{}/spoilt:v1", bed.registry.host());
    node.pull(&reference).unwrap();
    await_ready(&mut node.containerd.run(&reference).unwrap());
    assert!(backings(&bed, &node).iter().all(|backing| backing == "eager"));
    let status = status(&bed, &node);
    assert_eq!(status["fallbacks"][0]["code"], "unusable-layer", "{status:#}");
    let detail = status["fallbacks"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("no tar-split"), "{detail}");
}
