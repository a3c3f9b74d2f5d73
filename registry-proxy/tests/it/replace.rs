//! Replace mode: the tag moves, the image ID stays, everybody can read the result.

use std::path::Path;
use std::process::Command;

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, noise, run, tar};

const REPOSITORY: &str = "team/app";

fn layers() -> Vec<Layer> {
    let base = tar(&[("usr/", b""), ("usr/big", &noise(1_500_000, 1)), ("usr/old", b"old")]);
    let top = tar(&[("usr/", b""), ("usr/.wh.old", b""), ("usr/new", &b"new ".repeat(9_000))]);
    vec![Layer::gzip(&base), Layer::plain(&top), Layer::gzip(&base)]
}

fn original_tag(digest: &Digest) -> String {
    format!("sha256-{}.original", digest.hex())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn the_tag_moves_and_the_image_id_stays() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let before = registry.manifest(REPOSITORY, "v1").unwrap();
    let reference = registry.reference("team/app:v1");

    let document = registry.run(&["convert", "--mode", "replace", "--json", &reference]).json();
    let after = registry.manifest(REPOSITORY, "v1").unwrap();
    assert_eq!(after["config"], before["config"]);
    assert_eq!(registry.manifest(REPOSITORY, &original_tag(&subject)).unwrap(), before);
    assert_eq!(document["replaced"]["original_tag"], original_tag(&subject));
    assert_eq!(after["annotations"]["dev.jaunt.original-manifest"], subject.to_string());
    assert_eq!(after["annotations"]["dev.jaunt.launch-index"], document["images"][0]["index"]["digest"]);
    for (layer, named) in layers().iter().zip(after["layers"].as_array().unwrap()) {
        assert_eq!(named["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        let blob = registry.blob(REPOSITORY, text(&named["digest"]));
        assert_eq!(named["size"], blob.len());
        assert_eq!(Digest::of(&zstd::decode_all(blob.as_slice()).unwrap()), layer.diff_id);
    }

    // A node looks under the new manifest's tag, and finds the same index.
    let new: Digest = text(&document["replaced"]["manifest"]).parse().unwrap();
    let artifact = registry.manifest(REPOSITORY, &format!("sha256-{}.jaunt", new.hex())).unwrap();
    assert_eq!(artifact["subject"]["digest"], new.to_string());
    assert_eq!(artifact["layers"][0]["digest"], after["annotations"]["dev.jaunt.launch-index"]);
    assert!(
        registry
            .run(&["verify", &reference])
            .succeeded()
            .stdout
            .contains(&format!("verified: linux/amd64 {new}"))
    );
    let inspected = registry.run(&["inspect", "--json", &reference]).json();
    assert_eq!(inspected["images"][0]["layers"].as_array().unwrap().len(), 3);
}

#[test]
fn replacing_again_changes_nothing_and_says_so() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let (after, blobs) = (registry.manifest(REPOSITORY, "v1"), registry.blob_count());
    for arguments in
        [&["--mode", "replace"][..], &["--mode", "replace", "--level", "9"], &["--mode", "attach"]]
    {
        let again = registry.run(&[&["convert"], arguments, &[&reference]].concat());
        let word = if arguments.contains(&"attach") { "already converted" } else { "already replaced" };
        assert!(again.succeeded().stdout.contains(word), "{again:?}");
        assert_eq!((registry.manifest(REPOSITORY, "v1"), registry.blob_count()), (after.clone(), blobs));
    }
    let elsewhere = registry.reference("other/app:v1");
    let copied = registry.run(&["convert", "--mode", "replace", "--to", &elsewhere, &reference]);
    assert!(copied.failed().contains("is replaced already"), "{copied:?}");
}

#[test]
fn an_attached_image_is_replaced_without_converting_it_again() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", &reference]).succeeded();
    let document = registry.run(&["convert", "--mode", "replace", "--json", &reference]).json();
    assert_eq!(document["layers_converted"], 0);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn another_tag_leaves_this_one_alone() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let before = registry.manifest(REPOSITORY, "v1");
    let pinned = registry.reference(&format!("team/app@{subject}"));
    for to in ["team/app:lazy", "other/app:v1"] {
        let reference = registry.reference(to);
        registry.run(&["convert", "--mode", "replace", "--to", &reference, &pinned]).succeeded();
        registry.run(&["verify", &reference]).succeeded();
        let (repository, tag) = to.split_once(':').unwrap();
        assert_eq!(registry.manifest(repository, &original_tag(&subject)), before);
        assert_ne!(registry.manifest(repository, tag), before);
    }
    assert_eq!(registry.manifest(REPOSITORY, "v1"), before);
    assert_eq!(run(&["convert", "--mode", "replace", &pinned]).code, Some(2));
}

#[test]
fn a_whole_index_is_replaced_and_attestations_follow() {
    let Some(registry) = Registry::start() else { return };
    let push = |layer: &str, os: &str| {
        let manifest = registry.image(REPOSITORY, &[Layer::gzip(&tar(&[(layer, b"x")]))], os);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &manifest);
        (Digest::of(&bytes), bytes.len())
    };
    let [amd64, arm64, windows, attestation] =
        [("a", "linux"), ("b", "linux"), ("w", "windows"), ("t", "linux")].map(|(layer, os)| push(layer, os));
    let entry = |(digest, size): (Digest, usize), os: &str, architecture: &str| {
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size,
                "platform": { "os": os, "architecture": architecture, "os.version": "1" } })
    };
    let mut attests = entry(attestation, "unknown", "unknown");
    attests["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": arm64.0 });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        entry(amd64, "linux", "amd64"), entry(arm64, "linux", "arm64"), entry(windows, "windows", "amd64"), attests ]});
    let subject = registry.push_manifest(REPOSITORY, "multi", &index);
    let reference = registry.reference("team/app:multi");

    // One platform first, then the rest of it.
    registry.run(&["convert", "--mode", "replace", "--platform", "linux/amd64", &reference]).succeeded();
    let half = registry.manifest(REPOSITORY, "multi").unwrap();
    assert_eq!(half["manifests"][1], index["manifests"][1]);
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let after = registry.manifest(REPOSITORY, "multi").unwrap();
    assert_eq!(after["manifests"][0], half["manifests"][0]);
    assert_ne!(after["manifests"][1]["digest"], index["manifests"][1]["digest"]);
    assert_eq!(after["manifests"][1]["platform"], index["manifests"][1]["platform"]);
    assert_eq!(after["manifests"][2], index["manifests"][2]);
    assert_eq!(after["manifests"][3]["digest"], index["manifests"][3]["digest"]);
    assert_eq!(
        after["manifests"][3]["annotations"]["vnd.docker.reference.digest"],
        after["manifests"][1]["digest"]
    );
    assert_eq!(after["annotations"]["dev.jaunt.original-manifest"], subject.to_string());
    assert_eq!(registry.manifest(REPOSITORY, &original_tag(&subject)).unwrap(), index);
    assert_eq!(registry.run(&["verify", &reference]).succeeded().stdout.matches("verified:").count(), 2);
    assert!(
        registry
            .run(&["convert", "--mode", "replace", &reference])
            .succeeded()
            .stdout
            .contains("already replaced")
    );
}

#[test]
fn images_of_docker_schema_2_become_oci_images() {
    let Some(registry) = Registry::start() else { return };
    let mut image = registry.image(REPOSITORY, &[Layer::gzip(&tar(&[("f", b"docker")]))], "linux");
    image["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    image["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    image["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    registry.push_manifest(REPOSITORY, "docker", &image);
    let reference = registry.reference("team/app:docker");
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let after = registry.manifest(REPOSITORY, "docker").unwrap();
    assert_eq!(after["mediaType"], OCI_MANIFEST);
    assert_eq!(after["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    assert_eq!(after["config"]["digest"], image["config"]["digest"]);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn a_signed_image_is_refused_unless_forced() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let before = registry.manifest(REPOSITORY, "v1");
    let signature = registry.image(REPOSITORY, &[], "linux");
    let refused = |by: &str| {
        for run in [&["convert", "--dry-run"] as &[&str], &["convert"]] {
            let run = registry.run(&[run, &["--mode", "replace", &reference]].concat());
            assert!(run.failed().contains("is signed") && run.failed().contains(by), "{run:?}");
        }
        assert_eq!(registry.manifest(REPOSITORY, "v1"), before);
    };

    // notation's, in the referrers' fallback tag.
    let bytes = serde_json::to_vec(&signature).unwrap();
    registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &signature);
    let list = |kind: &str| {
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "mediaType": OCI_MANIFEST,
            "digest": Digest::of(&bytes), "size": bytes.len(), "artifactType": kind }] })
    };
    let tag = format!("sha256-{}", subject.hex());
    registry.push_manifest(REPOSITORY, &tag, &list("application/vnd.cncf.notary.signature"));
    refused("notary");
    registry.push_manifest(REPOSITORY, &tag, &list("application/vnd.dev.sigstore.bundle.v0.3+json"));
    refused("sigstore");
    registry.push_manifest(REPOSITORY, &tag, &list("application/spdx+json"));
    // cosign's own tag.
    registry.push_manifest(REPOSITORY, &format!("{tag}.sig"), &signature);
    refused(&format!("{tag}.sig"));
    registry.run(&["convert", "--mode", "replace", "--force", &reference]).succeeded();
    assert_ne!(registry.manifest(REPOSITORY, "v1"), before);
}

#[test]
fn a_signed_index_is_refused_though_none_of_its_images_is() {
    let Some(registry) = Registry::start() else { return };
    let image = registry.image(REPOSITORY, &layers(), "linux");
    let bytes = serde_json::to_vec(&image).unwrap();
    let digest = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &image);
    let entry = json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
    let signed = registry.push_manifest(REPOSITORY, "v1", &index);
    let signature = registry.image(REPOSITORY, &[], "linux");
    registry.push_manifest(REPOSITORY, &format!("sha256-{}.sig", signed.hex()), &signature);
    let reference = registry.reference("team/app:v1");
    for dry in [&["--dry-run"] as &[&str], &[]] {
        let run = registry.run(&[&["convert", "--mode", "replace", &reference], dry].concat());
        assert!(run.failed().contains(&format!("{signed} is signed")), "{run:?}");
    }
    assert_eq!(registry.digest(REPOSITORY, "v1"), signed);
    registry.run(&["convert", "--mode", "replace", "--force", &reference]).succeeded();
    assert_ne!(registry.digest(REPOSITORY, "v1"), signed);
}

/// Runs another program on the image, if it is installed.
fn tool(program: &str, arguments: &[&str]) -> bool {
    if !Path::new("/usr/bin").join(program).exists() {
        eprintln!("skipped: {program} is not installed");
        return false;
    }
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

#[test]
fn other_tools_read_the_replaced_image() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let after = registry.manifest(REPOSITORY, "v1").unwrap();
    let (source, directory) = (format!("docker://{reference}"), tempfile::tempdir().unwrap());
    let at = |name: &str| directory.path().join(name).display().to_string();

    // Decompressing, skopeo checks every layer against its digest and its diffID.
    let target = format!("dir:{}", at("skopeo"));
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-decompress", &source, &target];
    tool("skopeo", &copy);

    std::fs::write(at("policy"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let (root, run_root, policy) = (at("root"), at("run"), at("policy"));
    let store = ["--root", &root, "--runroot", &run_root, "--storage-driver", "vfs"];
    let pull = ["pull", "--quiet", "--tls-verify=false", "--signature-policy", &policy, &reference];
    if tool("buildah", &[&store[..], &pull].concat()) {
        let images =
            Command::new("buildah").args(store).args(["images", "--quiet", "--no-trunc"]).output().unwrap();
        let id = text(&after["config"]["digest"]);
        assert!(String::from_utf8_lossy(&images.stdout).contains(id), "the image ID is the same");
    }
}
