//! Containers start before their image has arrived, and everything around that: fallbacks, writes,
//! restarts, removal.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Bed, await_ready, backings, noise, runnable, status};
use jaunt_tests::image::{BuiltImage, Image, dir, file, layer};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Binaries, Network, Node, Registry, Scratch, mounts, needs_root};

const LIMIT: Duration = Duration::from_secs(60);

/// A runnable layer, and above it `megabytes` that no start touches.
fn heavy(megabytes: usize) -> Image {
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/unread", noise(7, megabytes << 20))]))
        .command(&["/bin/sh", "-c", "echo ready; exec sleep 600"])
}

#[test]
fn a_container_starts_before_its_image_has_arrived() {
    needs_root!();
    let scratch = Scratch::new().unwrap();
    let network = Network::new(&scratch, 400_000_000).unwrap();
    let registry = Registry::remote(&scratch, &network).unwrap();
    let binaries = Binaries::find().unwrap();
    let pushed = heavy(64).build().unwrap().push(&registry, "fixture", "v1").unwrap();
    binaries.convert(&scratch, &pushed.reference).unwrap();
    let config = "[completion]\nenabled = false\n";
    let node = Node::configured(&scratch, &binaries, &[registry.host()], config).unwrap();

    let before = network.received().unwrap();
    node.pull(&pushed.reference).unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    await_ready(&mut container);
    let fetched = network.received().unwrap() - before;
    assert!(fetched < 8 << 20, "{fetched} bytes fetched before ready");
}

#[test]
fn a_replaced_image_is_lazy_and_so_is_its_original() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(heavy(1));
    let original = bed.registry.manifest("fixture", "v1").unwrap().1;
    run(&mut bed.binaries.proxy(&bed.scratch, &["convert", "--mode", "replace", &pushed.reference])).unwrap();
    assert_ne!(bed.registry.manifest("fixture", "v1").unwrap().1, original);
    let node = bed.node();
    for reference in [pushed.reference.clone(), format!("{}/fixture@{original}", bed.registry.host())] {
        node.pull(&reference).unwrap();
        await_ready(&mut node.containerd.run(&reference).unwrap());
        assert_eq!(backings(&bed, &node), ["lazy", "lazy"], "{reference}");
    }
}

#[test]
fn a_container_writes_over_what_it_has_not_fetched() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(heavy(1));
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let script = "echo more >> /data/unread && head -c 1048581 /data/unread | sha256sum && rm -r /data && ls / && echo x > /new";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-ec", script]).unwrap();
    let said = container.finish_saying(LIMIT).unwrap();
    let content = [noise(7, 1 << 20), b"more\n".to_vec()].concat();
    assert!(said.starts_with(&jaunt_formats::Digest::of(&content).hex()), "{said}");
    assert!(!said.lines().any(|line| line == "data"), "{said}");
}

#[test]
fn an_image_without_an_artifact_is_unpacked_and_that_is_said() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(heavy(1));
    let node = bed.node();
    let said = node.pull(&pushed.reference).unwrap();
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
    assert_eq!(backings(&bed, &node), ["eager", "eager"]);
    let status = status(&bed, &node);
    assert_eq!(status["fallbacks"][0]["code"], "no-launch-artifact", "{status:#}");
    assert_eq!(status["fallbacks"][0]["image"], pushed.reference.as_str(), "{status:#}");
    let log = node.jaunt.as_ref().unwrap().log();
    assert!(log.contains("no-launch-artifact") && log.contains(&pushed.reference), "{log}\n{said}");
}

/// A lazy base below, layers of an image that was never converted above: one root file system.
#[test]
fn unpacked_layers_sit_above_lazy_ones() {
    needs_root!();
    let bed = Bed::new();
    let base = heavy(1);
    bed.converted(base.clone());
    let derived = base.layer(layer([file("data/own", "own\n")])).command(&[
        "/bin/sh",
        "-ec",
        "cat /data/own; sha256sum /data/unread",
    ]);
    let derived = derived.build().unwrap().push(&bed.registry, "fixture", "derived").unwrap();
    let node = bed.node();
    node.pull(&format!("{}/fixture:v1", bed.registry.host())).unwrap();
    node.pull(&derived.reference).unwrap();
    let mut kinds = backings(&bed, &node);
    kinds.sort();
    assert_eq!(kinds, ["eager", "lazy", "lazy"]);
    let said = node.containerd.run(&derived.reference).unwrap().finish_saying(LIMIT).unwrap();
    assert!(said.starts_with("own\n"), "{said}");
    assert!(said.contains(&jaunt_formats::Digest::of(&noise(7, 1 << 20)).hex()), "{said}");
}

#[test]
fn removing_the_image_frees_everything() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(heavy(4));
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let script = "sha256sum /data/unread > /dev/null; echo ready";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-c", script]).unwrap();
    container.finish(LIMIT).unwrap();
    drop(container);
    let jaunt = node.jaunt.as_ref().unwrap();
    assert!(!mounts::below(&jaunt.run_dir()).is_empty());
    node.containerd.remove_images().unwrap();
    let kept = || {
        [jaunt.root().join("snapshots"), jaunt.root().join("layers"), jaunt.root().join("index")]
            .map(|dir| entries(&dir))
            .concat()
    };
    let freed = wait_until("everything of the image freed", LIMIT, || {
        mounts::below(&jaunt.run_dir()).is_empty() && kept().is_empty()
    });
    assert!(freed.is_ok(), "left: {:?} {:?}", kept(), mounts::below(&jaunt.run_dir()));
    assert_eq!(status(&bed, &node)["snapshots"].as_array().map(Vec::len), Some(0));
}

/// containerd asks for every snapshot, every few seconds.
#[test]
fn what_a_lazy_layer_occupies_is_told_without_its_index() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(heavy(2));
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let top = image.chain_ids().last().unwrap().to_string();
    let usage = || {
        let told =
            run(&mut node.containerd.ctr(&["snapshots", "--snapshotter", "jaunt", "usage", "-b", &top]))
                .unwrap();
        let bytes = told.lines().last().unwrap().split_whitespace().nth(1).map(str::to_owned);
        bytes.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(usage(), 0, "nothing has arrived");
    let index = node.jaunt.as_ref().unwrap().root().join("index");
    let aside = index.with_extension("aside");
    let script = "sha256sum /data/unread > /dev/null; echo ready";
    node.containerd.run_with(&pushed.reference, &["/bin/sh", "-c", script]).unwrap().finish(LIMIT).unwrap();
    fs::rename(&index, &aside).unwrap();
    let now = usage();
    fs::rename(&aside, &index).unwrap();
    assert!(now >= 2 << 20, "{now}");
}

/// P3: Restarting needs no network.
#[test]
fn a_restarted_node_needs_no_network() {
    needs_root!();
    let mut bed = Bed::new();
    let (_, pushed) = bed.converted(heavy(1));
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let read = ["/bin/sh", "-c", "sha256sum /data/unread; echo ready"];
    let first = node.containerd.run_with(&pushed.reference, &read).unwrap().finish_saying(LIMIT).unwrap();
    drop(node);
    bed.registry.stop().unwrap();
    let node = bed.node();
    let second = node.containerd.run_with(&pushed.reference, &read).unwrap().finish_saying(LIMIT).unwrap();
    assert_eq!(first, second);
}

#[test]
fn converting_twice_finds_the_work_done() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(common::everything());
    let before = bed.artifact(&pushed);
    let said = bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
    assert!(said.contains("already converted"), "{said}");
    assert_eq!(before, bed.artifact(&pushed));
    let host = bed.registry.host();
    run(&mut bed.binaries.proxy(&bed.scratch, &["verify", "--plain-http", &host, &pushed.reference]))
        .unwrap();
}

fn entries(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}
/// An image goes while the rest of it is being fetched, and another one that runs has its lowest layer as well.
#[test]
fn removing_an_image_ends_its_fetches_and_frees_what_no_other_has() {
    needs_root!();
    let bed = Bed::new();
    let (going, first) = bed.converted(heavy(64));
    let staying = heavy(1).build().unwrap();
    let second = staying.push(&bed.registry, "another", "v1").unwrap();
    bed.binaries.convert(&bed.scratch, &second.reference).unwrap();
    let config = "[completion]\ndelay_seconds = 0\nlimit_mb_per_second = 1\n";
    let node = bed.node_with(config);
    let jaunt = node.jaunt.as_ref().unwrap();
    node.pull(&second.reference).unwrap();
    let mut runs = node.containerd.run(&second.reference).unwrap();
    await_ready(&mut runs);
    wait_until("completion of the one that stays", LIMIT, || jaunt.log().contains("an image is complete"))
        .unwrap();
    node.pull(&first.reference).unwrap();
    let mut container = node.containerd.run(&first.reference).unwrap();
    await_ready(&mut container);
    let layer = |image: &BuiltImage, n: usize| {
        let name = image.layers[n].diff_id.to_string();
        jaunt.root().join("layers").join(name.trim_start_matches("sha256:"))
    };
    let fetched = || status(&bed, &node)["figures"]["fetched_bytes"].as_u64().unwrap();
    let start = fetched();
    wait_until("background fetches", LIMIT, || fetched() > start + (1 << 20)).unwrap();
    assert!(layer(&going, 1).exists());

    drop(container);
    // CRI names an image by its digest and its config's as well.
    let listed = run(&mut node.containerd.ctr(&["images", "ls"])).unwrap();
    let of_first = listed.lines().filter(|line| line.contains(&first.digest.to_string()));
    let names = of_first.filter_map(|line| line.split_whitespace().next());
    run(node.containerd.ctr(&["images", "rm", "--sync"]).args(names)).unwrap();
    let freed = wait_until("what only it had", LIMIT, || !layer(&going, 1).exists());
    assert!(freed.is_ok(), "{}", jaunt.log());
    assert_eq!(backings(&bed, &node), ["lazy", "lazy"], "those of the one that stays");
    assert!(
        layer(&staying, 0).exists() && layer(&staying, 1).exists() && layer(&staying, 0) == layer(&going, 0)
    );
    // Requests that were on their way end. At this rate one follows another within four seconds, and the rest would take a minute.
    let mut last = fetched();
    wait_until("the end of its fetches", LIMIT, || {
        std::thread::sleep(Duration::from_secs(5));
        let now = fetched();
        std::mem::replace(&mut last, now) == now
    })
    .unwrap();
    assert!(last < start + (40 << 20), "it was not removed while it was fetched: {last}");
    let mut reads =
        node.containerd.run_with(&second.reference, &["/bin/sh", "-c", "sha256sum /data/unread"]).unwrap();
    reads.finish(LIMIT).unwrap();
}
