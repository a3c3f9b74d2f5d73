//! `pull` against containerds of several versions and states, and the daemon's status.
#![allow(clippy::unwrap_used)]

mod containerd;

use std::sync::Mutex;

use jaunt_snapshotter::pull::{self, PullError, Request};

use containerd::{CHAIN, Containerd, Features};

/// containerd 2.1, all of it configured.
const NEW: Features = Features { version: "2.1.0", transfer: true, annotations: true, cri: true };

fn request(containerd: &Containerd, namespace: &str) -> Request {
    Request {
        address: containerd.socket(),
        namespace: namespace.to_owned(),
        snapshotter: "jaunt".to_owned(),
        image: "r.example/a:1".parse().unwrap(),
        socket: "/nowhere/snapshotter.sock".into(),
        cri_address: None,
        through: None,
        hosts_dir: "/hosts".into(),
        progress: |_| (),
    }
}

async fn refusal(request: &Request) -> String {
    let error: PullError = pull::run(request).await.unwrap_err();
    jaunt_snapshotter::fallback::error_chain(&error)
}

#[tokio::test]
async fn containerd_2_pulls_through_its_transfer_service() {
    let containerd = Containerd::start(NEW).await;
    containerd.daemon_holds("r.example/a:1", 2, CHAIN);
    let done = pull::run(&request(&containerd, "default")).await.unwrap().to_string();
    assert!(done.ends_with("2 of 2 layers lazy"), "{done}");
    assert_eq!(containerd.seen(), ["transfer default r.example/a:1 linux jaunt auth=0 hosts=/hosts"]);
    assert!(containerd.leases().is_empty());
}

#[tokio::test]
async fn another_tag_of_what_is_there_already_is_lazy_too() {
    let containerd = Containerd::start(NEW).await;
    containerd.daemon_holds("r.example/another-tag:1", 2, CHAIN);
    let done = pull::run(&request(&containerd, "default")).await.unwrap().to_string();
    assert!(done.ends_with("2 of 2 layers lazy"), "{done}");
}

#[tokio::test]
async fn containerd_1_pulls_through_cri() {
    // The export says nothing to 1.7, whose transfer service drops the labels.
    for (version, transfer, annotations) in
        [("1.6.20", false, false), ("1.7.24", true, false), ("1.7.24~ds1", true, true)]
    {
        let containerd = Containerd::start(Features { version, transfer, annotations, cri: true }).await;
        containerd.daemon_holds("r.example/another-tag:1", 3, CHAIN);
        let done = pull::run(&request(&containerd, "k8s.io")).await.unwrap().to_string();
        assert!(done.ends_with("3 of 3 layers lazy"), "{done}");
        assert_eq!(containerd.seen(), ["cri k8s.io r.example/a:1"]);
        let error = refusal(&request(&containerd, "default")).await;
        assert!(error.contains("into k8s.io only"), "{error}");
    }
}

/// What was told of the pull below.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[tokio::test]
async fn a_pull_by_cri_tells_which_layers_are_there_already() {
    let containerd =
        Containerd::start(Features { version: "1.6.20", transfer: false, annotations: false, cri: true })
            .await;
    containerd.daemon_holds("r.example/slow:1", 2, CHAIN);
    let image = "r.example/slow:1".parse().unwrap();
    let progress = |line: &str| TOLD.lock().unwrap().push(line.to_owned());
    let pulled = pull::run(&Request { image, progress, ..request(&containerd, "k8s.io") }).await.unwrap();
    assert_eq!((pulled.json()["lazy"].as_u64(), pulled.json()["layers"].as_u64()), (Some(2), Some(2)));
    let told = TOLD.lock().unwrap().clone();
    assert_eq!(told[1..], ["2 layers are there, 2 of them lazy"], "{told:?}");
}

#[tokio::test]
async fn a_pull_waits_for_a_containerd_that_has_just_been_started() {
    let old = Features { version: "1.6.20", transfer: false, annotations: false, cri: true };
    let containerd = Containerd::start(old).await;
    containerd.daemon_holds("r.example/starting:1", 1, CHAIN);
    let image = "r.example/starting:1".parse().unwrap();
    pull::run(&Request { image, ..request(&containerd, "k8s.io") }).await.unwrap();
    let asked = containerd.seen().into_iter().filter(|seen| seen.starts_with("cri ")).count();
    assert_eq!(asked, 3);
}

#[tokio::test]
async fn a_pull_past_the_snapshotter_is_an_error_that_says_what_to_configure() {
    let old = Features { version: "1.6.20", transfer: false, annotations: false, cri: true };
    for (features, hint) in [(old, "io.containerd.grpc.v1.cri"), (NEW, "unpack_config")] {
        let containerd = Containerd::start(features).await;
        containerd.daemon_holds("r.example/a:1", 1, "another chain");
        let to_another_daemon = refusal(&request(&containerd, "k8s.io")).await;
        containerd.daemon_holds("r.example/a:1", 1, CHAIN);
        containerd.unpacks_with("overlayfs");
        let by_another_snapshotter = refusal(&request(&containerd, "k8s.io")).await;
        for error in [to_another_daemon, by_another_snapshotter] {
            assert!(error.contains("not through snapshotter \"jaunt\"") && error.contains(hint), "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let containerd = Containerd::start(NEW).await;
    let nowhere = Request { address: "/nowhere/c.sock".into(), ..request(&containerd, "k8s.io") };
    let error = refusal(&nowhere).await;
    assert!(error.contains("not reachable at /nowhere/c.sock: No such file"), "{error}");

    let other = Request { snapshotter: "other".to_owned(), ..request(&containerd, "k8s.io") };
    let error = refusal(&other).await;
    assert!(
        error.contains("[proxy_plugins.other]") && error.contains("/nowhere/snapshotter.sock"),
        "{error}"
    );

    let broken = Request { snapshotter: "broken".to_owned(), ..request(&containerd, "k8s.io") };
    assert!(refusal(&broken).await.contains("does not work: dial failed"));

    let unlisted = Request { snapshotter: "unlisted".to_owned(), ..request(&containerd, "k8s.io") };
    let error = refusal(&unlisted).await;
    assert!(error.contains("\"unlisted\"") && error.contains("unpack_config"), "{error}");

    let absent = Request { image: "r.example/absent:1".parse().unwrap(), ..request(&containerd, "k8s.io") };
    let error = refusal(&absent).await;
    assert!(error.contains("pull: r.example/absent:1: not found"), "{error}");
    assert!(containerd.leases().is_empty(), "also of pulls that failed");
}
