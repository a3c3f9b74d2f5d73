//! What differs from one containerd to the next: the ways images are pulled, and what must be configured.
//!
//! `make test` runs these with this machine's containerd, `make test-matrix` with others; each test knows
//! for which it holds.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{Bed, await_ready, backings, runnable};
use jaunt_tests::containerd::Version;
use jaunt_tests::containerd::collection::Collection;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::run;
use jaunt_tests::{Node, needs_root};

const CONCURRENT_UNPACKS: &str =
    "[plugins.\"io.containerd.transfer.v1.local\"]\n  max_concurrent_unpacks = 4\n";

/// How many namespaces an image is pulled into.
const NAMESPACES: u32 = 16;

/// Three layers, the bottom one runnable.
fn image() -> Image {
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/one", "1\n")]))
        .layer(layer([file("data/two", "2\n")]))
        .command(&["/bin/sh", "-ec", "cat /data/one /data/two; echo ready; exec sleep 600"])
}

/// Changes containerd's configuration and has it read.
fn reconfigure(node: &mut Node<'_>, change: impl FnOnce(String) -> String) {
    let file = node.containerd.config();
    fs::write(&file, change(fs::read_to_string(&file).unwrap())).unwrap();
    node.containerd.restart().unwrap();
}

/// Pulls with more flags, and returns what was printed.
fn pull(node: &Node<'_>, reference: &str, flags: &[&str]) -> jaunt_tests::Result<String> {
    run(node.pull_command(reference).args(flags))
}

/// The image is all there in the way meant, its container runs, and nothing stays of it.
fn runs_and_goes(bed: &Bed, node: &Node<'_>, reference: &str, backing: &str) {
    assert_eq!(backings(bed, node), [backing; 3]);
    await_ready(&mut node.containerd.run(reference).unwrap());
    node.containerd.remove_images().unwrap();
    assert_eq!(backings(bed, node), [""; 0]);
}

/// Whether containerd is that new; says so where it is not, and the test has nothing to look at.
fn at_least(bed: &Bed, wanted: Version) -> bool {
    let version = Version::installed(&bed.scratch).unwrap();
    if version < wanted {
        eprintln!("skipped: {}: containerd {version} is older than {wanted}", module_path!());
    }
    version >= wanted
}

#[test]
fn images_are_pulled_lazily_run_and_removed() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let node = bed.node();
    let version = Version::installed(&bed.scratch).unwrap();
    let said = node.pull(&pushed.reference).unwrap();
    println!("containerd {version}: {said}");
    assert!(said.contains("3 of 3 layers lazy"), "{said}");
    let through = if version < Version::LAZY_TRANSFER { "CRI" } else { "transfer service" };
    assert!(said.contains(&format!("through containerd's {through}")), "containerd {version}: {said}");
    runs_and_goes(&bed, &node, &pushed.reference, "lazy");
}

/// `ctr images pull` says nothing of an image's name before it has the transfer service do it (2.1).
#[test]
fn what_ctr_pulls_itself_is_unpacked_or_lazy_and_runs() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let node = bed.node();
    node.containerd.pull("jaunt", &pushed.reference).unwrap();
    let names_it = Version::installed(&bed.scratch).unwrap() >= Version::LAZY_TRANSFER;
    runs_and_goes(&bed, &node, &pushed.reference, if names_it { "lazy" } else { "eager" });
}

#[test]
fn images_without_an_artifact_are_pulled_run_and_removed() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(image());
    let node = bed.node();
    let said = node.pull(&pushed.reference).unwrap();
    assert!(said.contains("0 of 3 layers lazy (no-launch-artifact)"), "{said}");
    runs_and_goes(&bed, &node, &pushed.reference, "eager");
}

/// From 2.1 on, CRI has two ways of its own to pull: the transfer service, and, when told to label
/// snapshots itself, the old one.
#[test]
fn the_kubelets_pulls_are_lazy() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let mut node = bed.node();
    let said = pull(&node, &pushed.reference, &["--through", "cri"]).unwrap();
    assert!(said.contains("through containerd's CRI") && said.contains("3 of 3 layers lazy"), "{said}");
    runs_and_goes(&bed, &node, &pushed.reference, "lazy");
    if Version::installed(&bed.scratch).unwrap() >= Version::LAZY_TRANSFER {
        let section = "[plugins.\"io.containerd.cri.v1.images\"]\n";
        let labels = format!("{section}  disable_snapshot_annotations = false\n");
        reconfigure(&mut node, |config| config.replace(section, &labels));
        let said = pull(&node, &pushed.reference, &["--through", "cri"]).unwrap();
        assert!(said.contains("3 of 3 layers lazy"), "{said}");
        runs_and_goes(&bed, &node, &pushed.reference, "lazy");
    }
}

/// One configuration for all nodes of a cluster, the exports of 2.1 in it: 1.7 knows the table, and drops
/// the labels all the same.
#[test]
fn exports_do_not_lead_a_pull_astray() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let mut node = bed.node();
    if Version::installed(&bed.scratch).unwrap() < Version::LAZY_TRANSFER {
        let exports = "[proxy_plugins.jaunt.exports]\nenable_remote_snapshot_annotations = \"true\"\n";
        reconfigure(&mut node, |config| config + exports);
    }
    let said = node.pull(&pushed.reference).unwrap();
    assert!(said.contains("3 of 3 layers lazy"), "{said}");
}

/// A proxy plugin alone does not have the transfer service unpack for it.
#[test]
fn a_snapshotter_that_nothing_is_unpacked_for_is_told_what_to_configure() {
    needs_root!();
    let bed = Bed::new();
    if !at_least(&bed, Version::LAZY_TRANSFER) {
        return;
    }
    let (_, pushed) = bed.converted(image());
    let mut node = bed.node();
    reconfigure(&mut node, |config| {
        let ours = "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux\"\n  \
                    snapshotter = \"jaunt\"\n";
        assert!(config.contains(ours), "{config}");
        config.replace(ours, "")
    });
    let error = node.pull(&pushed.reference).unwrap_err().to_string();
    assert!(
        error.contains("does not unpack images for snapshotter \"jaunt\"") && error.contains("unpack_config"),
        "{error}"
    );
}

/// Files as nodes have them: none, containerd's own, and those of an older containerd that was upgraded.
fn earlier_configurations(bed: &Bed) -> Vec<String> {
    let default = run(bed.scratch.command("containerd").args(["config", "default"])).unwrap();
    let of_version_2 =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/certs\"\n";
    let runtimes = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  \
                    runtime_type = \"io.containerd.runc.v2\"\n";
    let usual = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"overlayfs\"\n";
    vec![
        String::new(),
        default,
        of_version_2.to_owned(),
        format!("{of_version_2}{runtimes}"),
        format!("{of_version_2}{usual}{runtimes}"),
    ]
}

fn at<'t>(table: &'t toml::Table, path: &[&str]) -> Option<&'t toml::Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(*key))
}

/// What `install` writes, containerd has.
#[test]
fn what_install_writes_is_read_as_it_is_meant() {
    let bed = Bed::new();
    let version = Version::installed(&bed.scratch).unwrap();
    let containerd = jaunt_tests::host::find("containerd").unwrap();
    let file = bed.scratch.path().join("config.toml");
    for (number, text) in earlier_configurations(&bed).into_iter().enumerate() {
        fs::write(&file, text).unwrap();
        let mut install = bed.binaries.snapshotter(&bed.scratch, &["install", "--no-unit", "--print"]);
        install.arg("--containerd").arg(&containerd).arg("--containerd-config").arg(&file);
        // What it says besides is a comment.
        fs::write(&file, run(&mut install).unwrap()).unwrap();
        let mut dump = bed.scratch.command("containerd");
        let dump = run(dump.arg("--config").arg(&file).args(["config", "dump"])).unwrap();
        let dump: toml::Table = toml::from_str(&dump).unwrap();
        let cri: &[&str] = match version.major {
            ..2 => &["plugins", "io.containerd.grpc.v1.cri", "containerd"],
            2.. => &["plugins", "io.containerd.cri.v1.images"],
        };
        let cri = |key: &str| at(&dump, &[cri, &[key]].concat());
        assert_eq!(cri("snapshotter").and_then(|name| name.as_str()), Some("jaunt"), "{number}: {version}");
        assert_eq!(at(&dump, &["proxy_plugins", "jaunt", "type"]).unwrap().as_str(), Some("snapshot"));
        let exports = at(&dump, &["proxy_plugins", "jaunt", "exports"]);
        let told = exports.and_then(|exports| exports.get("root")).and_then(toml::Value::as_str);
        let tells = version >= Version { major: 1, minor: 7 };
        assert_eq!(told, tells.then_some("/var/lib/jaunt"), "{number}: {version}");
        if version < Version::LAZY_TRANSFER {
            let hidden = cri("disable_snapshot_annotations").and_then(toml::Value::as_bool);
            assert_eq!(hidden, Some(false), "{number}: {version}");
            continue;
        }
        let unpack = at(&dump, &["plugins", "io.containerd.transfer.v1.local", "unpack_config"]);
        let entries = unpack.and_then(toml::Value::as_array).unwrap().iter();
        let names: Vec<_> = entries.map(|entry| entry["snapshotter"].as_str().unwrap()).collect();
        assert_eq!(names, ["jaunt", "overlayfs"], "{number}: {version}");
        let exports = at(&dump, &["proxy_plugins", "jaunt", "exports"]).unwrap();
        assert_eq!(exports["enable_remote_snapshot_annotations"].as_str(), Some("true"), "{number}");
    }
}

/// Another name for an image that is there brings no layer.
#[test]
fn another_tag_of_the_same_image_is_lazy_too() {
    needs_root!();
    let bed = Bed::new();
    let (built, pushed) = bed.converted(image());
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let other = built.push(&bed.registry, "fixture", "other").unwrap();
    let said = node.pull(&other.reference).unwrap();
    assert!(said.contains("3 of 3 layers lazy"), "{said}");
    await_ready(&mut node.containerd.run(&other.reference).unwrap());
}

/// Where containerd unpacks layers side by side it prepares them without their parents, which a lazy layer
/// cannot do without: it must not do so for us.
#[test]
fn concurrent_unpacking_leaves_layers_lazy() {
    needs_root!();
    let bed = Bed::new();
    if !at_least(&bed, Version::PARALLEL_UNPACK) {
        return;
    }
    let mut node = bed.node();
    reconfigure(&mut node, |config| config + CONCURRENT_UNPACKS);
    let (_, pushed) = bed.converted(image());
    for flags in [&[][..], &["--through", "cri"]] {
        let said = pull(&node, &pushed.reference, flags).unwrap();
        assert!(said.contains("3 of 3 layers lazy"), "{said}");
        runs_and_goes(&bed, &node, &pushed.reference, "lazy");
    }
    let (_, pushed) = bed.pushed(image().layer(layer([file("data/three", "3\n")])));
    let said = node.pull(&pushed.reference).unwrap();
    assert!(said.contains("0 of 4 layers lazy"), "{said}");
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
}

/// Someone lists the capability all the same: that costs laziness, and no container.
#[test]
fn layers_prepared_without_their_parents_are_unpacked() {
    needs_root!();
    let bed = Bed::new();
    if !at_least(&bed, Version::PARALLEL_UNPACK) {
        return;
    }
    let mut node = bed.node();
    reconfigure(&mut node, |config| {
        let proxy = "[proxy_plugins.jaunt]\n";
        config.replace(proxy, &format!("{proxy}  capabilities = [\"rebase\"]\n")) + CONCURRENT_UNPACKS
    });
    let (_, pushed) = bed.converted(image());
    let said = node.pull(&pushed.reference).unwrap();
    assert!(said.contains("1 of 3 layers lazy (snapshot-conflict)"), "{said}");
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
}

/// containerd's garbage collection takes the streams of a namespace that its database has never heard of, and
/// a pull refers to streams by name. It collects after its start, and here all the time.
#[test]
fn a_pull_into_a_new_namespace_lives_through_garbage_collection() {
    needs_root!();
    let bed = Bed::new();
    if !at_least(&bed, Version::LAZY_TRANSFER) {
        return;
    }
    let (_, pushed) = bed.converted(image());
    let node = bed.node();
    let collection = Collection::start(&node.containerd.socket());
    let pulled = |number| pull(&node, &pushed.reference, &["--namespace", &format!("new-{number}")]);
    let failed: Vec<_> =
        (0..NAMESPACES).filter_map(|number| pulled(number).err()).map(|error| error.to_string()).collect();
    let rounds = collection.stop().unwrap();
    assert!(failed.is_empty(), "{} of {NAMESPACES}: {failed:#?}", failed.len());
    assert!(rounds >= NAMESPACES, "collected {rounds} times");
}
