//! Pods as the kubelet has them: images pulled, containers started, looked into and removed over CRI alone.
//!
//! `make test` runs these with this machine's containerd, `make test-matrix` with others.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::{Bed, backings, noise, runnable, status};
use jaunt_tests::containerd::Version;
use jaunt_tests::cri::{Cri, MAPPED};
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Node, mounts, needs_root};

const LIMIT: Duration = Duration::from_secs(60);
/// The first whose pods have user namespaces; before, containerd ignores that the kubelet asks for one.
const USER_NAMESPACES: Version = Version { major: 1, minor: 7 };

/// The first that tells where a proxy plugin says its images are.
const EXPORTS_ROOT: Version = Version { major: 1, minor: 7 };

/// The first that may be told that ids are mapped.
const MAPS_IDS: Version = Version { major: 2, minor: 0 };

/// A network for pods that want one of their own: an address that nobody has, on an interface that is not there.
const CNI_PLUGIN: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
ADD) echo '{"cniVersion":"0.4.0","interfaces":[{"name":"'"$CNI_IFNAME"'","sandbox":"'"$CNI_NETNS"'"}],
    "ips":[{"version":"4","interface":0,"address":"198.18.0.2/32"}]}' ;;
esac
"#;

fn image() -> Image {
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/one", "1\n"), file("data/unread", noise(8, 4 << 20))]))
        .layer(layer([file("data/two", "2\n").owner(7, 8)]))
        .command(&["/bin/sh", "-c", "exec sleep 600"])
}

/// What holds a pod's namespaces.
fn pause(bed: &Bed) -> Pushed {
    let image = Image::new().layer(layer(runnable())).command(&["/bin/sh", "-c", "exec sleep 600"]);
    image.build().unwrap().push(&bed.registry, "pause", "v1").unwrap()
}

/// A node whose containerd can run pods.
fn node_for_pods<'a>(bed: &'a Bed, pause: &Pushed) -> Node<'a> {
    for_pods(bed, pause, bed.node())
}

/// The same, whose containerd maps ids.
fn node_that_maps_ids<'a>(bed: &'a Bed, pause: &Pushed, config: &str) -> Node<'a> {
    let node = bed.node_with(config);
    let (file, proxy) = (node.containerd.config(), "[proxy_plugins.jaunt]\n");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(proxy), "{text}");
    fs::write(&file, text.replace(proxy, &format!("{proxy}  capabilities = [\"remap-ids\"]\n"))).unwrap();
    for_pods(bed, pause, node)
}

/// Whether containerd and the kernel can.
fn can_map_ids(bed: &Bed) -> bool {
    let version = Version::installed(&bed.scratch).unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let kernel_can = (numbers.next(), numbers.next()) >= (Some(6), Some(12));
    let can = kernel_can && version >= MAPS_IDS;
    if !can {
        eprintln!(
            "skipped: {}: containerd {version} on Linux {kernel} maps no ids of lazy images",
            module_path!()
        );
    }
    can
}

fn for_pods<'a>(bed: &'a Bed, pause: &Pushed, mut node: Node<'a>) -> Node<'a> {
    let cni = node.containerd.config().with_file_name("cni");
    fs::create_dir_all(cni.join("bin")).unwrap();
    fs::create_dir_all(cni.join("conf")).unwrap();
    for plugin in ["fixture", "loopback"].map(|name| cni.join("bin").join(name)) {
        fs::write(&plugin, CNI_PLUGIN).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let list = r#"{"cniVersion":"0.4.0","name":"fixture","plugins":[{"type":"fixture"}]}"#;
    fs::write(cni.join("conf/fixture.conflist"), list).unwrap();
    let config = node.containerd.config();
    let text = fs::read_to_string(&config).unwrap();
    let runc = config.with_file_name("runc");
    let root = format!("    root = {:?}\n", node.jaunt.as_ref().unwrap().root());
    let exports = "[proxy_plugins.jaunt.exports]\n";
    let text = match Version::installed(&bed.scratch).unwrap().major {
        ..2 => for_pods_1(&text, &pause.reference, &runc.display().to_string()) + exports + &root,
        2.. => for_pods_2(&text, &pause.reference, &runc.display().to_string(), &cni.display().to_string())
            .replace(exports, &format!("{exports}{root}")),
    };
    fs::write(&config, text).unwrap();
    node.containerd.restart().unwrap();
    node
}

fn for_pods_1(config: &str, pause: &str, runc: &str) -> String {
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    assert!(config.contains(cri), "{config}");
    let own = format!("{cri}  sandbox_image = \"{pause}\"\n  restrict_oom_score_adj = true\n");
    let runtime = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc";
    config.replace(cri, &own)
        + &format!(
            "{runtime}]\n  runtime_type = \"io.containerd.runc.v2\"\n{runtime}.options]\n  Root = \"{runc}\"\n"
        )
}

fn for_pods_2(config: &str, pause: &str, runc: &str, cni: &str) -> String {
    let section = "[plugins.\"io.containerd.cri.v1.runtime\".cni]\n";
    assert!(config.contains(section), "{config}");
    let runtime = "[plugins.\"io.containerd.cri.v1.runtime\"";
    config.replace(section, &format!("{section}  bin_dir = \"{cni}/bin\"\n"))
        + &format!(
            "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = \"{pause}\"\n\
             {runtime}]\n  restrict_oom_score_adj = true\n  netns_mounts_under_state_dir = true\n\
             {runtime}.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n\
             {runtime}.containerd.runtimes.runc.options]\n  Root = \"{runc}\"\n",
        )
}

/// Where images are, in containerd's words to the kubelet: 1.6 does not ask.
fn images_at(bed: &Bed, node: &Node<'_>) -> String {
    let at = match Version::installed(&bed.scratch).unwrap() {
        version if version < EXPORTS_ROOT => {
            node.containerd.config().with_file_name("root").join("io.containerd.snapshotter.v1.jaunt")
        }
        _ => node.jaunt.as_ref().unwrap().root(),
    };
    at.display().to_string()
}

/// What is kept of decoded layers.
fn kept(node: &Node<'_>) -> Vec<String> {
    let dirs = fs::read_dir(node.jaunt.as_ref().unwrap().root().join("layers")).unwrap().flatten();
    let names = dirs.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.len() == 64).collect()
}

#[test]
fn the_kubelets_calls_run_a_lazy_pod_and_collect_its_image() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let pause = pause(&bed);
    let node = node_for_pods(&bed, &pause);
    println!("containerd {}", Version::installed(&bed.scratch).unwrap());
    let cri = Cri::connect(&bed.scratch, &node.containerd.socket()).unwrap();
    let id = cri.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &node), ["lazy"; 3]);
    let known = cri.image(&pushed.reference).unwrap().unwrap();
    assert_eq!(known.id, id);
    assert!(known.size > 4 << 20, "{known:?}");

    let pod = cri.run_pod(false).unwrap();
    let container = cri.run(&pod, "app", &pushed.reference, &[]).unwrap();
    let show = "cat /data/one /data/two; echo changed > /data/one; cat /data/one";
    assert_eq!(cri.exec(&container, &["/bin/sh", "-ec", show]).unwrap(), "1\n2\nchanged\n");
    let again = cri.run(&pod, "again", &pushed.reference, &[]).unwrap();
    assert_eq!(cri.exec(&again, &["/bin/cat", "/data/one"]).unwrap(), "1\n");
    let told = images_at(&bed, &node);
    wait_until("ImageFsInfo to count snapshots", LIMIT, || {
        cri.image_fs().is_ok_and(|(point, bytes, inodes)| point == told && bytes > 0 && inodes > 0)
    })
    .unwrap();

    cri.remove_pod(&pod.id).unwrap();
    let run_dir = node.jaunt.as_ref().unwrap().run_dir();
    assert!(!mounts::below(&run_dir).is_empty() && !kept(&node).is_empty());
    cri.remove_image(&pushed.reference).unwrap();
    cri.remove_image(&pause.reference).unwrap();
    assert!(cri.image(&pushed.reference).unwrap().is_none());
    wait_until("collection of snapshots", LIMIT, || backings(&bed, &node).is_empty()).unwrap();
    wait_until("mounts to go", LIMIT, || mounts::below(&run_dir).is_empty()).unwrap();
    wait_until("what was decoded to go", LIMIT, || kept(&node).is_empty()).unwrap();
    wait_until("content to go", LIMIT, || {
        run(&mut node.containerd.ctr(&["content", "ls", "--quiet"])).unwrap().is_empty()
    })
    .unwrap();
    wait_until("ImageFsInfo to tell that nothing is left", LIMIT, || {
        cri.image_fs().is_ok_and(|(point, bytes, inodes)| point == told && (bytes, inodes) == (0, 0))
    })
    .unwrap();
}

/// containerd copies the image for it, with other owners, and so fetches all of it.
#[test]
fn a_pod_in_a_user_namespace_runs_a_lazy_image() {
    needs_root!();
    let bed = Bed::new();
    let version = Version::installed(&bed.scratch).unwrap();
    if version < USER_NAMESPACES {
        eprintln!("skipped: {}: containerd {version} gives pods no user namespace", module_path!());
        return;
    }
    let (_, pushed) = bed.converted(image());
    let node = node_for_pods(&bed, &pause(&bed));
    let cri = Cri::connect(&bed.scratch, &node.containerd.socket()).unwrap();
    cri.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &node), ["lazy"; 3]);
    let pod = cri.run_pod(true).unwrap();
    let container = cri.run(&pod, "app", &pushed.reference, &[]).unwrap();
    looks_right_inside(&cri, &container);
    cri.remove_pod(&pod.id).unwrap();
}

/// Owners are those of the image, its root owns what the container writes, and files can be written over.
fn looks_right_inside(cri: &Cri, container: &str) {
    let map = cri.exec(container, &["/bin/cat", "/proc/self/uid_map"]).unwrap();
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", MAPPED.0.to_string().as_str(), MAPPED.1.to_string().as_str()]);
    let list = || cri.exec(container, &["/bin/ls", "-ln", "/data"]).unwrap();
    let owner = |name: &str| {
        let list = list();
        let line = list.lines().find(|line| line.ends_with(name)).unwrap();
        line.split_whitespace().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((owner(" one"), owner(" two")), (vec!["0".into(); 2], vec!["7".into(), "8".into()]));
    let change = "echo changed > /data/one; cat /data/one; echo new > /data/new; echo other >> /data/two";
    assert_eq!(cri.exec(container, &["/bin/sh", "-ec", change]).unwrap(), "changed\n");
    assert_eq!((owner(" one"), owner(" new")), (vec!["0".into(); 2], vec!["0".into(); 2]));
    assert_eq!(owner(" two"), ["7", "8"]);
}

/// Mounts map the ids, and nothing is copied.
#[test]
fn a_pod_in_a_user_namespace_is_lazy_where_ids_are_mapped() {
    needs_root!();
    let bed = Bed::new();
    if !can_map_ids(&bed) {
        return;
    }
    let (_, pushed) = bed.converted(image());
    let node = node_that_maps_ids(&bed, &pause(&bed), "[completion]\nenabled = false\n");
    let cri = Cri::connect(&bed.scratch, &node.containerd.socket()).unwrap();
    cri.pull(&pushed.reference).unwrap();
    let pod = cri.run_pod(true).unwrap();
    let container = cri.run(&pod, "app", &pushed.reference, &[]).unwrap();
    looks_right_inside(&cri, &container);
    assert_eq!(backings(&bed, &node), ["lazy"; 3], "what holds the pod has the image's bottom layer");
    let status = status(&bed, &node);
    let images = status["images"].as_array().unwrap();
    let image = images.iter().find(|image| image["lazy"] == 3).unwrap();
    let (present, total) = (image["present_bytes"].as_u64().unwrap(), image["total_bytes"].as_u64().unwrap());
    assert!(present > 0 && present + (2 << 20) < total, "{present} of {total} bytes are here");
    let mapped = node.jaunt.as_ref().unwrap().run_dir().join("mapped");
    assert_eq!(mounts::below(&mapped).len(), 2, "the container's, and what holds the pod");
    // Pods that have no namespace stand on the same mount.
    let plain = cri.run_pod(false).unwrap();
    let beside = cri.run(&plain, "beside", &pushed.reference, &[]).unwrap();
    assert_eq!(cri.exec(&beside, &["/bin/cat", "/data/one"]).unwrap(), "1\n");
    cri.remove_pod(&plain.id).unwrap();
    cri.remove_pod(&pod.id).unwrap();
    wait_until("clones to go", LIMIT, || mounts::below(&mapped).is_empty()).unwrap();
}

/// Some layers are on one file system, some on another.
#[test]
fn a_pod_in_a_user_namespace_is_lazy_below_what_was_unpacked() {
    needs_root!();
    let bed = Bed::new();
    if !can_map_ids(&bed) {
        return;
    }
    let (_, pushed) = bed.converted(image());
    let derived = image().layer(layer([file("data/own", "own\n").owner(9, 9)]));
    let derived = derived.build().unwrap().push(&bed.registry, "fixture", "derived").unwrap();
    let node = node_that_maps_ids(&bed, &pause(&bed), "[completion]\nenabled = false\n");
    let cri = Cri::connect(&bed.scratch, &node.containerd.socket()).unwrap();
    cri.pull(&pushed.reference).unwrap();
    cri.pull(&derived.reference).unwrap();
    let pod = cri.run_pod(true).unwrap();
    let container = cri.run(&pod, "app", &derived.reference, &[]).unwrap();
    looks_right_inside(&cri, &container);
    let own = cri.exec(&container, &["/bin/busybox", "stat", "-c", "%u:%g", "/data/own", "/data"]).unwrap();
    assert_eq!(own, "9:9\n0:0\n");
    let mut all = backings(&bed, &node);
    all.sort();
    assert_eq!(all, ["eager", "lazy", "lazy", "lazy"]);
    let mapped = node.jaunt.as_ref().unwrap().run_dir().join("mapped");
    assert_eq!(mounts::below(&mapped).len(), 3, "two of the container, and what holds the pod");
    cri.remove_pod(&pod.id).unwrap();
    wait_until("clones to go", LIMIT, || mounts::below(&mapped).is_empty()).unwrap();
}

/// What the kernel reads by itself is mapped as well.
#[test]
fn a_pod_in_a_user_namespace_runs_a_complete_image() {
    needs_root!();
    let bed = Bed::new();
    if !can_map_ids(&bed) {
        return;
    }
    let (_, pushed) = bed.converted(image());
    let node = node_that_maps_ids(&bed, &pause(&bed), "[completion]\ndelay_seconds = 0\n");
    let cri = Cri::connect(&bed.scratch, &node.containerd.socket()).unwrap();
    cri.pull(&pushed.reference).unwrap();
    let plain = cri.run_pod(false).unwrap();
    cri.run(&plain, "first", &pushed.reference, &[]).unwrap();
    let jaunt = node.jaunt.as_ref().unwrap();
    wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
    let pod = cri.run_pod(true).unwrap();
    let container = cri.run(&pod, "app", &pushed.reference, &[]).unwrap();
    if !jaunt.log().contains("the kernel reads it by itself") {
        eprintln!("this kernel mounts no complete images: FUSE was looked at once more");
    }
    looks_right_inside(&cri, &container);
    cri.remove_pod(&pod.id).unwrap();
}
