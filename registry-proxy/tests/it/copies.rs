//! `copy`: the image and all that refers to it, wherever it goes.

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, run, tar};

const FROM: &str = "team/app";
const TO: &str = "copy/app";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn layers(name: &str) -> Vec<Layer> {
    vec![Layer::gzip(&tar(&[("usr/", b""), (name, name.as_bytes())])), Layer::plain(&tar(&[("b", b"b")]))]
}

fn tag(digest: &Digest, suffix: &str) -> String {
    format!("sha256-{}{suffix}", digest.hex())
}

/// Pushes an artifact that refers to `subject`, and lists it as a pusher does.
fn refer(registry: &Registry, subject: &Digest, kind: &str) -> Digest {
    let (empty, size) = (registry.push_blob(FROM, b"{}".to_vec()), 2);
    let content = registry.push_blob(FROM, kind.as_bytes().to_vec());
    let artifact = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
        "config": { "mediaType": EMPTY, "digest": empty, "size": size },
        "layers": [{ "mediaType": kind, "digest": content, "size": kind.len() }],
        "subject": { "mediaType": OCI_MANIFEST, "digest": subject, "size": 1 },
        "annotations": { "made": "by hand" } });
    let bytes = serde_json::to_vec(&artifact).unwrap();
    let digest = registry.push_manifest(FROM, &Digest::of(&bytes).to_string(), &artifact);
    let listed =
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(), "artifactType": kind });
    let mut list = registry
        .manifest(FROM, &tag(subject, ""))
        .unwrap_or_else(|| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }));
    list["manifests"].as_array_mut().unwrap().push(listed);
    registry.push_manifest(FROM, &tag(subject, ""), &list);
    digest
}

/// An index of two images in `FROM`, one converted, with referrers of referrers and cosign's tags.
struct Furnished {
    top: Digest,
    image: Digest,
    sbom: Digest,
    signature_of_sbom: Digest,
    artifact: Digest,
}

fn furnish(registry: &Registry) -> Furnished {
    let entry = |name: &str, architecture: &str| {
        let manifest = registry.image(FROM, &layers(name), "linux");
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = registry.push_manifest(FROM, &Digest::of(&bytes).to_string(), &manifest);
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let entries = [entry("a", "amd64"), entry("b", "arm64")];
    let image = entries[0]["digest"].as_str().unwrap().parse().unwrap();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let top = registry.push_manifest(FROM, "v1", &index);
    let reference = registry.reference("team/app:v1");
    let converted = registry.run(&["convert", "--json", "--platform", "linux/amd64", &reference]).json();
    let artifact: Digest = converted["images"][0]["artifact"].as_str().unwrap().parse().unwrap();
    let sbom = refer(registry, &image, "application/x-sbom");
    let signature_of_sbom = refer(registry, &sbom, "application/x-signature");
    registry.push_image(FROM, &tag(&top, ".sig"), &layers("signature"));
    registry.push_image(FROM, &tag(&image, ".att"), &layers("attestation"));
    registry.push_image(FROM, &tag(&artifact, ".sig"), &layers("signature of the artifact"));
    registry.push_image(FROM, &tag(&top, ".original"), &layers("kept"));
    registry.push_image(FROM, "v2", &layers("another"));
    Furnished { top, image, sbom, signature_of_sbom, artifact }
}

fn check(registry: &Registry, source: &Registry, repository: &str, furnished: &Furnished) {
    let Furnished { top, image, sbom, signature_of_sbom, artifact } = furnished;
    let mut tags = vec![
        "v9".to_owned(),
        tag(top, ".sig"),
        tag(image, ""),
        tag(image, ".jaunt"),
        tag(image, ".att"),
        tag(sbom, ""),
        tag(artifact, ".sig"),
    ];
    tags.sort();
    assert_eq!(registry.tags(repository), tags, "what belongs to the image, and nothing else");
    assert_eq!(registry.manifest(repository, "v9"), source.manifest(FROM, "v1"));
    for name in tags.iter().filter(|name| *name != "v9" && name.contains('.')) {
        assert_eq!(registry.manifest(repository, name), source.manifest(FROM, name), "{name}");
    }
    let listed = |subject: &Digest| {
        let list = registry.manifest(repository, &tag(subject, "")).unwrap();
        let mut listed: Vec<_> = list["manifests"].as_array().unwrap().clone();
        listed.sort_by_key(|entry| entry["digest"].to_string());
        listed
    };
    let digests = |listed: &[Value]| {
        listed.iter().map(|entry| entry["digest"].as_str().unwrap().parse().unwrap()).collect::<Vec<Digest>>()
    };
    let mut both = vec![*artifact, *sbom];
    both.sort();
    assert_eq!(digests(&listed(image)), both);
    assert_eq!(digests(&listed(sbom)), [*signature_of_sbom]);
    assert_eq!(listed(sbom)[0]["artifactType"], "application/x-signature");
    assert_eq!(listed(sbom)[0]["annotations"]["made"], "by hand");
    registry
        .run(&["verify", "--platform", "linux/amd64", &registry.reference(&format!("{repository}:v9"))])
        .succeeded();
}

#[test]
fn everything_goes_along_between_registries_and_layouts() {
    let (Some(one), Some(other)) = (Registry::start(), Registry::start()) else { return };
    let furnished = furnish(&one);
    let from = one.reference("team/app:v1");
    // In one registry, blobs are mounted.
    let within = one.reference("copy/app:v9");
    let document = one.run(&["copy", "--json", &from, &within]).json();
    assert_eq!(document["bytes_moved"], 0, "{document}");
    assert_eq!(document["manifest"], furnished.top.to_string());
    check(&one, &one, TO, &furnished);

    // To another, in one step and over a layout.
    let abroad = other.reference("copy/app:v9");
    let document = one.run(&["copy", "--json", &from, &abroad]).json();
    assert!(document["bytes_moved"].as_u64().unwrap() > 1000, "{document}");
    check(&other, &one, TO, &furnished);
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v9", directory.path().join("layout").display());
    one.run(&["copy", &from, &layout]).succeeded();
    one.run(&["verify", "--platform", "linux/amd64", &layout]).succeeded();
    let back = other.reference("back/app:v9");
    one.run(&["copy", &layout, &back]).succeeded();
    check(&other, &one, "back/app", &furnished);

    // Again, nothing is to do.
    let blobs = other.blob_count();
    let document = one.run(&["copy", "--json", &from, &abroad]).json();
    assert_eq!((&document["bytes_moved"], &document["left_alone"]), (&json!(0), &json!([])));
    assert_eq!(other.blob_count(), blobs);
    check(&other, &one, TO, &furnished);
}

#[test]
fn signatures_that_the_source_does_not_have_are_not_lost() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(FROM, "v1", &layers("a"));
    let (from, to) = (registry.reference("team/app:v1"), registry.reference("copy/app:v1"));
    let signature = tag(&subject, ".sig");
    let [one, two, three] = ["one", "two", "three"].map(|name| layers(name)[0].clone());
    registry.push_image(FROM, &signature, std::slice::from_ref(&one));
    registry.run(&["copy", &from, &to]).succeeded();
    // Signed again at the source, it is signed again at the target.
    registry.push_image(FROM, &signature, &[one.clone(), two.clone()]);
    registry.run(&["copy", &from, &to]).succeeded();
    assert_eq!(registry.manifest(TO, &signature), registry.manifest(FROM, &signature));
    // Signed by others there: theirs is left alone, and that is said.
    registry.push_image(TO, &signature, &[two, three]);
    let theirs = registry.manifest(TO, &signature);
    let run = registry.run(&["copy", "--json", &from, &to]);
    assert!(run.stderr.contains(&format!("left alone: tag {signature}")), "{run:?}");
    assert_eq!(run.json()["left_alone"], json!([signature]));
    assert_eq!(registry.manifest(TO, &signature), theirs);
}

#[test]
fn a_tag_of_the_same_repository_is_all_that_is_written() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(FROM, "v1", &layers("a"));
    let blobs = registry.blob_count();
    let (from, to) = (registry.reference("team/app:v1"), registry.reference("team/app:v2"));
    registry.run(&["copy", &from, &to]).succeeded();
    assert_eq!(registry.manifest(FROM, "v2"), registry.manifest(FROM, "v1"));
    assert_eq!((registry.tags(FROM), registry.blob_count()), (vec!["v1".to_owned(), "v2".to_owned()], blobs));
}

#[test]
fn what_is_missing_at_the_source_ends_a_copy_or_is_named() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(FROM, "v1", &layers("a"));
    let (from, to) = (registry.reference("team/app:v1"), registry.reference("copy/app:v1"));
    // A list that names what is gone.
    let gone = refer(&registry, &subject, "application/x-gone");
    registry.delete_manifest(FROM, &gone);
    let document = registry.run(&["copy", "--json", &from, &to]).json();
    assert!(document["missing"][0].as_str().unwrap().contains(&gone.to_string()), "{document}");
    // A layer that may not be distributed.
    let mut image = registry.image(FROM, &layers("w"), "windows");
    image["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    registry.push_manifest(FROM, "foreign", &image);
    let foreign = image["layers"][0]["digest"].as_str().unwrap();
    std::fs::remove_file(registry.blob_file(foreign)).unwrap();
    let layout = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", layout.path().join("l").display());
    let run = registry.run(&["copy", &registry.reference("team/app:foreign"), &layout]);
    assert!(run.succeeded().stdout.contains(&format!("not copied: foreign layer {foreign}")), "{run:?}");
    // A layer that should be there: no tag is written.
    let lost = Digest::of(&layers("a")[0].blob).to_string();
    std::fs::remove_file(registry.blob_file(&lost)).unwrap();
    let Some(other) = Registry::start() else { return };
    let abroad = other.reference("copy/app:v1");
    assert!(registry.run(&["copy", &from, &abroad]).failed().contains(&lost));
    assert!(other.tags(TO).is_empty());
}

#[test]
fn a_target_needs_a_tag() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for to in [format!("h.io/a@{digest}"), format!("oci:d@{digest}")] {
        assert_eq!(run(&["copy", "h.io/b", &to]).code, Some(2));
        assert_eq!(run(&["convert", "--to", &to, "h.io/b"]).code, Some(2));
    }
}
