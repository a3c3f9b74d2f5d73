//! Converting, finding it done, verifying and inspecting.

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, Registry, noise, run, tar};

const REPOSITORY: &str = "team/app";

/// Three layers, one of each compression, with a whiteout and a large file.
fn layers() -> Vec<Layer> {
    let base = tar(&[
        ("usr/", b""),
        ("usr/old", b"old"),
        ("usr/big", &noise(1_500_000, 1)),
        ("usr/text", &b"abc ".repeat(200_000)),
    ]);
    let middle = tar(&[("usr/", b""), ("usr/.wh.old", b""), ("usr/new", b"new")]);
    let top = tar(&[("app/", b""), ("app/main", &noise(10_000, 2))]);
    vec![Layer::gzip(&base), Layer::zstd(&middle), Layer::plain(&top)]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn an_image_is_converted_verified_and_inspected() {
    let Some(registry) = Registry::start() else { return };
    let layers = layers();
    let subject = registry.push_image(REPOSITORY, "v1", &layers);
    let before = registry.manifest(REPOSITORY, "v1");
    let reference = registry.reference("team/app:v1");

    let converted = registry.run(&["convert", "--json", &reference]).json();
    assert_eq!(converted["images"][0]["status"], "converted");
    assert_eq!(converted["layers_converted"], 3);
    assert_eq!(registry.manifest(REPOSITORY, "v1"), before, "the image is untouched");

    // The artifact, under our own tag and among the referrers.
    let tag = format!("sha256-{}", subject.hex());
    let artifact = registry.manifest(REPOSITORY, &format!("{tag}.jaunt")).unwrap();
    assert_eq!(artifact["artifactType"], "application/vnd.jaunt.launch.v1");
    assert_eq!(artifact["subject"]["digest"], subject.to_string());
    assert_eq!(artifact["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    assert_eq!(artifact["layers"][0]["mediaType"], "application/vnd.jaunt.launch.index.v1");
    let listed = registry.manifest(REPOSITORY, &tag).unwrap();
    assert_eq!(listed["manifests"][0]["digest"], converted["images"][0]["artifact"]);
    assert_eq!(listed["manifests"][0]["artifactType"], "application/vnd.jaunt.launch.v1");

    // Converted blobs are ordinary zstd layers of the same tars.
    for (layer, named) in layers.iter().zip(artifact["layers"].as_array().unwrap().iter().skip(1)) {
        assert_eq!(named["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        let annotations = &named["annotations"];
        assert_eq!(annotations["dev.jaunt.original-digest"], Digest::of(&layer.blob).to_string());
        assert!(annotations["io.github.containers.zstd-chunked.manifest-checksum"].is_string());
        let blob = registry.blob(REPOSITORY, text(&named["digest"]));
        assert_eq!(Digest::of(&zstd::decode_all(blob.as_slice()).unwrap()), layer.diff_id);
    }

    assert!(registry.run(&["verify", &reference]).succeeded().stdout.contains("verified: linux/amd64"));
    let inspected = registry.run(&["inspect", "--json", &reference]).json();
    assert_eq!(inspected["images"][0]["artifact"], converted["images"][0]["artifact"]);
    assert_eq!(inspected["images"][0]["layers"].as_array().unwrap().len(), 3);
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("zstd:chunked"));
}

#[test]
fn every_converted_layer_says_by_what_recipe_it_was_made() {
    let Some(registry) = Registry::start() else { return };
    let reference = registry.reference("team/app:v1");
    for (level, mode) in [(3, "attach"), (9, "attach"), (3, "replace"), (9, "replace")] {
        let subject = registry.push_image(REPOSITORY, "v1", &layers());
        registry.run(&["convert", "--level", &level.to_string(), "--mode", mode, &reference]).succeeded();
        let recipe = format!(
            "zstd:chunked+seekable v2, frames 512KiB, small ones from level 6, level {level}, libzstd 1.5.7"
        );
        let artifact = registry.manifest(REPOSITORY, &format!("sha256-{}.jaunt", subject.hex())).unwrap();
        let mut blobs = artifact["layers"].as_array().unwrap()[1..].to_vec();
        assert_eq!(blobs.len(), layers().len());
        if mode == "replace" {
            blobs.extend(registry.manifest(REPOSITORY, "v1").unwrap()["layers"].as_array().unwrap().clone());
            assert_eq!(blobs.len(), 2 * layers().len());
        }
        for blob in blobs {
            assert_eq!(blob["annotations"]["dev.jaunt.recipe"], recipe, "{mode}");
        }
    }
}

#[test]
fn a_second_run_finds_the_work_done() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let first = registry.run(&["convert", "--json", &reference]).json();
    let blobs = registry.blob_count();

    let second = registry.run(&["convert", &reference]);
    assert!(second.succeeded().stdout.contains("already converted"), "{second:?}");
    assert_eq!(registry.blob_count(), blobs);

    // Another recipe is another conversion, which the tag then names; undoing it gives the first again.
    let other = registry.run(&["convert", "--json", "--level", "9", &reference]).json();
    assert_ne!(other["images"][0]["artifact"], first["images"][0]["artifact"]);
    let back = registry.run(&["convert", "--json", &reference]).json();
    assert_eq!(back["images"][0]["status"], "converted");
    assert_eq!(back["images"][0]["artifact"], first["images"][0]["artifact"], "bit for bit the same");
}

#[test]
fn a_half_finished_conversion_is_completed() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let first = registry.run(&["convert", "--json", &reference]).json();
    let blob = text(&first["images"][0]["layers"][0]["converted"]).to_owned();
    // As after a garbage collection: the artifact is there, one of its blobs is not.
    std::fs::remove_file(registry.blob_file(&blob)).unwrap();
    let second = registry.run(&["convert", "--json", &reference]).json();
    assert_eq!(second["images"][0]["status"], "converted");
    assert_eq!(second["images"][0]["artifact"], first["images"][0]["artifact"]);
    let listed = registry.manifest(REPOSITORY, &format!("sha256-{}", subject.hex())).unwrap();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 1, "listed once");
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn a_conversion_that_lacks_only_its_tag_gets_it() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", &reference]).succeeded();
    let tag = format!("sha256-{}.jaunt", subject.hex());
    registry.delete_tag(REPOSITORY, &tag);
    assert!(registry.manifest(REPOSITORY, &tag).is_none());
    assert!(registry.run(&["convert", &reference]).succeeded().stdout.contains("already converted"));
    assert!(registry.manifest(REPOSITORY, &tag).is_some());
}

#[test]
fn images_of_docker_schema_2_are_converted() {
    let Some(registry) = Registry::start() else { return };
    let mut image = registry.image(REPOSITORY, &[Layer::gzip(&tar(&[("f", b"docker")]))], "linux");
    image["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    image["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    image["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    let subject = registry.push_manifest(REPOSITORY, "docker", &image);
    let reference = registry.reference("team/app:docker");
    registry.run(&["convert", &reference]).succeeded();
    let artifact = registry.manifest(REPOSITORY, &format!("sha256-{}.jaunt", subject.hex())).unwrap();
    assert_eq!(artifact["subject"]["mediaType"], image["mediaType"]);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn every_linux_image_of_an_index_is_converted_and_the_rest_skipped() {
    let Some(registry) = Registry::start() else { return };
    let shared = Layer::gzip(&tar(&[("shared", b"shared")]));
    let own = |name: &str| Layer::gzip(&tar(&[(name, b"own")]));
    let push = |layers: &[Layer], os: &str| {
        let manifest = registry.image(REPOSITORY, layers, os);
        let size = serde_json::to_vec(&manifest).unwrap().len();
        let digest = Digest::of(&serde_json::to_vec(&manifest).unwrap());
        registry.push_manifest(REPOSITORY, &digest.to_string(), &manifest);
        (digest, size)
    };
    let entry = |(digest, size): (Digest, usize), os: &str, architecture: &str| {
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": { "os": os, "architecture": architecture } })
    };
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        entry(push(&[shared.clone(), own("a")], "linux"), "linux", "amd64"),
        entry(push(&[shared.clone(), own("b"), shared.clone()], "linux"), "linux", "arm64"),
        entry(push(&[own("w")], "windows"), "windows", "amd64"),
        entry(push(&[own("t")], "linux"), "unknown", "unknown"),
    ]});
    registry.push_manifest(REPOSITORY, "multi", &index);
    let reference = registry.reference("team/app:multi");

    let only = registry.run(&["convert", "--json", "--platform", "linux/arm64", &reference]).json();
    assert_eq!(only["images"].as_array().unwrap().len(), 1);
    assert_eq!(only["layers_converted"], 2, "the shared layer is converted once");

    let all = registry.run(&["convert", "--json", &reference]);
    assert!(all.stderr.contains("a windows image"), "{all:?}");
    let all = all.json();
    let statuses: Vec<_> =
        all["images"].as_array().unwrap().iter().map(|image| text(&image["status"])).collect();
    assert_eq!(statuses, ["converted", "already converted"]);
    assert_eq!(all["skipped"].as_array().unwrap().len(), 2);
    assert!(registry.run(&["verify", &reference]).succeeded().stdout.matches("verified:").count() == 2);
    let none = registry.run(&["convert", "--platform", "linux/s390x", &reference]);
    assert!(none.failed().contains("platform linux/amd64 is not wanted"));
}

#[test]
fn a_copy_is_made_and_converted_elsewhere() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let (from, to) = (registry.reference("team/app:v1"), registry.reference("lazy/app:v1"));
    registry.run(&["convert", "--to", &to, &from]).succeeded();
    assert_eq!(registry.manifest("lazy/app", "v1"), registry.manifest(REPOSITORY, "v1"));
    let tag = format!("sha256-{}.jaunt", subject.hex());
    assert!(registry.manifest(REPOSITORY, &tag).is_none() && registry.manifest("lazy/app", &tag).is_some());
    registry.run(&["verify", &to]).succeeded();

    let Some(other) = Registry::start() else { return };
    let abroad = other.reference("lazy/app:v1");
    registry.run(&["convert", "--to", &abroad, &from]).succeeded();
    other.run(&["verify", &abroad]).succeeded();
}

#[test]
fn empty_layers_and_layers_with_a_path_twice_convert_too() {
    let Some(registry) = Registry::start() else { return };
    let twice = tar(&[("f", b"one"), ("f", b"two")]);
    let layers = [Layer::gzip(&[0; 1024]), Layer::gzip(&twice), Layer::plain(&[])];
    registry.push_image(REPOSITORY, "odd", &layers);
    let reference = registry.reference("team/app:odd");
    let converted = registry.run(&["convert", "--json", &reference]).json();
    let chunked: Vec<_> =
        converted["images"][0]["layers"].as_array().unwrap().iter().map(|l| &l["zstd_chunked"]).collect();
    assert_eq!(chunked, [&json!(true), &json!(false), &json!(true)]);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let artifact = |jobs: &str, threads: &str| {
        let copy = registry.reference(&format!("copy-{jobs}-{threads}/app:v1"));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"))
            .args(["convert", "--json", "--concurrency", jobs, "--to", &copy, &reference])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        text(&document["images"][0]["artifact"]).to_owned()
    };
    assert_eq!(artifact("1", "1"), artifact("3", "5"));
}

#[test]
fn usage_errors_have_their_own_exit_code() {
    assert_eq!(run(&["convert"]).code, Some(2));
    assert_eq!(run(&["convert", "h.example/UPPER"]).code, Some(2));
    assert_eq!(run(&["convert", "--mode", "merge", "h.example/a"]).code, Some(2));
    assert_eq!(run(&["--help"]).code, Some(0));
}
