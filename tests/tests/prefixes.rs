//! doc/SEMANTICS.md S1: a mounted chain shows what overlayfs over the same layers shows, for every prefix.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bed, await_ready, differences, everything, runnable};
use jaunt_formats::{ChainId, DiffId, Digest};
use jaunt_tests::image::{Image, Pushed, dir, file, layer, symlink};
use jaunt_tests::{Recipe, debian, needs_root, skopeo};

/// S1: A mounted chain shows what overlayfs over the same layers, unpacked by containerd, shows, for every prefix of
/// the image.
#[test]
fn every_prefix_reads_as_containerd_unpacks_it() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(everything());
    let found = differences(&bed, &image.chain_ids(), &pushed.reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// S3: A directory that a layer implies but does not list has mode 0755, root as its owner and time 0.
#[test]
fn directories_that_are_only_implied_have_the_unpackers_mode_and_owner() {
    needs_root!();
    let bed = Bed::new();
    let image = Image::new()
        .layer(layer([file("implied/by/file", "1"), dir("listed", 0o700).owner(5, 5)]))
        .layer(layer([file("listed/below", "2"), symlink("also/implied", "x")]));
    let (image, pushed) = bed.converted(image);
    let mut found = differences(&bed, &image.chain_ids(), &pushed.reference);
    found.retain(|line| !line.contains(": mtime: "));
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// Many layers, each touching the same names: what a long build history looks like.
#[test]
fn forty_layers_are_one_tree() {
    needs_root!();
    let bed = Bed::new();
    let mut image = Image::new().layer(layer(runnable()));
    for n in 0..40 {
        let entries = [
            dir("", 0o755),
            dir("shared", 0o700 + n % 8),
            file("shared/same", format!("{n}")).mtime(1_600_000_000 + i64::from(n), n),
            file(format!("shared/own-{n}"), format!("{n}")),
        ];
        image = image.layer(layer(entries));
    }
    let (image, pushed) = bed.converted(image);
    let found = differences(&bed, &image.chain_ids(), &pushed.reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// However many layers, and however small: each costs a pull the one request that finds it there, nothing is fetched of those
/// that nobody reads, and overlayfs is given one directory, where so many would not fit into the page that mount options may take.
#[test]
fn a_hundred_and_twenty_layers_start_as_three_do() {
    needs_root!();
    let bed = Bed::new();
    let of = |layers: usize| {
        let command = format!("cat /last-{}; echo ready; exec sleep 600", layers - 1);
        let image = Image::new().layer(layer(runnable())).command(&["/bin/sh", "-ec", &command]);
        let image =
            (1..layers).fold(image, |image, n| image.layer(layer([file(format!("last-{n}"), "end\n")])));
        let pushed = image.build().unwrap().push(&bed.registry, "fixture", &layers.to_string()).unwrap();
        bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
        pushed
    };
    let [few, many] = [3, 120].map(of);
    let asked = |pushed: &Pushed, layers: usize| {
        let node = bed.node();
        let before = bed.registry.requests().unwrap();
        let said = node.pull(&pushed.reference).unwrap();
        assert!(said.contains(&format!("{layers} of {layers} layers lazy")), "{said}");
        let mut container = node.containerd.run(&pushed.reference).unwrap();
        await_ready(&mut container);
        let asked = bed.registry.requests().unwrap() - before;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts.lines().find(|line| line.contains(container.id()) && line.contains(" - overlay "));
        let options = root.unwrap().split(' ').next_back().unwrap();
        let below = options.split(',').find_map(|option| option.strip_prefix("lowerdir=")).unwrap();
        assert!(options.len() < 4096 && !below.contains(':'), "{options}");
        drop(container);
        node.wipe().unwrap();
        asked
    };
    let (three, hundred) = (asked(&few, 3), asked(&many, 120));
    assert!(hundred <= three + 117, "{three} requests for three layers, {hundred} for a hundred and twenty");
}

/// The demo's image, thousands of files by other people's tools. Left out of `make test` because building
/// it takes a Debian mirror; `make test-real` runs it.
#[test]
#[ignore = "builds a real image: make test-real"]
fn a_debian_image_reads_as_containerd_unpacks_it() {
    needs_root!();
    let bed = Bed::new();
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images");
    let say = |step: &str| println!("{step}");
    let recipe = Recipe::named(Recipe::DEMO).unwrap();
    let layout = debian::Builder::new(&bed.scratch, &cache, &say).image(&recipe).unwrap();
    let reference = format!("{}/demo:latest", bed.registry.host());
    skopeo::push_layout(&bed.scratch, &layout, &reference).unwrap();
    bed.binaries.convert(&bed.scratch, &reference).unwrap();
    let manifest = bed.registry.manifest("demo", "latest").unwrap().0;
    let config: Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&bed.registry.blob("demo", &config).unwrap()).unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
    let diff_ids: Vec<DiffId> = diff_ids.map(|id| DiffId(id.as_str().unwrap().parse().unwrap())).collect();
    let found = differences(&bed, &ChainId::prefixes(&diff_ids).collect::<Vec<_>>(), &reference);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}
