//! What cannot be converted or verified: one line that says why, and nothing published.

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, noise, run, tar};

const REPOSITORY: &str = "team/app";

/// Pushes the image, expects its conversion to fail, and nothing to be published.
fn failure(layers: &[Layer], change: impl Fn(&mut Value)) -> Option<String> {
    let registry = Registry::start()?;
    let mut manifest = registry.image(REPOSITORY, layers, "linux");
    change(&mut manifest);
    let subject = registry.push_manifest(REPOSITORY, "v1", &manifest);
    let run = registry.run(&["convert", &registry.reference("team/app:v1")]);
    let error = run.failed().to_owned();
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    assert!(registry.manifest(REPOSITORY, &format!("sha256-{}.jaunt", subject.hex())).is_none());
    assert!(registry.manifest(REPOSITORY, &format!("sha256-{}", subject.hex())).is_none());
    Some(error)
}

fn layer() -> Layer {
    Layer::gzip(&tar(&[("big", &noise(3_000_000, 1)), ("small", b"x")]))
}

#[test]
fn a_truncated_layer_is_named() {
    let mut truncated = layer();
    truncated.blob.truncate(1_000_000);
    let digest = Digest::of(&truncated.blob).to_string();
    let good = Layer::gzip(&tar(&[("good", b"good")]));
    let Some(error) = failure(&[good, truncated], |_| {}) else { return };
    assert!(error.contains(&digest) && error.contains("cannot decompress gzip"), "{error}");
}

#[test]
fn a_wrong_diff_id_is_named_with_both_digests() {
    let wrong = Layer { diff_id: Digest::of(b"something else"), ..layer() };
    let Some(error) = failure(std::slice::from_ref(&wrong), |_| {}) else { return };
    for digest in [Digest::of(&wrong.blob), wrong.diff_id, layer().diff_id] {
        assert!(error.contains(&digest.to_string()), "{error}");
    }
}

#[test]
fn a_layer_that_is_no_tar_is_named() {
    let junk = Layer::gzip(&noise(100_000, 3));
    let Some(error) = failure(std::slice::from_ref(&junk), |_| {}) else { return };
    assert!(error.contains(&Digest::of(&junk.blob).to_string()), "{error}");
    assert!(error.contains("tar offset 0: not a tar header"), "{error}");
}

#[test]
fn a_blob_of_another_size_than_the_manifest_says_is_refused() {
    let Some(error) = failure(&[layer()], |manifest| manifest["layers"][0]["size"] = json!(5)) else {
        return;
    };
    assert!(error.contains("the manifest says 5"), "{error}");
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let Some(registry) = Registry::start() else { return };
    let tar = tar(&[("big", &noise(1_000_000, 1))]);
    let flip = |mut bytes: Vec<u8>| {
        bytes[700_000] ^= 1;
        bytes
    };
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(500_000);
        bytes
    };
    let (plain, gzip) = (Layer::plain(&tar), Layer::gzip(&tar));
    let damages = [
        ("plain", flip(plain.blob.clone()), plain),
        ("gzip", flip(gzip.blob.clone()), gzip.clone()),
        ("truncated", cut(gzip.blob.clone()), gzip),
    ];
    for (tag, damaged, layer) in damages {
        let subject = registry.push_image(REPOSITORY, tag, std::slice::from_ref(&layer));
        let digest = Digest::of(&layer.blob).to_string();
        std::fs::write(registry.blob_file(&digest), damaged).unwrap();
        let run = registry.run(&["convert", &registry.reference(&format!("team/app:{tag}"))]);
        assert!(run.failed().contains(&format!("layer {digest}: the blob has digest")), "{run:?}");
        assert!(registry.manifest(REPOSITORY, &format!("sha256-{}.jaunt", subject.hex())).is_none());
        std::fs::write(registry.blob_file(&digest), layer.blob).unwrap();
    }
}

#[test]
fn a_config_for_other_layers_is_refused() {
    let change = |manifest: &mut Value| manifest["layers"] = json!([]);
    let Some(error) = failure(&[layer()], change) else { return };
    assert!(error.contains("has 0 layers, but its config names 1 diffIDs"), "{error}");
}

#[test]
fn what_is_not_there_is_said_so() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &[layer()]);
    let missing = registry.reference("team/app:v2");
    let error = registry.run(&["convert", &missing]);
    assert!(error.failed().contains("repository team/app has no"), "{error:?}");
    let present = registry.reference("team/app:v1");
    assert!(registry.run(&["verify", &present]).failed().contains("is not converted"));
    assert!(registry.run(&["inspect", &present]).succeeded().stdout.contains("not converted"));
}

#[test]
fn an_unreachable_registry_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = run(&["convert", &format!("{free}/team/app:v1")]);
    assert!(run.failed().contains(&format!("registry {free}: cannot connect")), "{run:?}");
}

#[test]
fn one_bad_image_of_an_index_takes_nothing_from_the_others() {
    let Some(registry) = Registry::start() else { return };
    let good = registry.image(REPOSITORY, &[layer()], "linux");
    let mut short = good.clone();
    short["layers"] = json!([]);
    let wrong = Layer { diff_id: Digest::of(b"something else"), ..layer() };
    let wrong = registry.image(REPOSITORY, &[wrong], "linux");
    let entry = |manifest: &Value, architecture: &str| {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), manifest);
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let entries = [entry(&short, "arm64"), entry(&wrong, "s390x"), entry(&good, "amd64")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    registry.push_manifest(REPOSITORY, "multi", &index);
    let reference = registry.reference("team/app:multi");
    for arguments in [&["convert", &reference][..], &["convert", "--mode", "replace", &reference]] {
        let run = registry.run(arguments);
        let error = run.failed();
        assert_eq!(error.lines().count(), 3, "one line an image, and one for all: {error}");
        assert!(error.contains("it has 0 layers") && error.contains("the tar has digest"), "{error}");
        assert!(error.contains("2 of 3 images could not be converted"), "{error}");
        let digest = entries[2]["digest"].as_str().unwrap().replace(':', "-");
        assert!(registry.manifest(REPOSITORY, &format!("{digest}.jaunt")).is_some());
        assert_eq!(registry.manifest(REPOSITORY, "multi").unwrap(), index, "not replaced in part");
    }
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("it has 0 layers"));
    assert!(registry.run(&["verify", &reference]).failed().contains("not converted"));
}

#[test]
fn an_image_without_layers_is_skipped() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "empty", &[]);
    let run = registry.run(&["convert", &registry.reference("team/app:empty")]);
    assert!(run.succeeded().stdout.contains("it has no layers"), "{run:?}");
}

#[test]
fn artifacts_and_windows_images_are_skipped() {
    let Some(registry) = Registry::start() else { return };
    let windows = registry.image(REPOSITORY, &[layer()], "windows");
    registry.push_manifest(REPOSITORY, "windows", &windows);
    let run = registry.run(&["convert", &registry.reference("team/app:windows")]);
    assert!(run.succeeded().stdout.contains("a windows image"), "{run:?}");
    for command in ["verify", "inspect", "detach"] {
        let run = registry.run(&[command, &registry.reference("team/app:windows")]);
        assert!(run.failed().contains("a windows image"), "{run:?}");
    }

    let empty = registry.push_blob(REPOSITORY, b"{}".to_vec());
    let artifact = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x-thing",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2 }, "layers": [] });
    registry.push_manifest(REPOSITORY, "thing", &artifact);
    let run = registry.run(&["convert", &registry.reference("team/app:thing")]);
    assert!(run.succeeded().stdout.contains("an artifact of type application/x-thing"), "{run:?}");
}

#[test]
fn verify_finds_what_was_tampered_with() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &[layer()]);
    let reference = registry.reference("team/app:v1");
    let converted = registry.run(&["convert", "--json", &reference]).json();
    let blob = registry.blob_file(converted["images"][0]["layers"][0]["converted"].as_str().unwrap());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let error = registry.run(&["verify", &reference]);
    assert!(error.failed().contains("span 2 at blob offset"), "{error:?}");
}
