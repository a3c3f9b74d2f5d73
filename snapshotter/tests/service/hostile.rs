//! What no containerd sends: keys, names and labels that are absurd or meant to do harm. Refused or kept as what they
//! are, text; never a path, never the end of the daemon.

use std::collections::BTreeSet;
use std::path::Path;

use jaunt_formats::Digest;
use jaunt_snapshotter::fallback::FallbackCode;
use jaunt_snapshotter::proto::containerd::services::snapshots::v1 as api;
use tonic::Code;

use crate::fakes::Daemon;
use crate::{Labels, labels};

const TARGET: &str = "containerd.io/snapshot.ref";
const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";

/// Names that are none, but could be taken for something.
fn absurd() -> Vec<String> {
    let names = [
        "a/../../b",
        "../../../../etc/passwd",
        "/",
        ".",
        "..",
        "a\0b",
        "\u{1b}[2J",
        "ключ/🗝",
        " ",
        "-rf",
        "%2e%2e",
    ];
    names.map(str::to_owned).into_iter().chain([format!("k8s.io/1/{}", "x".repeat(20_000))]).collect()
}

/// Everything below a directory, by path.
fn below(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            found.extend(below(&entry.path()));
        }
    }
    found
}

#[tokio::test]
async fn absurd_keys_are_text_and_never_paths() {
    let mut daemon = Daemon::start().await;
    for key in absurd() {
        let mounts = daemon.prepare(&key, "", Labels::new()).await.unwrap();
        assert!(mounts[0].source.starts_with(&daemon.dir.path().display().to_string()), "{key:?}");
        assert_eq!(daemon.mounts(&key).await.unwrap(), mounts);
        assert_eq!(daemon.stat(&key).await.unwrap().name, key);
        let name = format!("committed {key}");
        daemon.commit(&name, &key, Labels::new()).await.unwrap();
        assert!(daemon.view(&key, &name).await.is_ok(), "{key:?}");
    }
    // Directories have numbers for names, whatever was asked for.
    let snapshots = daemon.dir.path().join("root/snapshots");
    for entry in std::fs::read_dir(&snapshots).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.parse::<u64>().is_ok(), "{name}");
    }
    let mut daemon = daemon.restart().await;
    assert_eq!(daemon.list(&[]).await.unwrap().len(), 2 * absurd().len());
    for key in absurd() {
        daemon.remove(&key).await.unwrap();
        daemon.remove(&format!("committed {key}")).await.unwrap();
    }
    daemon.clean_up().await;
    assert_eq!(std::fs::read_dir(&snapshots).unwrap().count(), 0);
}

#[tokio::test]
async fn keys_that_are_empty_or_endless_are_refused_and_leave_nothing() {
    let mut daemon = Daemon::start().await;
    daemon.prepare("sound", "", Labels::new()).await.unwrap();
    let before = below(&daemon.dir.path().join("root/snapshots"));
    for key in [String::new(), "x".repeat(64 << 10)] {
        assert_eq!(daemon.prepare(&key, "", Labels::new()).await, Err(Code::InvalidArgument));
        assert_eq!(daemon.view(&key, "").await, Err(Code::InvalidArgument));
        assert_eq!(daemon.commit(&key, "sound", Labels::new()).await, Err(Code::InvalidArgument));
        for code in
            [daemon.stat(&key).await.err(), daemon.mounts(&key).await.err(), daemon.remove(&key).await.err()]
        {
            assert_eq!(code, Some(Code::NotFound));
        }
    }
    daemon.clean_up().await;
    assert_eq!(below(&daemon.dir.path().join("root/snapshots")), before);
}

#[tokio::test]
async fn parents_that_are_not_there_or_no_parents_are_refused() {
    let mut daemon = Daemon::start().await;
    daemon.prepare("active", "", Labels::new()).await.unwrap();
    for parent in absurd().iter().map(String::as_str).chain(["unknown", "other/1/active"]) {
        assert_eq!(daemon.prepare("x", parent, Labels::new()).await, Err(Code::NotFound), "{parent:?}");
        assert_eq!(daemon.view("x", parent).await, Err(Code::NotFound), "{parent:?}");
        let target = labels([(TARGET, Digest::of(b"x").to_string().as_str())]);
        assert_eq!(daemon.prepare("x", parent, target).await, Err(Code::NotFound), "{parent:?}");
    }
    assert_eq!(daemon.prepare("x", "active", Labels::new()).await, Err(Code::InvalidArgument));
    assert_eq!(daemon.prepare("active", "active", Labels::new()).await, Err(Code::InvalidArgument));
    assert_eq!(daemon.list(&[]).await.unwrap(), ["active"]);
}

#[tokio::test]
async fn labels_that_describe_no_layer_unpack_it_and_say_so() {
    let mut daemon = Daemon::start().await;
    let digest = Digest::of(b"x").to_string();
    let sound = [(TARGET, digest.as_str()), (IMAGE, "r.example/a:1"), (MANIFEST, &digest), (LAYER, &digest)];
    let other_algorithm = format!("sha512:{}", "0".repeat(128));
    let mut count = 0;
    for label in [TARGET, MANIFEST, LAYER] {
        for value in ["", "x", "sha256:", "sha256:../../x", "sha256:\0", " ", &digest[..70], &other_algorithm]
        {
            let mut hostile = labels(sound);
            hostile.insert(label.to_owned(), value.to_owned());
            count += 1;
            let prepared = daemon.prepare(&format!("k{count}"), "", hostile).await;
            assert!(prepared.is_ok(), "{label}={value:?}: {prepared:?}");
        }
    }
    for image in
        ["../..", "r.example/\u{1b}[31m", "r.example/a b", "\0", "r.example/A", "r.example/a@sha256:0"]
    {
        let mut hostile = labels(sound);
        hostile.insert(IMAGE.to_owned(), image.to_owned());
        count += 1;
        assert!(daemon.prepare(&format!("k{count}"), "", hostile).await.is_ok(), "{image:?}");
    }
    let counts = daemon.snapshotter.fallbacks().counts();
    assert_eq!(counts.values().sum::<u64>(), count);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [FallbackCode::BadLabels]);
    // What is told to people has nothing that their terminals would act upon.
    for record in daemon.snapshotter.fallbacks().recent() {
        let told = format!("{}{}", record.image, record.layer);
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
}

#[tokio::test]
async fn labels_without_end_are_refused() {
    let mut daemon = Daemon::start().await;
    let digest = Digest::of(b"x").to_string();
    let long = "x".repeat(8 << 10);
    for label in ["any", IMAGE, TARGET, LAYER] {
        let mut hostile = labels([(TARGET, digest.as_str()), (IMAGE, "r.example/a:1")]);
        hostile.insert(label.to_owned(), long.clone());
        assert_eq!(daemon.prepare("x", "", hostile).await, Err(Code::InvalidArgument), "{label}");
    }
    let key = labels([(long.as_str(), "")]);
    assert_eq!(daemon.prepare("x", "", key).await, Err(Code::InvalidArgument));
    assert!(daemon.list(&[]).await.unwrap().is_empty());
    let recent = daemon.snapshotter.fallbacks().recent();
    assert!(recent.iter().all(|record| record.image.len() + record.layer.len() < 4096));
}

/// Somebody asks that a layer be called by the name of something else.
#[tokio::test]
async fn a_target_that_is_something_else_is_no_promise() {
    let mut daemon = Daemon::start().await;
    let digest = Digest::of(b"x").to_string();
    daemon.prepare(&digest, "", Labels::new()).await.unwrap();
    let asked =
        labels([(TARGET, digest.as_str()), (IMAGE, "r.example/a:1"), (MANIFEST, &digest), (LAYER, &digest)]);
    assert!(daemon.prepare("x", "", asked).await.is_ok());
    let counts = daemon.snapshotter.fallbacks().counts();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(FallbackCode::SnapshotConflict, 1)]);
}

#[tokio::test]
async fn filters_and_field_masks_that_mean_nothing_are_refused() {
    let mut daemon = Daemon::start().await;
    daemon.prepare("k", "", Labels::new()).await.unwrap();
    let (deep, long) = (format!("name~={}", "(".repeat(50_000)), format!("name=={}", "x".repeat(1 << 20)));
    let huge = format!("name~=\"(a{{1000}}){{1000}}{}\"", "x{1000}".repeat(100));
    for filter in ["==", "name==", "name~=(", "labels.\"==x", "\0", "name\u{7f}==x", &deep, &huge, &long] {
        let listed = daemon.list(&[filter]).await;
        assert!(listed == Err(Code::InvalidArgument) || listed == Ok(Vec::new()), "{filter:.40}: {listed:?}");
    }
    for path in ["kind", "parent", "name", "", "labels.a.b/../c\0", "Labels"] {
        let info = Some(api::Info { name: "k".to_owned(), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
        let request = api::UpdateSnapshotRequest { info, update_mask, ..Default::default() };
        let updated = daemon.client.update(request).await.map(drop).map_err(|status| status.code());
        let expected = if path.starts_with("labels.") { Ok(()) } else { Err(Code::InvalidArgument) };
        assert_eq!(updated, expected, "{path:?}");
    }
    assert_eq!(daemon.list(&[]).await, Ok(vec!["k".to_owned()]));
}
