//! Images as they are met: what can be converted is, and all else stays as it is, with a reason.

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, OCI_TAR, Registry, tar};

const REPOSITORY: &str = "team/app";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn layer(name: &str) -> Layer {
    Layer::gzip(&tar(&[(name, name.as_bytes())]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Pushes a manifest by its digest; an index's entry for it.
fn entry(registry: &Registry, manifest: &Value) -> Value {
    let bytes = serde_json::to_vec(manifest).unwrap();
    let digest = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), manifest);
    json!({ "mediaType": manifest["mediaType"], "digest": digest, "size": bytes.len() })
}

fn platform_entry(registry: &Registry, manifest: &Value, os: &str, architecture: &str) -> Value {
    let mut entry = entry(registry, manifest);
    entry["platform"] = json!({ "os": os, "architecture": architecture });
    entry
}

fn attestation(registry: &Registry, of: &Value) -> Value {
    let mut entry = platform_entry(
        registry,
        &registry.image(REPOSITORY, &[layer("sbom")], "linux"),
        "unknown",
        "unknown",
    );
    entry["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of["digest"] });
    entry
}

fn index(entries: &[&Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries })
}

#[test]
fn indexes_within_indexes_are_converted_and_replaced() {
    let Some(registry) = Registry::start() else { return };
    let image = |name: &str| registry.image(REPOSITORY, &[layer(name)], "linux");
    let amd64 = platform_entry(&registry, &image("a"), "linux", "amd64");
    let arm64 = platform_entry(&registry, &image("b"), "linux", "arm64");
    let windows =
        platform_entry(&registry, &registry.image(REPOSITORY, &[layer("w")], "windows"), "windows", "amd64");
    // The attestation of an image two levels down; the image of the top is there again.
    let deepest = entry(&registry, &index(&[&arm64, &windows]));
    let mut list = index(&[&deepest, &amd64]);
    list["mediaType"] = DOCKER_LIST.into();
    let within = entry(&registry, &list);
    let untouched = entry(&registry, &index(&[&windows]));
    let top = index(&[&amd64, &within, &attestation(&registry, &arm64), &untouched]);
    let original = registry.push_manifest(REPOSITORY, "nested", &top);
    let reference = registry.reference("team/app:nested");

    let attached = registry.run(&["convert", "--json", &reference]).json();
    assert_eq!(attached["images"].as_array().unwrap().len(), 2, "each image once");
    assert_eq!(registry.run(&["verify", &reference]).succeeded().stdout.matches("verified:").count(), 2);

    registry.run(&["convert", "--mode", "replace", "--platform", "linux/arm64", &reference]).succeeded();
    let replaced = registry.manifest(REPOSITORY, "nested").unwrap();
    let below = |parent: &Value, at: usize| {
        registry.manifest(REPOSITORY, text(&parent["manifests"][at]["digest"])).unwrap()
    };
    assert_eq!(replaced["manifests"][0], amd64, "another platform");
    assert_eq!(replaced["manifests"][3], untouched);
    let new_within = below(&replaced, 1);
    assert_eq!(new_within["mediaType"], OCI_INDEX);
    assert_eq!(new_within["manifests"][1], amd64);
    let new_deepest = below(&new_within, 0);
    assert_eq!(new_deepest["manifests"][1], windows);
    let new_arm64 = &new_deepest["manifests"][0];
    assert_ne!(new_arm64["digest"], arm64["digest"]);
    assert_eq!(new_arm64["platform"], arm64["platform"]);
    let attests = &replaced["manifests"][2]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(attests, &new_arm64["digest"], "an attestation follows its manifest to any depth");
    assert_eq!(replaced["annotations"]["dev.jaunt.original-manifest"], original.to_string());

    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    assert_eq!(registry.run(&["verify", &reference]).succeeded().stdout.matches("verified:").count(), 2);
    let again = registry.run(&["convert", "--mode", "replace", &reference]);
    assert!(again.succeeded().stdout.contains("already replaced"), "{again:?}");
}

#[test]
fn an_image_that_cannot_be_converted_stays_as_it_is_with_a_reason() {
    let Some(registry) = Registry::start() else { return };
    let odd = |media_type: &str| {
        let mut image = registry.image(REPOSITORY, &[layer("base"), layer(media_type)], "linux");
        image["layers"][1]["mediaType"] = json!(media_type);
        image
    };
    let cases = [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "may not be distributed"),
        ("application/vnd.oci.image.layer.nydus.blob.v1", "unknown media type"),
        ("application/vnd.in-toto+json", "unknown media type"),
    ];
    let good = entry(&registry, &registry.image(REPOSITORY, &[layer("good")], "linux"));
    let mut entries = vec![good.clone()];
    for (number, (media_type, reason)) in cases.iter().enumerate() {
        let image = odd(media_type);
        entries.push(entry(&registry, &image));
        registry.push_manifest(REPOSITORY, &format!("odd{number}"), &image);
        let reference = registry.reference(&format!("team/app:odd{number}"));
        for mode in ["attach", "replace"] {
            let run = registry.run(&["convert", "--json", "--mode", mode, &reference]);
            assert!(run.stderr.contains("nothing to convert"), "{run:?}");
            let document = run.json();
            assert!(text(&document["skipped"][0]["reason"]).contains(reason), "{document}");
            assert_eq!(document["skipped"][0]["digest"], entries[number + 1]["digest"]);
        }
        assert_eq!(registry.manifest(REPOSITORY, &format!("odd{number}")).unwrap(), image);
    }
    // Beside an image that can be, in an index.
    let top = index(&entries.iter().collect::<Vec<_>>());
    registry.push_manifest(REPOSITORY, "mixed", &top);
    let reference = registry.reference("team/app:mixed");
    let document = registry.run(&["convert", "--json", "--mode", "replace", &reference]).json();
    assert_eq!(document["skipped"].as_array().unwrap().len(), cases.len());
    let after = registry.manifest(REPOSITORY, "mixed").unwrap();
    assert_ne!(after["manifests"][0], good);
    assert_eq!(after["manifests"].as_array().unwrap()[1..], entries[1..]);
}

#[test]
fn what_an_index_names_that_is_no_image_is_skipped() {
    let Some(registry) = Registry::start() else { return };
    let good = entry(&registry, &registry.image(REPOSITORY, &[layer("good")], "linux"));
    let blob = registry.push_blob(REPOSITORY, b"wasm".to_vec());
    let empty = registry.push_blob(REPOSITORY, b"{}".to_vec());
    let artifact = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x-thing",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2 }, "layers": [] });
    let artifact = entry(&registry, &artifact);
    let wasm = json!({ "mediaType": "application/wasm", "digest": blob, "size": 4 });
    let top = index(&[&artifact, &good, &wasm]);
    registry.push_manifest(REPOSITORY, "things", &top);
    let reference = registry.reference("team/app:things");
    let document = registry.run(&["convert", "--mode", "replace", "--json", &reference]).json();
    let reasons: Vec<_> =
        document["skipped"].as_array().unwrap().iter().map(|skipped| text(&skipped["reason"])).collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons.iter().any(|reason| reason.contains("application/x-thing")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("application/wasm")), "{reasons:?}");
    let after = registry.manifest(REPOSITORY, "things").unwrap();
    assert_eq!((&after["manifests"][0], &after["manifests"][2]), (&artifact, &wasm));
}

#[test]
fn layers_with_nothing_in_them_and_layers_twice_are_converted() {
    let Some(registry) = Registry::start() else { return };
    let no_bytes = Layer { blob: Vec::new(), ..Layer::gzip(&[]) };
    let plain_nothing = Layer { media_type: OCI_TAR, ..no_bytes.clone() };
    let empty_tar = Layer::gzip(&[0; 1024]);
    let full = layer("full");
    let layers = [empty_tar.clone(), full.clone(), no_bytes, empty_tar, full, plain_nothing];
    for (tag, mode) in [("attach", "attach"), ("replace", "replace")] {
        registry.push_image(REPOSITORY, tag, &layers);
        let reference = registry.reference(&format!("team/app:{tag}"));
        registry.run(&["convert", "--mode", mode, &reference]).succeeded();
        registry.run(&["verify", &reference]).succeeded();
    }
    assert_eq!(registry.manifest(REPOSITORY, "replace").unwrap()["layers"].as_array().unwrap().len(), 6);
}

#[test]
fn what_descriptors_have_beside_a_digest_is_understood_or_kept() {
    let Some(registry) = Registry::start() else { return };
    let mut image = registry.image(REPOSITORY, &[layer("f")], "linux");
    image["layers"][0]["urls"] = json!([]);
    image["config"]["data"] = json!("e30=");
    image["config"]["annotations"] = json!({ "a": "b" });
    image["annotations"] = json!(null);
    registry.push_manifest(REPOSITORY, "v1", &image);
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let after = registry.manifest(REPOSITORY, "v1").unwrap();
    assert_eq!(after["config"], image["config"]);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn hostile_indexes_are_refused() {
    let Some(registry) = Registry::start() else { return };
    let image = entry(&registry, &registry.image(REPOSITORY, &[layer("f")], "linux"));
    let mut deep = index(&[&image]);
    for _ in 0..9 {
        deep = index(&[&entry(&registry, &deep)]);
    }
    registry.push_manifest(REPOSITORY, "deep", &deep);
    let run = registry.run(&["convert", &registry.reference("team/app:deep")]);
    assert!(run.failed().contains("indexes more than 8 deep"), "{run:?}");

    registry.push_manifest(REPOSITORY, "wide", &index(&vec![&image; 4097]));
    let run = registry.run(&["convert", &registry.reference("team/app:wide")]);
    assert!(run.failed().contains("more than 4096 manifests"), "{run:?}");
}
