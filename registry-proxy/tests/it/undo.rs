//! `revert` and `detach`: what was done is undone, and what cannot be is said.

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::meddler::{Meddler, Then};
use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, run, tar};

const REPOSITORY: &str = "team/app";

fn layers() -> Vec<Layer> {
    vec![Layer::gzip(&tar(&[("usr/", b""), ("usr/a", b"a")])), Layer::plain(&tar(&[("usr/b", b"b")]))]
}

fn tag(digest: &Digest, suffix: &str) -> String {
    format!("sha256-{}{suffix}", digest.hex())
}

fn digest(value: &Value) -> Digest {
    value.as_str().unwrap().parse().unwrap()
}

/// Pushes an image by digest; an index's entry for it.
fn entry(registry: &Registry, name: &str, architecture: &str) -> Value {
    let manifest = registry.image(REPOSITORY, &[Layer::gzip(&tar(&[(name, b"x")]))], "linux");
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &manifest);
    json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(),
            "platform": { "os": "linux", "architecture": architecture } })
}

#[test]
fn revert_restores_the_very_digest() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let before = registry.manifest(REPOSITORY, "v1");
    let replaced = registry.run(&["convert", "--mode", "replace", "--json", &reference]).json();
    let document = registry.run(&["revert", "--json", &reference]).json();
    assert_eq!(registry.manifest(REPOSITORY, "v1"), before);
    assert_eq!(digest(&document["manifest"]), subject);
    assert_eq!(document["was"], replaced["replaced"]["manifest"]);
    let remains = document["remains"].to_string();
    for what in
        [tag(&subject, ".original"), tag(&subject, ".jaunt"), tag(&digest(&document["was"]), ".jaunt")]
    {
        assert!(remains.contains(&what), "{remains}");
    }
    // Again, it finds that done; and it can be replaced again.
    let again = registry.run(&["revert", &reference]);
    assert!(again.succeeded().stdout.contains("already reverted"), "{again:?}");
    assert_eq!(registry.manifest(REPOSITORY, "v1"), before);
    let second = registry.run(&["convert", "--mode", "replace", "--json", &reference]).json();
    assert_eq!(second["replaced"]["manifest"], replaced["replaced"]["manifest"]);
    registry.run(&["revert", &reference]).succeeded();
}

#[test]
fn an_index_replaced_in_parts_reverts_to_the_first_original() {
    let Some(registry) = Registry::start() else { return };
    let [amd64, arm64] = [entry(&registry, "a", "amd64"), entry(&registry, "b", "arm64")];
    let within = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [arm64] });
    let bytes = serde_json::to_vec(&within).unwrap();
    let nested = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &within);
    let nested = json!({ "mediaType": OCI_INDEX, "digest": nested, "size": bytes.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [amd64, nested] });
    registry.push_manifest(REPOSITORY, "multi", &index);
    let reference = registry.reference("team/app:multi");
    for platform in ["linux/arm64", "linux/amd64"] {
        let arguments = ["convert", "--mode", "replace", "--platform", platform, &reference];
        // The platform of an image within the index is the one its entry states.
        registry.run(&arguments).succeeded();
    }
    assert_ne!(registry.manifest(REPOSITORY, "multi").unwrap(), index);
    registry.run(&["revert", &reference]).succeeded();
    assert_eq!(registry.manifest(REPOSITORY, "multi").unwrap(), index);
}

#[test]
fn revert_leaves_alone_what_was_not_replaced_or_has_moved() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    assert!(registry.run(&["revert", &reference]).failed().contains("replaced nothing"));
    registry.run(&["convert", &reference]).succeeded();
    assert!(registry.run(&["revert", &reference]).failed().contains("never replaced, or it moved since"));

    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    // Another tool made an image of the replaced one, annotations and all.
    let mut derived = registry.manifest(REPOSITORY, "v1").unwrap();
    derived["config"] = registry.image(REPOSITORY, &layers()[..1], "linux")["config"].clone();
    registry.push_manifest(REPOSITORY, "v1", &derived);
    assert!(registry.run(&["revert", &reference]).failed().contains("moved since, and is left alone"));
    assert_eq!(registry.manifest(REPOSITORY, "v1").unwrap(), derived);

    let pushed = registry.push_image(REPOSITORY, "v1", &layers()[1..]);
    assert!(registry.run(&["revert", &reference]).failed().contains(&pushed.to_string()));
    let pinned = registry.reference(&format!("team/app@{pushed}"));
    assert_eq!(run(&["revert", &pinned]).code, Some(2), "a digest cannot be moved");
    assert!(registry.run(&["revert", &registry.reference("team/app:none")]).failed().contains("404"));
}

#[test]
fn revert_moves_nothing_when_the_original_is_gone() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let replaced = registry.manifest(REPOSITORY, "v1");
    let refused = |missing: &str| {
        let run = registry.run(&["revert", &reference]);
        assert!(run.failed().contains("cannot be restored") && run.failed().contains(missing), "{run:?}");
        assert_eq!(registry.manifest(REPOSITORY, "v1"), replaced);
    };
    // Its tag alone: the digest is enough.
    registry.delete_tag(REPOSITORY, &tag(&subject, ".original"));
    registry.run(&["revert", &reference]).succeeded();
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    // A blob of it.
    let blob = Digest::of(&layers()[0].blob);
    std::fs::remove_file(registry.blob_file(&blob.to_string())).unwrap();
    refused(&format!("blob {blob}"));
    registry.delete_manifest(REPOSITORY, &subject);
    refused(&format!("manifest {subject}"));
}

#[test]
fn detach_removes_what_attach_added() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let nothing = registry.run(&["detach", &reference]);
    assert!(nothing.succeeded().stdout.contains("not converted"), "{nothing:?}");

    // Two artifacts, for two recipes; somebody else's referrer; a signature of one artifact.
    let first = registry.run(&["convert", "--json", "--level", "9", &reference]).json();
    let second = registry.run(&["convert", "--json", &reference]).json();
    let list = registry.manifest(REPOSITORY, &tag(&subject, "")).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2);
    let sbom = registry.image(REPOSITORY, &layers()[..1], "linux");
    let bytes = serde_json::to_vec(&sbom).unwrap();
    let sbom = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), &sbom);
    let listed =
        json!({ "mediaType": OCI_MANIFEST, "digest": sbom, "size": bytes.len(), "artifactType": "x/sbom" });
    let mut joined = list.clone();
    joined["manifests"].as_array_mut().unwrap().push(listed.clone());
    registry.push_manifest(REPOSITORY, &tag(&subject, ""), &joined);
    let artifact = digest(&second["images"][0]["artifact"]);
    let mut signature = registry.image(REPOSITORY, &layers()[1..], "linux");
    signature["layers"][0]["mediaType"] = json!("application/vnd.dev.cosign.simplesigning.v1+json");
    registry.push_manifest(REPOSITORY, &tag(&artifact, ".sig"), &signature);

    let document = registry.run(&["detach", "--json", &reference]).json();
    let removed: Vec<_> = document["images"][0]["removed"].as_array().unwrap().iter().map(digest).collect();
    assert!(removed.contains(&artifact) && removed.contains(&digest(&first["images"][0]["artifact"])));
    assert_eq!(registry.tags(REPOSITORY), [tag(&subject, ""), "v1".to_owned()]);
    assert_eq!(registry.manifest(REPOSITORY, &tag(&subject, "")).unwrap()["manifests"], json!([listed]));
    assert!(registry.manifest(REPOSITORY, &artifact.to_string()).is_none());
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("not converted"));
    assert!(registry.run(&["detach", &reference]).succeeded().stdout.contains("not converted"));
    // And it can be converted again.
    registry.run(&["convert", &reference]).succeeded();
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn nothing_but_artifacts_can_be_deleted() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    // Tags and a list that call the image itself, and another, an artifact.
    let other = registry.push_image(REPOSITORY, "v2", &layers()[1..]);
    registry.push_image(REPOSITORY, &tag(&subject, ".jaunt"), &layers());
    let listed = |digest: &Digest| json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "artifactType": "application/vnd.jaunt.launch.v1" });
    let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed(&subject), listed(&other)] });
    registry.push_manifest(REPOSITORY, &tag(&subject, ""), &list);
    let before = registry.tags(REPOSITORY);
    assert!(registry.run(&["detach", &reference]).succeeded().stdout.contains("not converted"));
    assert_eq!(registry.tags(REPOSITORY), before);
    assert_eq!(registry.manifest(REPOSITORY, &tag(&subject, "")).unwrap(), list);
}

#[test]
fn an_interrupted_detach_is_completed_by_the_next() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let converted = registry.run(&["convert", "--json", &reference]).json();
    // Killed after its first step: the list names what is gone.
    registry.delete_manifest(REPOSITORY, &digest(&converted["images"][0]["artifact"]));
    assert!(registry.manifest(REPOSITORY, &tag(&subject, "")).is_some());
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("not converted"));
    registry.run(&["detach", &reference]).succeeded();
    assert_eq!(registry.tags(REPOSITORY), ["v1"]);
}

#[test]
fn detach_removes_what_an_interrupted_conversion_left() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let meddler = Meddler::start(registry.address(), |method, path| {
        if method == "PUT" && path.ends_with(".jaunt") { Then::Refuse(409) } else { Then::Pass }
    });
    // One layer after the other, so that one is finished before the last.
    let stopped = run(&["convert", "--concurrency", "1", &meddler.reference("team/app:v1")]);
    assert!(stopped.failed().contains("409"), "{stopped:?}");
    let partial = tag(&subject, ".jaunt-partial");
    assert!(registry.tags(REPOSITORY).contains(&partial), "{:?}", registry.tags(REPOSITORY));
    let detached = registry.run(&["detach", "--json", &reference]).json();
    assert_eq!(detached["images"][0]["removed"].as_array().unwrap().len(), 2, "{detached}");
    assert_eq!(registry.tags(REPOSITORY), ["v1"]);
}

#[test]
fn detach_takes_the_platforms_it_is_told() {
    let Some(registry) = Registry::start() else { return };
    let entries = [entry(&registry, "a", "amd64"), entry(&registry, "b", "arm64")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    registry.push_manifest(REPOSITORY, "multi", &index);
    let reference = registry.reference("team/app:multi");
    registry.run(&["convert", &reference]).succeeded();
    registry.run(&["detach", "--platform", "linux/arm64", &reference]).succeeded();
    let [amd64, arm64] = entries.map(|entry| tag(&digest(&entry["digest"]), ".jaunt"));
    let tags = registry.tags(REPOSITORY);
    assert!(tags.contains(&amd64) && !tags.contains(&arm64), "{tags:?}");
    registry.run(&["detach", &reference]).succeeded();
    assert_eq!(registry.tags(REPOSITORY), ["multi"]);
}

#[test]
fn detach_refuses_an_image_that_was_replaced_in_place() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let before = registry.tags(REPOSITORY);
    let refused = registry.run(&["detach", &reference]);
    assert!(
        refused.failed().contains("replaced in place") && refused.failed().contains("revert"),
        "{refused:?}"
    );
    assert_eq!(registry.tags(REPOSITORY), before);
    let replacement = registry.digest(REPOSITORY, "v1");
    let reverted = registry.run(&["revert", &reference]);
    assert!(reverted.succeeded().stdout.contains(&format!("detach of its digest removes: @{replacement}")));
    registry.run(&["detach", &reference]).succeeded();
    assert!(!registry.tags(REPOSITORY).contains(&tag(&subject, ".jaunt")));
    // Who names the digest means it: nothing keeps the converted layers any more.
    assert!(registry.tags(REPOSITORY).contains(&tag(&replacement, ".jaunt")));
    registry.run(&["detach", &registry.reference(&format!("{REPOSITORY}@{replacement}"))]).succeeded();
    assert_eq!(registry.tags(REPOSITORY), [tag(&subject, ".original"), "v1".to_owned()]);
}

#[test]
fn where_deletion_is_forbidden_detach_says_what_stays_and_changes_nothing() {
    let Some(registry) = Registry::start_without_deletion() else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let converted = registry.run(&["convert", "--json", &reference]).json();
    let before = registry.manifest(REPOSITORY, &tag(&subject, ""));
    let run = registry.run(&["detach", &reference]);
    let (artifact, tag_of_it) = (&converted["images"][0]["artifact"], tag(&subject, ".jaunt"));
    let said = [artifact.as_str().unwrap(), &tag_of_it, "does not allow to delete", "405"];
    assert!(said.iter().all(|said| run.failed().contains(said)), "{run:?}");
    assert_eq!(registry.manifest(REPOSITORY, &tag(&subject, "")), before);
    registry.run(&["verify", &reference]).succeeded();
}
