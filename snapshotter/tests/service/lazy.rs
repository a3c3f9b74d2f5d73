//! Layers that are present before they arrive: containerd's remote snapshot protocol.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use jaunt_formats::{ChainId, Digest};
use jaunt_snapshotter::fallback::FallbackCode;
use jaunt_snapshotter::proto::containerd::services::snapshots::v1 as api;
use jaunt_snapshotter::resolve::ImageLayer;
use tonic::Code;

use crate::fakes::Daemon;
use crate::{Labels, labels, option};

fn chain(name: &str) -> String {
    Digest::of(name.as_bytes()).to_string()
}

/// What CRI sends for a layer of an image.
fn layer(target: &str) -> Labels {
    let digest = chain("some blob");
    labels([
        ("containerd.io/snapshot.ref", target),
        ("containerd.io/snapshot/cri.image-ref", "r.example/a:1"),
        ("containerd.io/snapshot/cri.manifest-digest", &digest),
        ("containerd.io/snapshot/cri.layer-digest", &digest),
        ("containerd.io/snapshot/cri.image-layers", &digest),
    ])
}

/// The same, with the blobs of the layers above.
fn announcing(target: &str, above: &[Digest]) -> Labels {
    let mut labels = layer(target);
    let all = std::iter::once(chain("some blob")).chain(above.iter().map(Digest::to_string));
    labels.insert("containerd.io/snapshot/cri.image-layers".to_owned(), all.collect::<Vec<_>>().join(","));
    labels
}

fn know(daemon: &Daemon, name: &str, prefix: u16) -> String {
    let digest = Digest::of(name.as_bytes());
    daemon.registry.chains.lock().unwrap().insert(ChainId(digest), prefix);
    digest.to_string()
}

#[tokio::test]
async fn a_known_layer_exists_already_and_is_found_as_containerd_looks_for_it() {
    let mut daemon = Daemon::start().await;
    let (one, two) = (know(&daemon, "one", 1), know(&daemon, "two", 2));
    assert_eq!(daemon.prepare("k8s.io/1/extract-1", "", layer(&one)).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.prepare("k8s.io/2/extract-2", &one, layer(&two)).await, Err(Code::AlreadyExists));

    let filter = format!(r#"labels."containerd.io/snapshot.ref"=={two},parent=="{one}""#);
    assert_eq!(daemon.list(&[&filter]).await.unwrap(), std::slice::from_ref(&two));
    let info = daemon.stat(&two).await.unwrap();
    assert_eq!((info.parent.as_str(), info.kind), (one.as_str(), 3));
    assert_eq!(info.labels, layer(&two));
    assert_eq!(daemon.usage(&two).await, Ok((42, 3)));

    // Another namespace of containerd asks for the same layer.
    assert_eq!(daemon.prepare("other/9/extract-9", "", layer(&one)).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.list(&["kind==active"]).await.unwrap(), Vec::<String>::new());
}

/// The rest of an image is on record with its first layer, as it will be asked for: no further call waits for the disk. What is not asked
/// for can be removed, and is recorded anew when it is asked for later.
#[tokio::test]
async fn an_image_is_recorded_with_the_first_of_its_layers() {
    let mut daemon = Daemon::start().await;
    let chains = [("one", 1), ("two", 2), ("three", 3)].map(|(name, prefix)| know(&daemon, name, prefix));
    let blob = Digest::of(b"another blob");
    let upper = ["two", "three"].map(|name| ImageLayer { chain: ChainId(Digest::of(name.as_bytes())), blob });
    {
        let mut above = daemon.registry.above.lock().unwrap();
        above.insert(ChainId(Digest::of(b"one")), upper.to_vec());
        above.insert(ChainId(Digest::of(b"two")), upper[1..].to_vec());
    }
    assert_eq!(
        daemon.prepare("k8s.io/1/x1", "", announcing(&chains[0], &[blob, blob])).await,
        Err(Code::AlreadyExists)
    );
    while *daemon.mounts.expected.lock().unwrap() != [(3, true)] {
        tokio::task::yield_now().await;
    }
    let mut labels = layer(&chains[2]);
    labels.remove("containerd.io/snapshot/cri.image-layers");
    labels.insert("containerd.io/snapshot/cri.layer-digest".to_owned(), blob.to_string());
    let recorded = daemon.stat(&chains[2]).await.unwrap();
    assert_eq!((&recorded.parent, recorded.kind, &recorded.labels), (&chains[1], 3, &labels));
    // Nobody is asked about what is on record, nor is anything written: not even of an image that is unknown by now.
    daemon.registry.chains.lock().unwrap().clear();
    assert_eq!(daemon.prepare("x2", &chains[0], layer(&chains[1])).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.prepare("x3", &chains[1], layer(&chains[2])).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.stat(&chains[2]).await.unwrap(), recorded);
    assert_eq!(daemon.mounts.expected.lock().unwrap().len(), 1, "a container is expected once");
    // containerd's collection, in the midst of a pull.
    for chain in [&chains[2], &chains[1]] {
        daemon.remove(chain).await.unwrap();
    }
    let two = know(&daemon, "two", 2);
    assert_eq!(daemon.prepare("x4", &chains[0], announcing(&two, &[blob])).await, Err(Code::AlreadyExists));
    let again = daemon.stat(&chains[2]).await.unwrap();
    assert_eq!((&again.parent, &again.labels), (&chains[1], &labels));
    // A restart finds what was recorded beside what was asked for.
    let mut daemon = daemon.restart().await;
    assert_eq!(daemon.mounts.restored.lock().unwrap().len(), 3);
    assert_eq!(daemon.stat(&chains[2]).await.unwrap().labels, labels);
}

/// An index may name as many layers as it likes: on record comes what containerd has announced, and is known by its blob.
#[tokio::test]
async fn layers_that_containerd_has_not_announced_are_not_recorded() {
    let mut daemon = Daemon::start().await;
    let (blob, other) = (Digest::of(b"another blob"), Digest::of(b"a third"));
    let upper = ["two", "three"].map(|name| ImageLayer { chain: ChainId(Digest::of(name.as_bytes())), blob });
    for (n, announced) in [&[][..], &[other, blob], &[blob, other], &[blob]].into_iter().enumerate() {
        let name = format!("one of {n}");
        let one = know(&daemon, &name, 1);
        let above = upper.map(|layer| ImageLayer {
            chain: ChainId(Digest::of(format!("{name} {}", layer.chain).as_bytes())),
            ..layer
        });
        daemon.registry.above.lock().unwrap().insert(ChainId(Digest::of(name.as_bytes())), above.to_vec());
        assert_eq!(daemon.prepare(&name, "", announcing(&one, announced)).await, Err(Code::AlreadyExists));
        let recorded = daemon.list(&[]).await.unwrap();
        let recorded = above.map(|layer| recorded.contains(&layer.chain.to_string()));
        assert_eq!(recorded, [n >= 2, false], "{announced:?}");
    }
    assert!(daemon.mounts.expected.lock().unwrap().is_empty(), "of none the topmost layer is known");
}

/// What was made for containers to come goes with the image, also if that was removed in the meantime.
#[tokio::test]
async fn what_was_expected_and_is_removed_meanwhile_is_let_go_of() {
    let mut daemon = Daemon::start().await;
    let one = know(&daemon, "one", 1);
    let begun = daemon.mounts.hold_expected();
    assert_eq!(daemon.prepare("x1", "", layer(&one)).await, Err(Code::AlreadyExists));
    begun.notified().await;
    daemon.remove(&one).await.unwrap();
    let before = daemon.mounts.released.lock().unwrap().clone();
    assert_eq!(before.len(), 1);
    daemon.mounts.go_on();
    while daemon.mounts.released.lock().unwrap().len() == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*daemon.mounts.released.lock().unwrap(), [before[0], before[0]]);
}

/// A snapshot that has an upper layer's name and is something else is left alone, and so is what would stand on it.
#[tokio::test]
async fn a_layer_above_whose_name_is_taken_waits_until_it_is_asked_for() {
    let mut daemon = Daemon::start().await;
    let (one, two, three) = (know(&daemon, "one", 1), chain("two"), chain("three"));
    daemon.prepare(&two, "", Labels::new()).await.unwrap();
    let blob = Digest::of(b"another blob");
    let upper = ["two", "three"].map(|name| ImageLayer { chain: ChainId(Digest::of(name.as_bytes())), blob });
    daemon.registry.above.lock().unwrap().insert(ChainId(Digest::of(b"one")), upper.to_vec());
    assert_eq!(daemon.prepare("x1", "", announcing(&one, &[blob, blob])).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.stat(&one).await.unwrap().kind, 3);
    assert_eq!(daemon.stat(&two).await.unwrap().kind, 2);
    assert_eq!(daemon.stat(&three).await.unwrap_err(), Code::NotFound);
}

/// No lock is held while the network, a disk or a mount is waited for.
#[tokio::test]
async fn calls_that_are_stuck_delay_no_other() {
    let mut daemon = Daemon::start().await;
    let (one, two) = (know(&daemon, "one", 1), know(&daemon, "two", 2));
    let _ = daemon.prepare("x1", "", layer(&one)).await;
    let _ = daemon.prepare("x2", &one, layer(&two)).await;
    daemon.mounts.stuck.store(2, Ordering::Relaxed);
    let silent = Digest::of(crate::fakes::SILENT).to_string();
    let stuck =
        [("silent", "", layer(&silent)), ("unmounted", &two, Labels::new())].map(|(key, parent, labels)| {
            let mut client = daemon.client.clone();
            let (key, parent) = (key.to_owned(), parent.to_owned());
            let request = api::PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
            tokio::spawn(async move { client.prepare(request).await })
        });
    // The one that waits for a mount has made its record by then.
    while daemon.stat("unmounted").await.is_err() {
        tokio::task::yield_now().await;
    }
    for n in 0..20 {
        let key = format!("c{n}");
        daemon.prepare(&key, &one, Labels::new()).await.unwrap();
        assert_eq!(daemon.mounts(&key).await.unwrap().len(), 1);
        let name = format!("chain {n}");
        let chain = know(&daemon, &name, 1);
        assert_eq!(daemon.prepare(&name, "", layer(&chain)).await, Err(Code::AlreadyExists));
        daemon.remove(&key).await.unwrap();
        daemon.clean_up().await;
    }
    assert!(stuck.iter().all(|call| !call.is_finished()), "nothing came to free them");
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_container_stands_on_the_topmost_lazy_layer_alone() {
    let mut daemon = Daemon::start().await;
    let (one, two) = (know(&daemon, "one", 1), know(&daemon, "two", 2));
    let _ = daemon.prepare("x1", "", layer(&one)).await;
    let _ = daemon.prepare("x2", &one, layer(&two)).await;
    let mounts = daemon.prepare("container", &two, Labels::new()).await.unwrap();
    let lower = option(&mounts[0], "lowerdir").unwrap();
    assert!(lower.ends_with("/fs") && !lower.contains(':'), "{lower}");
    if rustix::process::geteuid().is_root() {
        let upper = Path::new(option(&mounts[0], "upperdir").unwrap()).metadata().unwrap();
        assert_eq!((upper.mode() & 0o7777, upper.uid(), upper.gid()), (0o1750, 7, 8));
    }
    let view = daemon.view("look", &one).await.unwrap();
    assert_eq!(view[0].options, ["ro", "rbind"]);
    assert_ne!(view[0].source, lower);
}

#[tokio::test]
async fn what_a_user_namespace_gets_of_lazy_layers_has_mapped_ids() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: changing owners needs root");
        return;
    }
    let mapping = || {
        labels([
            ("containerd.io/snapshot/uidmapping", "0:1000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:2000:65536"),
        ])
    };
    let mut daemon = Daemon::start().await;
    let (one, unpacked) = (know(&daemon, "one", 1), chain("unknown"));
    let _ = daemon.prepare("x1", "", layer(&one)).await;
    daemon.prepare("x2", &one, layer(&unpacked)).await.unwrap();
    daemon.commit(&unpacked, "x2", layer(&unpacked)).await.unwrap();
    let seen = |path: &Path| path.metadata().map(|stat| (stat.uid(), stat.gid())).unwrap();
    for (parent, owners) in [(&one, &[(1000, 2000)][..]), (&unpacked, &[(1007, 2008), (1000, 2000)])] {
        let mounts = match daemon.prepare("pod", parent, mapping()).await {
            Err(Code::FailedPrecondition) => {
                assert_eq!(daemon.stat("pod").await.unwrap_err(), Code::NotFound);
                return println!("skipped: this kernel maps no ids of FUSE mounts");
            }
            mounts => mounts.unwrap(),
        };
        assert_eq!((option(&mounts[0], "uidmap"), option(&mounts[0], "gidmap")), (None, None));
        assert_eq!(seen(Path::new(option(&mounts[0], "upperdir").unwrap())), (1000, 2000));
        let lowers = option(&mounts[0], "lowerdir").unwrap();
        let lowers: Vec<PathBuf> = lowers.split(':').map(PathBuf::from).collect();
        assert_eq!(lowers.iter().map(|lower| seen(lower)).collect::<Vec<_>>(), owners);
        assert_eq!(daemon.mounts("pod").await.unwrap(), mounts);
        daemon.remove("pod").await.unwrap();
        assert!(lowers.iter().all(|lower| !lower.exists()));
    }
}

#[tokio::test]
async fn unpacked_layers_above_lazy_ones_share_their_directory() {
    let mut daemon = Daemon::start().await;
    let one = know(&daemon, "one", 1);
    let unknown = chain("unknown");
    let _ = daemon.prepare("x1", "", layer(&one)).await;
    let unpacking = daemon.prepare("x2", &one, layer(&unknown)).await.unwrap();
    assert_eq!(unpacking[0].r#type, "overlay");
    daemon.commit(&unknown, "x2", layer(&unknown)).await.unwrap();

    let mounts = daemon.prepare("container", &unknown, Labels::new()).await.unwrap();
    let lowers: Vec<&Path> = option(&mounts[0], "lowerdir").unwrap().split(':').map(Path::new).collect();
    let parent = |path: &Path| path.parent().unwrap().parent().unwrap().to_owned();
    assert_eq!((lowers.len(), parent(lowers[0])), (2, parent(lowers[1])));
    let own = Path::new(option(&unpacking[0], "upperdir").unwrap());
    assert_eq!(lowers[0].canonicalize().unwrap(), own.canonicalize().unwrap());

    let link = lowers[0].parent().unwrap().to_owned();
    daemon.remove("container").await.unwrap();
    daemon.remove(&unknown).await.unwrap();
    assert!(link.symlink_metadata().is_err());
}

#[tokio::test]
async fn what_cannot_be_lazy_is_unpacked_with_a_reason() {
    let mut daemon = Daemon::start().await;
    let two = know(&daemon, "two", 2);
    let mut bare = layer(&chain("a"));
    bare.retain(|key, _| key == "containerd.io/snapshot.ref");
    let mut hostile = layer(&chain("b"));
    hostile.insert("containerd.io/snapshot/cri.manifest-digest".to_owned(), "sha256:../../x".to_owned());

    assert!(daemon.prepare("1", "", layer(&chain("unknown"))).await.is_ok());
    assert!(daemon.prepare("2", "", bare).await.is_ok());
    assert!(daemon.prepare("3", "", hostile).await.is_ok());
    // The second layer without the first beneath it, as with containerd's capability `rebase`.
    assert!(daemon.prepare("4", "", layer(&two)).await.is_ok());
    assert!(daemon.prepare("5", "", Labels::new()).await.is_ok());

    let codes: Vec<_> = daemon.snapshotter.fallbacks().counts().into_iter().collect();
    let expected = [
        FallbackCode::NoImageLabels,
        FallbackCode::BadLabels,
        FallbackCode::NoLaunchArtifact,
        FallbackCode::SnapshotConflict,
    ];
    assert_eq!(codes, expected.map(|code| (code, 1)));
}

#[tokio::test]
async fn a_promise_survives_a_crash() {
    let mut daemon = Daemon::start().await;
    let one = know(&daemon, "one", 1);
    assert_eq!(daemon.prepare("x", "", layer(&one)).await, Err(Code::AlreadyExists));
    let container = daemon.prepare("container", &one, Labels::new()).await.unwrap();

    let mut daemon = daemon.restart().await;
    let restored = daemon.mounts.restored.lock().unwrap().clone();
    assert_eq!((restored.len(), restored[0].prefix), (1, 1));
    assert_eq!(restored[0].chain_id.to_string(), one);
    assert_eq!(daemon.mounts("container").await.unwrap(), container);
    assert_eq!(daemon.prepare("y", "", layer(&one)).await, Err(Code::AlreadyExists));
}

#[tokio::test]
async fn a_removed_layer_is_let_go_of_as_soon_as_it_is_idle() {
    let mut daemon = Daemon::start().await;
    let one = know(&daemon, "one", 1);
    let _ = daemon.prepare("x", "", layer(&one)).await;
    daemon.mounts.busy.store(true, Ordering::Relaxed);
    daemon.remove(&one).await.unwrap();
    assert_eq!(daemon.stat(&one).await, Err(Code::NotFound));
    daemon.clean_up().await;
    assert!(daemon.mounts.released.lock().unwrap().is_empty());
    daemon.mounts.busy.store(false, Ordering::Relaxed);
    daemon.clean_up().await;
    daemon.clean_up().await;
    assert_eq!(daemon.mounts.released.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn one_layer_prepared_many_times_at_once_is_recorded_once() {
    let daemon = Daemon::start().await;
    let one = know(&daemon, "one", 1);
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let (snapshotter, labels) = (daemon.snapshotter.clone(), layer(&one).into_iter().collect());
            tokio::spawn(async move { snapshotter.prepare(format!("x{n}"), None, labels).await })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("already exists"), "{error}");
    }
    assert_eq!(daemon.snapshotter.list(&[]).unwrap().len(), 1);
}
