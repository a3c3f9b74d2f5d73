//! Snapshots that containerd fills: the rules of its overlayfs snapshotter.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use jaunt_snapshotter::proto::containerd::services::snapshots::v1 as api;
use tonic::Code;

use crate::fakes::Daemon;
use crate::{Labels, labels, option};

#[tokio::test]
async fn a_chain_is_bound_first_and_overlaid_after() {
    let mut daemon = Daemon::start().await;
    let bottom = daemon.prepare("a", "", Labels::new()).await.unwrap();
    assert_eq!(
        (bottom[0].r#type.as_str(), bottom[0].options.as_slice()),
        ("bind", ["rw", "rbind"].map(String::from).as_slice())
    );
    std::fs::write(Path::new(&bottom[0].source).join("file"), vec![1; 9000]).unwrap();
    daemon.commit("c1", "a", Labels::new()).await.unwrap();

    let (size, inodes) = daemon.usage("c1").await.unwrap();
    assert!(size >= 9000 && inodes == 2, "{size} {inodes}");

    let second = daemon.prepare("b", "c1", Labels::new()).await.unwrap();
    assert_eq!(second[0].r#type, "overlay");
    assert_eq!(option(&second[0], "lowerdir"), Some(bottom[0].source.as_str()));
    assert!(Path::new(option(&second[0], "workdir").unwrap()).is_dir());
    assert_eq!(daemon.mounts("b").await.unwrap(), second);
    daemon.commit("c2", "b", Labels::new()).await.unwrap();

    let view = daemon.view("v", "c1").await.unwrap();
    assert_eq!((view[0].r#type.as_str(), &view[0].source), ("bind", &bottom[0].source));
    let view = daemon.view("w", "c2").await.unwrap();
    let lowers = format!("{}:{}", option(&second[0], "upperdir").unwrap(), bottom[0].source);
    assert_eq!((option(&view[0], "lowerdir"), option(&view[0], "upperdir")), (Some(lowers.as_str()), None));
}

#[tokio::test]
async fn an_upper_directory_repeats_its_parents_root() {
    let mut daemon = Daemon::start().await;
    let mounts = daemon.prepare("a", "", Labels::new()).await.unwrap();
    let root = Path::new(&mounts[0].source);
    assert_eq!(root.metadata().unwrap().mode() & 0o7777, 0o755);
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1711)).unwrap();
    daemon.commit("c", "a", Labels::new()).await.unwrap();
    let mounts = daemon.prepare("b", "c", Labels::new()).await.unwrap();
    let upper = Path::new(option(&mounts[0], "upperdir").unwrap()).metadata().unwrap();
    assert_eq!(upper.mode() & 0o7777, 0o1711);
}

#[tokio::test]
async fn a_user_namespace_owns_its_upper_directory() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: changing owners needs root");
        return;
    }
    let mut daemon = Daemon::start().await;
    let mapping = labels([
        ("containerd.io/snapshot/uidmapping", "0:1000:65536"),
        ("containerd.io/snapshot/gidmapping", "0:2000:65536"),
    ]);
    let mounts = daemon.prepare("a", "", mapping).await.unwrap();
    assert_eq!(option(&mounts[0], "uidmap"), Some("0:1000:65536"));
    let root = Path::new(&mounts[0].source).metadata().unwrap();
    assert_eq!((root.uid(), root.gid()), (1000, 2000));
    let bad = labels([("containerd.io/snapshot/uidmapping", "1:1:1")]);
    assert_eq!(daemon.prepare("b", "", bad).await, Err(Code::InvalidArgument));
}

/// containerd, where it is not said that we map ids, changes the owners itself.
#[tokio::test]
async fn files_with_changed_owners_are_not_mapped_again() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: changing owners needs root");
        return;
    }
    let mut daemon = Daemon::start().await;
    let mapping = || {
        labels([
            ("containerd.io/snapshot/uidmapping", "0:1000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:2000:65536"),
        ])
    };
    daemon.prepare("a", "", Labels::new()).await.unwrap();
    daemon.commit("ns/1/sha256:c", "a", Labels::new()).await.unwrap();
    let mapped = daemon.prepare("mapped", "ns/1/sha256:c", mapping()).await.unwrap();
    assert_eq!(option(&mapped[0], "gidmap"), Some("0:2000:65536"));
    daemon.prepare("ns/2/sha256:d-remap", "ns/1/sha256:c", Labels::new()).await.unwrap();
    daemon.commit("ns/3/sha256:d", "ns/2/sha256:d-remap", Labels::new()).await.unwrap();
    let changed = daemon.prepare("changed", "ns/3/sha256:d", mapping()).await.unwrap();
    assert_eq!((option(&changed[0], "uidmap"), option(&changed[0], "gidmap")), (None, None));
    let upper = Path::new(option(&changed[0], "upperdir").unwrap()).metadata().unwrap();
    assert_eq!((upper.uid(), upper.gid()), (1000, 2000));
}

#[tokio::test]
async fn refusals_have_the_codes_that_containerd_expects() {
    let mut daemon = Daemon::start().await;
    daemon.prepare("a", "", Labels::new()).await.unwrap();
    daemon.commit("c", "a", Labels::new()).await.unwrap();
    daemon.prepare("b", "c", Labels::new()).await.unwrap();
    daemon.view("v", "c").await.unwrap();

    assert_eq!(daemon.prepare("b", "c", Labels::new()).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.view("b", "c").await, Err(Code::AlreadyExists));
    assert_eq!(daemon.prepare("x", "absent", Labels::new()).await, Err(Code::NotFound));
    assert_eq!(daemon.prepare("x", "b", Labels::new()).await, Err(Code::InvalidArgument));
    assert_eq!(daemon.prepare("", "c", Labels::new()).await, Err(Code::InvalidArgument));
    assert_eq!(daemon.commit("c", "b", Labels::new()).await, Err(Code::AlreadyExists));
    assert_eq!(daemon.commit("x", "absent", Labels::new()).await, Err(Code::NotFound));
    assert_eq!(daemon.commit("x", "v", Labels::new()).await, Err(Code::FailedPrecondition));
    assert_eq!(daemon.mounts("c").await, Err(Code::FailedPrecondition));
    assert_eq!(daemon.mounts("absent").await, Err(Code::NotFound));
    assert_eq!(daemon.stat("absent").await, Err(Code::NotFound));
    assert_eq!(daemon.usage("absent").await, Err(Code::NotFound));
    assert_eq!(daemon.remove("c").await, Err(Code::FailedPrecondition));
    assert_eq!(daemon.remove("absent").await, Err(Code::NotFound));
    assert_eq!(daemon.list(&["name=="]).await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn labels_change_by_field_mask() {
    let mut daemon = Daemon::start().await;
    daemon.prepare("a", "", labels([("containerd.io/gc.root", "x"), ("l", "1")])).await.unwrap();
    let mut update = async |paths: &[&str], changed: Labels| {
        let info = api::Info {
            name: "a".to_owned(),
            parent: "ignored".to_owned(),
            labels: changed,
            ..Default::default()
        };
        let update_mask =
            Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        let request = api::UpdateSnapshotRequest { info: Some(info), update_mask, ..Default::default() };
        let updated = daemon.client.update(request).await.map_err(|status| status.code())?;
        Ok::<_, Code>(updated.into_inner().info.unwrap())
    };
    let some = update(&["labels.l", "labels.gone"], labels([("l", "2"), ("m", "3")])).await.unwrap();
    assert_eq!(some.labels, labels([("containerd.io/gc.root", "x"), ("l", "2")]));
    assert!(some.parent.is_empty() && some.updated_at != some.created_at);
    let all = update(&[], labels([("m", "3"), ("empty", "")])).await.unwrap();
    assert_eq!(all.labels, labels([("m", "3")]));
    assert_eq!(update(&["parent"], Labels::new()).await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn a_list_comes_in_batches_and_by_filter() {
    let mut daemon = Daemon::start().await;
    for n in 0..205 {
        let parity = if n % 2 == 0 { "even" } else { "odd" };
        daemon.prepare(&format!("s{n:03}"), "", labels([("parity", parity)])).await.unwrap();
    }
    assert_eq!(daemon.list(&[]).await.unwrap().len(), 205);
    assert_eq!(daemon.list(&["labels.parity==even,kind==active"]).await.unwrap().len(), 103);
    assert_eq!(daemon.list(&["name==s001", "name==s002"]).await.unwrap(), ["s001", "s002"]);
}

#[tokio::test]
async fn removal_and_crashes_leave_no_files() {
    let mut daemon = Daemon::start().await;
    let kept = daemon.prepare("kept", "", Labels::new()).await.unwrap();
    daemon.prepare("gone", "", Labels::new()).await.unwrap();
    daemon.remove("gone").await.unwrap();
    let root = daemon.dir.path().join("root");
    // As a crash between making a directory and its record would leave it.
    std::fs::create_dir_all(root.join("snapshots/999/fs")).unwrap();
    let mut daemon = daemon.restart().await;
    daemon.clean_up().await;
    let left: Vec<_> =
        std::fs::read_dir(root.join("snapshots")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.iter().map(|path| path.join("fs")).collect::<Vec<_>>(), [Path::new(&kept[0].source)]);
    assert_eq!(std::fs::read_dir(root.join("trash")).unwrap().count(), 0);
    assert_eq!(daemon.mounts("kept").await.unwrap(), kept);
}

#[tokio::test]
async fn requests_at_once_do_not_disturb_one_another() {
    let daemon = Daemon::start().await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let snapshotter = daemon.snapshotter.clone();
            tokio::spawn(async move {
                let key = format!("k{}", n % 32);
                snapshotter.prepare(key, None, Default::default()).await.is_ok()
            })
        })
        .collect();
    let mut prepared = 0;
    for task in tasks {
        prepared += usize::from(task.await.unwrap());
    }
    assert_eq!(prepared, 32);
    daemon.snapshotter.clean_up().await.unwrap();
    let directories = std::fs::read_dir(daemon.dir.path().join("root/snapshots")).unwrap().count();
    assert_eq!(directories, 32);
}
