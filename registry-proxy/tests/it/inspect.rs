//! What `inspect` tells of images and of files.

use std::fs;
use std::path::{Path, PathBuf};

use jaunt_formats::Digest;
use jaunt_formats::launch::unpack;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_ZSTD, Registry, noise, run, tar};

const REPOSITORY: &str = "team/app";

fn layer(name: &str, seed: u64) -> Layer {
    Layer::gzip(&tar(&[("usr/", b""), (name, &noise(200_000, seed)), ("usr/text", &b"abc ".repeat(20_000))]))
}

fn len(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

fn key(name: &str) -> String {
    let testdata = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../formats/src/cosign/testdata");
    testdata.join(name).display().to_string()
}

fn chunked_by_skopeo() -> Vec<u8> {
    let testdata = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../formats/testdata");
    fs::read(testdata.join("zstd-chunked-by-skopeo-1.22.tar.zst")).unwrap()
}

/// Pushes an index of two images that have a layer in common; its layers.
fn push_two_platforms(registry: &Registry) -> [Layer; 3] {
    let layers = [layer("shared", 1), layer("a", 2), layer("b", 3)];
    let [shared, a, b] = layers.clone();
    let entry = |layers: &[Layer], architecture: &str| {
        let manifest = registry.image(REPOSITORY, layers, "linux");
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &manifest);
        json!({ "mediaType": manifest["mediaType"], "digest": digest, "size": bytes.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let manifests = [entry(&[shared.clone(), a], "amd64"), entry(&[shared, b], "arm64")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    registry.push_manifest(REPOSITORY, "v1", &index);
    layers
}

/// Lengths of the converted layers and of the indexes in a document, each blob once.
fn converted_and_indexes(document: &Value) -> (u64, u64) {
    let mut converted = std::collections::BTreeMap::new();
    let mut indexes = std::collections::BTreeMap::new();
    for image in document["images"].as_array().unwrap() {
        indexes.insert(image["index"]["digest"].as_str(), image["index"]["bytes"].as_u64().unwrap());
        for layer in image["layers"].as_array().unwrap() {
            converted.insert(layer["converted"].as_str(), layer["converted_bytes"].as_u64().unwrap());
        }
    }
    assert_eq!((converted.len(), indexes.len()), (3, 2));
    (converted.values().sum(), indexes.values().sum())
}

#[test]
fn an_attached_conversion_is_told_with_what_it_adds_over_all_platforms() {
    let Some(registry) = Registry::start() else { return };
    let originals: u64 = push_two_platforms(&registry).iter().map(|layer| len(&layer.blob)).sum();
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--sign-key", &key("pkcs8.pem"), &reference]).succeeded();
    let document = registry.run(&["inspect", "--json", &reference]).json();
    let (converted, indexes) = converted_and_indexes(&document);
    let want = json!({ "image_bytes": originals, "index_bytes": indexes, "attached_bytes": converted,
                       "original_bytes": 0, "added_bytes": converted + indexes });
    assert_eq!(document["storage"], want);
    let image = &document["images"][0];
    assert_eq!((&image["mode"], &image["original_tag"]), (&json!("attached"), &Value::Null));
    let tag = image["artifact"].as_str().unwrap().replace(':', "-");
    assert_eq!(image["signed"], json!({ "artifact": format!("tag {tag}.sig"), "image": null }));
    let readers = json!({ "jaunt": true, "podman_layers": 0, "seekable_layers": 2, "layers": 2, "eager_needs_zstd": false });
    assert_eq!(image["readers"], readers);
    let entries = image["index"]["entries"].as_u64().unwrap();
    assert!(entries > 0 && image["index"]["bytes_per_entry"].as_f64().unwrap() > 1.0, "{image}");
    assert_eq!(image["layers"][0]["original_compression"], "gzip");
    assert_eq!(image["layers"][0]["converted_compression"], "zstd");

    let text = registry.run(&["inspect", &reference]).succeeded().stdout.clone();
    for want in [
        "converted, attached",
        "signed    image: no",
        "B an entry",
        "zstd:chunked, seek table",
        "eager     any runtime\n",
        "converted layers beside them",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    // A layer that a registry has lost is named.
    let lost = image["layers"][1]["converted"].as_str().unwrap();
    fs::remove_file(registry.blob_file(lost)).unwrap();
    let after = registry.run(&["inspect", "--json", &reference]).json();
    let present = |layer: usize| after["images"][0]["layers"][layer]["present"].clone();
    assert_eq!((present(0), present(1)), (json!(true), json!(false)));
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("MISSING"));
}

#[test]
fn a_replaced_image_is_told_with_what_its_original_still_holds() {
    let Some(registry) = Registry::start() else { return };
    let originals: u64 = push_two_platforms(&registry).iter().map(|layer| len(&layer.blob)).sum();
    let reference = registry.reference("team/app:v1");
    let replaced = registry.run(&["convert", "--json", "--mode", "replace", &reference]).json();
    let document = registry.run(&["inspect", "--json", &reference]).json();
    let (converted, indexes) = converted_and_indexes(&document);
    let want = json!({ "image_bytes": converted, "index_bytes": indexes, "attached_bytes": 0,
                       "original_bytes": originals, "added_bytes": converted + indexes });
    assert_eq!(document["storage"], want);
    let (image, tag) = (&document["images"][0], &replaced["replaced"]["original_tag"]);
    assert_eq!((&image["mode"], &image["original_tag"]), (&json!("replaced"), tag));
    assert_eq!(image["original"], replaced["images"][0]["manifest"]);
    let readers = json!({ "jaunt": true, "podman_layers": 2, "seekable_layers": 2, "layers": 2, "eager_needs_zstd": true });
    assert_eq!(image["readers"], readers);

    registry.delete_tag(REPOSITORY, tag.as_str().unwrap());
    let after = registry.run(&["inspect", "--json", &reference]).json();
    assert_eq!(
        (&after["images"][0]["original_kept"], &after["storage"]["original_bytes"]),
        (&json!(false), &json!(0))
    );
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("which is gone"));
}

#[test]
fn an_image_that_is_not_converted_says_whether_it_is_lazy_as_it_is() {
    let Some(registry) = Registry::start() else { return };
    let blob = chunked_by_skopeo();
    let chunked = Layer { media_type: OCI_ZSTD, diff_id: Digest::of(b"tar"), blob };
    let mut image = registry.image(REPOSITORY, &[chunked, layer("f", 1)], "linux");
    let annotations = json!({
        "io.github.containers.zstd-chunked.manifest-checksum": "sha256:3d76ebb6b30c55354371b90d147a4b2a4e655eb753d5c18f891add10c786cf11",
        "io.github.containers.zstd-chunked.manifest-position": "37196:1897:7544:1",
        "io.github.containers.zstd-chunked.tarsplit-position": "39101:1831:44102",
    });
    image["layers"][0]["annotations"] = annotations;
    registry.push_manifest(REPOSITORY, "mixed", &image);
    let reference = registry.reference("team/app:mixed");
    let mixed = registry.run(&["inspect", "--json", &reference]).json();
    let readers = json!({ "jaunt": false, "podman_layers": 1, "seekable_layers": 0, "layers": 2, "eager_needs_zstd": true });
    assert_eq!(mixed["images"][0]["readers"], readers);
    assert_eq!(
        (&mixed["images"][0]["mode"], &mixed["images"][0]["artifact"]),
        (&json!("not_converted"), &Value::Null)
    );

    // Without the other layer, and with a config that names one diffID.
    image["layers"].as_array_mut().unwrap().pop();
    let config = json!({ "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"tar")] } });
    let bytes = serde_json::to_vec(&config).unwrap();
    image["config"]["size"] = bytes.len().into();
    image["config"]["digest"] = registry.push_blob(REPOSITORY, bytes).to_string().into();
    registry.push_manifest(REPOSITORY, "lazy", &image);
    let reference = registry.reference("team/app:lazy");
    let text = registry.run(&["inspect", &reference]).succeeded().stdout.clone();
    assert!(
        text.contains("not converted") && text.contains("Jaunt, as it is: every layer is zstd:chunked"),
        "{text}"
    );
    let lazy = registry.run(&["inspect", "--json", &reference]).json();
    assert_eq!(lazy["images"][0]["readers"]["jaunt"], true);
    assert_eq!(lazy["storage"]["added_bytes"], 0);

    // Positions outside of the blob are no use to anybody.
    image["layers"][0]["annotations"]["io.github.containers.zstd-chunked.manifest-position"] =
        "999999999:1897:7544:1".into();
    registry.push_manifest(REPOSITORY, "lie", &image);
    let lie = registry.run(&["inspect", "--json", &registry.reference("team/app:lie")]).json();
    assert_eq!(lie["images"][0]["readers"]["jaunt"], false);
}

#[test]
fn files_that_a_conversion_makes_are_told_apart() {
    let Some(registry) = Registry::start() else { return };
    // A name twice keeps the second layer from having a table of contents.
    let twice = Layer::gzip(&tar(&[("f", b"one"), ("f", b"two")]));
    registry.push_image(REPOSITORY, "v1", &[layer("f", 1), twice]);
    let converted = registry.run(&["convert", "--json", &registry.reference("team/app:v1")]).json();
    let image = &converted["images"][0];
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(directory.path().join(name), bytes).unwrap();
        directory.path().join(name).display().to_string()
    };
    let blob = |digest: &Value| registry.blob(REPOSITORY, digest.as_str().unwrap());

    let packed = blob(&image["index"]["digest"]);
    let raw = unpack(&packed).unwrap();
    for (name, bytes) in [("packed", &packed), ("raw", &raw)] {
        let path = write(name, bytes);
        let found = run(&["inspect", "--json", &path]).json();
        assert_eq!((&found["kind"], &found["packed"]), (&json!("launch_index"), &json!(name == "packed")));
        assert_eq!((&found["bytes"], &found["unpacked_bytes"]), (&json!(bytes.len()), &json!(raw.len())));
        assert_eq!(found["layers"][0]["converted"], image["layers"][0]["converted"]);
        assert!(found["layers"][0].get("present").is_none(), "a file does not know");
        assert!(run(&["inspect", &path]).succeeded().stdout.contains("a launch index, "));
    }

    let layer = blob(&image["layers"][0]["converted"]);
    let path = write("layer", &layer);
    let found = run(&["inspect", "--json", &path]).json();
    assert_eq!((&found["kind"], &found["digest"]), (&json!("layer"), &image["layers"][0]["converted"]));
    assert_eq!(found["toc"]["entries"], image["layers"][0]["entries"]);
    assert_eq!(found["lazy"]["tar_bytes"], image["layers"][0]["tar_bytes"]);
    assert_eq!(found["seek_table"]["decompressed_bytes"], image["layers"][0]["tar_bytes"]);
    assert!(run(&["inspect", &path]).succeeded().stdout.contains("zstd:chunked"));

    let found = run(&["inspect", "--json", &write("twice", &blob(&image["layers"][1]["converted"]))]).json();
    assert_eq!(
        (&found["toc"], &found["lazy"], &found["not_lazy"]),
        (&Value::Null, &Value::Null, &json!("it has none"))
    );
    assert!(found["seek_table"]["frames"].as_u64().unwrap() > 0);

    let found = run(&["inspect", "--json", &write("skopeo", &chunked_by_skopeo())]).json();
    assert_eq!((&found["seek_table"], &found["lazy"]["tar_bytes"]), (&Value::Null, &json!(4_659_200)));
}

#[test]
fn files_that_are_none_of_these_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("empty", Vec::new(), "it is empty"),
        ("tar", tar(&[("f", b"f")]), "starts as none of them"),
        ("gzip", layer("f", 1).blob, "it is gzip"),
        ("zstd", zstd::encode_all(&b"text"[..], 1).unwrap(), "another kind of file, or cut short"),
        ("cut", chunked_by_skopeo()[..30_000].to_vec(), "another kind of file, or cut short"),
        ("index", b"JAUNTIDX and no more".to_vec(), "damaged launch index"),
        ("noise", noise(5000, 7), "starts as none of them"),
    ];
    for (name, bytes, reason) in cases {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        let refused = run(&["inspect", &path.display().to_string()]);
        let error = refused.failed();
        assert!(error.contains(reason) && error.contains(name), "{name}: {error}");
    }
    let is_directory = run(&["inspect", &directory.path().display().to_string()]);
    assert!(is_directory.failed().contains("not a regular file"), "{is_directory:?}");
    let missing = run(&["inspect", "./is-not-there"]);
    assert!(
        !Path::new("./is-not-there").exists() && missing.failed().contains("./is-not-there: "),
        "{missing:?}"
    );
}
