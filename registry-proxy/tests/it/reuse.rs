//! The same layer is never converted twice: not in another image, another repository, or after a kill.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use jaunt_formats::Digest;
use serde_json::Value;

use crate::meddler::{Meddler, Then};
use crate::support::{Layer, Registry, noise, tar};

fn base() -> Layer {
    Layer::gzip(&tar(&[
        ("usr/", b""),
        ("usr/big", &noise(1_500_000, 1)),
        ("usr/text", &b"abc ".repeat(9000)),
    ]))
}

fn own(name: &str) -> Layer {
    Layer::zstd(&tar(&[("app/", b""), ("app/main", name.as_bytes())]))
}

/// Makes sure that nobody can read a layer's original any more.
fn lose(registry: &Registry, layer: &Layer) {
    std::fs::remove_file(registry.blob_file(&Digest::of(&layer.blob).to_string())).unwrap();
}

/// How each layer of a run's only image came to be there.
fn reused(report: &Value) -> Vec<Option<&str>> {
    let layers = report["images"][0]["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["reused"].as_str()).collect()
}

#[test]
fn a_layer_that_another_image_has_is_not_read_again() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("team/app", "v1", &[base(), own("1")]);
    registry.push_image("team/app", "v2", &[base(), own("2")]);
    let first = registry.run(&["convert", "--json", &registry.reference("team/app:v1")]).json();
    assert_eq!((&first["layers_converted"], &first["layers_reused"]), (&2.into(), &0.into()));
    lose(&registry, &base());
    let second = registry.run(&["convert", "--json", &registry.reference("team/app:v2")]).json();
    assert_eq!((&second["layers_converted"], &second["layers_reused"]), (&1.into(), &1.into()));
    assert_eq!(reused(&second), [Some("in place"), None]);
    registry.run(&["verify", &registry.reference("team/app:v2")]).succeeded();
}

#[test]
fn a_reused_layer_gives_the_same_artifact_as_a_converted_one() {
    let Some(registry) = Registry::start() else { return };
    // The last layer names a path twice: it has no TOC, and is read whole to be used again.
    let twice = Layer::plain(&tar(&[("twice", b"one"), ("twice", b"two")]));
    let layers = [base(), own("2"), twice.clone()];
    registry.push_image("team/app", "v1", &[base(), twice]);
    for repository in ["team/app", "fresh/app", "other/app"] {
        registry.push_image(repository, "v2", &layers);
    }
    registry.run(&["convert", &registry.reference("team/app:v1")]).succeeded();
    let run = |arguments: &[&str]| {
        let report = registry.run(&[&["convert", "--json"], arguments].concat()).json();
        (report["images"][0]["artifact"].clone(), report)
    };
    let (converted, report) = run(&[&registry.reference("fresh/app:v2")]);
    assert_eq!(reused(&report), [None, None, None]);
    let (in_place, report) = run(&[&registry.reference("team/app:v2")]);
    assert_eq!(reused(&report), [Some("in place"), None, Some("in place")]);
    let from = registry.reference("team/app");
    let (mounted, report) = run(&["--reuse-from", &from, &registry.reference("other/app:v2")]);
    assert_eq!(reused(&report), [Some("mounted"); 3]);
    assert_eq!((&in_place, &mounted), (&converted, &converted));
    registry.run(&["verify", &registry.reference("other/app:v2")]).succeeded();
}

#[test]
fn layers_come_from_a_layout_too_and_by_the_same_recipe_only() {
    let Some(registry) = Registry::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", directory.path().display());
    registry.push_image("team/app", "v1", &[base(), own("1")]);
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", "--to", &layout, &reference]).succeeded();
    let other =
        registry.run(&["convert", "--json", "--level", "9", "--reuse-from", &layout, &reference]).json();
    assert_eq!(other["layers_reused"], 0);
    let same = registry.run(&["convert", "--json", "--reuse-from", &layout, &reference]).json();
    assert_eq!(reused(&same), [Some("copied"), Some("copied")]);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn a_converted_layer_that_is_damaged_is_converted_again() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("team/app", "v1", &[base(), own("1")]);
    registry.push_image("team/app", "v2", &[base(), own("2")]);
    let first = registry.run(&["convert", "--json", &registry.reference("team/app:v1")]).json();
    let blob = registry.blob_file(first["images"][0]["layers"][0]["converted"].as_str().unwrap());
    let mut bytes = std::fs::read(&blob).unwrap();
    let toc = bytes.len() - 600;
    bytes[toc..].fill(0x55);
    std::fs::write(&blob, &bytes).unwrap();
    let second = registry.run(&["convert", "--json", &registry.reference("team/app:v2")]).json();
    assert_eq!(reused(&second), [None, None]);
}

#[test]
fn a_killed_run_loses_only_the_layers_under_way() {
    let Some(registry) = Registry::start() else { return };
    let slow = Layer::plain(&tar(&[("noise", &noise(1 << 20, 3))]));
    let subject = registry.push_image("team/app", "v1", &[own("1"), base(), slow.clone()]);
    let reference = registry.reference("team/app:v1");
    let partial = format!("sha256-{}.jaunt-partial", subject.hex());
    let finished = |tag: &str| {
        let listed = registry.manifest("team/app", tag);
        listed.map_or(0, |partial| partial["layers"].as_array().unwrap().len() / 2)
    };

    // One layer after the other; the last one's bytes are withheld until the run is killed.
    let withheld = Digest::of(&slow.blob).to_string();
    let (ask, asked) = mpsc::channel();
    let (kill, killed) = mpsc::channel::<()>();
    let meddler = Meddler::start(registry.address(), move |method, path| {
        if method == "GET" && path.ends_with(&withheld) {
            let _ = ask.send(());
            let _ = killed.recv();
        }
        Then::Pass
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"))
        .args(["convert", "--concurrency", "1", &meddler.reference("team/app:v1")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_under_way = asked.recv_timeout(Duration::from_secs(300));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(kill);
    is_under_way.expect("the last layer is read");
    assert_eq!(finished(&partial), 2, "the others are done");
    assert!(registry.manifest("team/app", &format!("sha256-{}.jaunt", subject.hex())).is_none());

    lose(&registry, &base());
    lose(&registry, &own("1"));
    let report = registry.run(&["convert", "--json", &reference]).json();
    assert_eq!(reused(&report), [Some("in place"), Some("in place"), None]);
    assert!(registry.manifest("team/app", &partial).is_none(), "it is removed in the end");
    registry.run(&["verify", &reference]).succeeded();
}
