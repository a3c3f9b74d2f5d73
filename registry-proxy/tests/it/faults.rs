//! Runs that are stopped at any of their writes, and tags that others move meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jaunt_formats::Digest;
use serde_json::json;

use crate::meddler::{Meddler, Then};
use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, Run, run, tar};

const REPOSITORY: &str = "team/app";

fn layers() -> Vec<Layer> {
    vec![Layer::gzip(&tar(&[("usr/", b""), ("usr/a", b"a")])), Layer::plain(&tar(&[("usr/b", b"b")]))]
}

/// An index of two images under `v1`, one of them in an index of its own.
fn push_index(registry: &Registry) -> Digest {
    let entry = |manifest: &serde_json::Value| {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = registry.push_manifest(REPOSITORY, &Digest::of(&bytes).to_string(), manifest);
        json!({ "mediaType": manifest["mediaType"], "digest": digest, "size": bytes.len() })
    };
    let index = |entries: [serde_json::Value; 2]| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let [a, b] = [0..1, 0..2].map(|range| entry(&registry.image(REPOSITORY, &layers()[range], "linux")));
    let within = index([b.clone(), a.clone()]);
    let top = index([entry(&within), a]);
    registry.push_manifest(REPOSITORY, "v1", &top)
}

fn is_write(method: &str) -> bool {
    ["PUT", "POST", "PATCH", "DELETE"].contains(&method)
}

/// Runs a command again and again, stopped at its first write, its second, and so on until it succeeds;
/// looks at the registry after each.
fn stop_at_every_write(
    registry: &Registry,
    arguments: &dyn Fn(&Meddler) -> Vec<String>,
    look: &dyn Fn(&Run),
) {
    for stop in 0..200 {
        let writes = Arc::new(AtomicUsize::new(0));
        let meddler = Meddler::start(registry.address(), move |method, _| {
            let stopped = is_write(method) && writes.fetch_add(1, Ordering::Relaxed) >= stop;
            if stopped { Then::Refuse(409) } else { Then::Pass }
        });
        let arguments = arguments(&meddler);
        let run = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        look(&run);
        if run.code == Some(0) {
            assert!(stop > 0, "nothing was written at all");
            return;
        }
        assert!(run.failed().contains("409"), "write {stop}: {run:?}");
    }
    panic!("it never succeeds");
}

fn words(words: &[&str], reference: String) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).chain([reference]).collect()
}

#[test]
fn a_conversion_stopped_at_any_write_leaves_an_image_that_is_whole() {
    let Some(registry) = Registry::start() else { return };
    let original = push_index(&registry);
    let reference = registry.reference("team/app:v1");
    let replace =
        |meddler: &Meddler| words(&["convert", "--mode", "replace"], meddler.reference("team/app:v1"));
    stop_at_every_write(&registry, &replace, &|run| {
        let replaced = registry.digest(REPOSITORY, "v1") != original;
        assert_eq!(replaced, run.code == Some(0), "the tag moves last: {run:?}");
    });
    registry.run(&["verify", &reference]).succeeded();
    let revert = |meddler: &Meddler| words(&["revert"], meddler.reference("team/app:v1"));
    stop_at_every_write(&registry, &revert, &|_| {});
    assert_eq!(registry.digest(REPOSITORY, "v1"), original);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn a_copy_stopped_at_any_write_names_nothing_that_is_not_there() {
    let (Some(source), Some(target)) = (Registry::start(), Registry::start()) else { return };
    push_index(&source);
    let from = source.reference("team/app:v1");
    source.run(&["convert", &from]).succeeded();
    let copy = |meddler: &Meddler| words(&["copy", &from], meddler.reference("copy/app:v1"));
    stop_at_every_write(&target, &copy, &|run| {
        let there = target.tags("copy/app").contains(&"v1".to_owned());
        assert_eq!(there, run.code == Some(0), "the tag comes last: {run:?}");
    });
    target.run(&["verify", &target.reference("copy/app:v1")]).succeeded();
    assert_eq!(target.tags("copy/app"), source.tags(REPOSITORY));
}

#[test]
fn a_detach_stopped_at_any_write_says_so_and_is_completed_by_the_next() {
    let Some(registry) = Registry::start() else { return };
    push_index(&registry);
    registry.run(&["convert", &registry.reference("team/app:v1")]).succeeded();
    let detach = |meddler: &Meddler| words(&["detach"], meddler.reference("team/app:v1"));
    stop_at_every_write(&registry, &detach, &|_| {});
    assert_eq!(registry.tags(REPOSITORY), ["v1"]);
}

/// Something that others push to a tag as soon as it is looked at for the second time: right before it moves.
fn pushed_meanwhile(
    registry: &Arc<Registry>,
    repository: &'static str,
    tag: &'static str,
) -> (Meddler, Digest) {
    let theirs = registry.image(repository, &layers()[1..], "linux");
    let digest = Digest::of(&serde_json::to_vec(&theirs).unwrap());
    let (pusher, path) = (Arc::clone(registry), format!("/v2/{repository}/manifests/{tag}"));
    let mut looks = 0;
    let meddler = Meddler::start(registry.address(), move |method, asked| {
        if asked == path && ["GET", "HEAD"].contains(&method) {
            looks += 1;
            if looks == 2 {
                pusher.push_manifest(repository, tag, &theirs);
            }
        }
        Then::Pass
    });
    (meddler, digest)
}

#[test]
fn a_tag_that_moved_meanwhile_is_left_alone() {
    let Some(registry) = Registry::start().map(Arc::new) else { return };
    let check = |arguments: &[&str], repository: &str, tag: &str, theirs: Digest| {
        let run = run(arguments);
        assert!(run.failed().contains("others moved it meanwhile"), "{arguments:?}: {run:?}");
        assert!(run.failed().contains(&theirs.to_string()), "{run:?}");
        assert_eq!(registry.digest(repository, tag), theirs);
    };
    registry.push_image(REPOSITORY, "v1", &layers());
    let (meddler, theirs) = pushed_meanwhile(&registry, REPOSITORY, "v1");
    check(&["convert", "--mode", "replace", &meddler.reference("team/app:v1")], REPOSITORY, "v1", theirs);

    registry.push_image(REPOSITORY, "v1", &layers());
    registry.run(&["convert", "--mode", "replace", &registry.reference("team/app:v1")]).succeeded();
    let (meddler, theirs) = pushed_meanwhile(&registry, REPOSITORY, "v1");
    check(&["revert", &meddler.reference("team/app:v1")], REPOSITORY, "v1", theirs);

    // Also a tag that was not there when the command began.
    registry.push_image(REPOSITORY, "v1", &layers());
    let from = registry.reference("team/app:v1");
    let (meddler, theirs) = pushed_meanwhile(&registry, "copy/app", "v1");
    check(&["copy", &from, &meddler.reference("copy/app:v1")], "copy/app", "v1", theirs);
    let (meddler, theirs) = pushed_meanwhile(&registry, "lazy/app", "v1");
    let to = meddler.reference("lazy/app:v1");
    check(&["convert", "--mode", "replace", "--to", &to, &from], "lazy/app", "v1", theirs);
}

#[test]
fn where_only_tags_can_be_deleted_nothing_names_the_artifact_any_more() {
    let Some(registry) = Registry::start().map(Arc::new) else { return };
    let subject = registry.push_image(REPOSITORY, "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let converted = registry.run(&["convert", "--json", &reference]).json();
    let artifact = converted["images"][0]["artifact"].as_str().unwrap().to_owned();
    let hand = Arc::clone(&registry);
    let meddler = Meddler::start(registry.address(), move |method, path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        if method == "DELETE" && !name.contains(':') {
            hand.delete_tag(REPOSITORY, name);
            return Then::Refuse(202);
        }
        if method == "DELETE" { Then::Refuse(403) } else { Then::Pass }
    });
    let run = run(&["detach", &meddler.reference("team/app:v1")]);
    assert!(run.failed().contains(&format!("manifest {artifact}, which no tag names any more")), "{run:?}");
    let list = registry.manifest(REPOSITORY, &format!("sha256-{}", subject.hex())).unwrap();
    assert_eq!(list["manifests"], json!([]), "the list cannot be deleted, but emptied");
    assert!(registry.run(&["inspect", &reference]).succeeded().stdout.contains("not converted"));
    assert_eq!(registry.manifest(REPOSITORY, &artifact).unwrap()["mediaType"], OCI_MANIFEST);
}

#[test]
fn a_layer_whose_upload_breaks_or_is_forgotten_is_uploaded_again() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &layers());
    let (mut broken, mut forgotten) = (false, false);
    let meddler = Meddler::start(registry.address(), move |method, path| match method {
        "PATCH" if !std::mem::replace(&mut broken, true) => Then::Break,
        "PUT" if path.contains("/blobs/uploads/") && !std::mem::replace(&mut forgotten, true) => {
            Then::Refuse(404)
        }
        _ => Then::Pass,
    });
    let report = run(&["convert", "--json", &meddler.reference("team/app:v1")]);
    assert!(
        report.stderr.contains("will try again") && report.stderr.contains("knows nothing of the upload"),
        "{report:?}"
    );
    assert_eq!(report.json()["layers_converted"], layers().len());
    registry.run(&["verify", &registry.reference("team/app:v1")]).succeeded();

    let Some(other) = Registry::start() else { return };
    let mut broken = false;
    let meddler = Meddler::start(other.address(), move |method, _| match method {
        "PATCH" if !std::mem::replace(&mut broken, true) => Then::Break,
        _ => Then::Pass,
    });
    run(&["copy", &registry.reference("team/app:v1"), &meddler.reference("copy/app:v1")]).succeeded();
    other.run(&["verify", &other.reference("copy/app:v1")]).succeeded();
}
