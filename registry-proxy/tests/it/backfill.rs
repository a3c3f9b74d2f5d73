//! Whole repositories, and saying what would be done.

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, Registry, noise, tar};

const REPOSITORY: &str = "team/app";

fn base() -> Layer {
    Layer::gzip(&tar(&[("usr/", b""), ("usr/big", &noise(700_000, 1))]))
}

fn own(name: &str) -> Layer {
    Layer::zstd(&tar(&[("app/", b""), ("app/main", name.as_bytes())]))
}

/// Two images with the same base, one that nobody can convert, and tags that are none of ours to convert.
fn fill(registry: &Registry) {
    registry.push_image(REPOSITORY, "v1", &[base(), own("1")]);
    registry.push_image(REPOSITORY, "v2", &[base(), own("2")]);
    let lost = own("lost");
    let broken = registry.push_image(REPOSITORY, "broken", std::slice::from_ref(&lost));
    std::fs::remove_file(registry.blob_file(&Digest::of(&lost.blob).to_string())).unwrap();
    for kind in [".sig", ".att", ".sbom", ".original", ""] {
        registry.push_image(REPOSITORY, &format!("sha256-{}{kind}", broken.hex()), &[own("other")]);
    }
}

fn texts<'v>(list: &'v Value, key: &str) -> Vec<&'v str> {
    list.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap_or("")).collect()
}

#[test]
fn every_tag_of_a_repository_is_converted_and_a_failure_takes_nothing_from_the_others() {
    let Some(registry) = Registry::start() else { return };
    fill(&registry);
    let reference = registry.reference(REPOSITORY);
    let run = registry.run(&["convert", "--all-tags", "--json", &reference]);
    assert!(run.failed().contains("1 of 3 tags"), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let references = &report["references"];
    let names = ["broken", "v1", "v2"].map(|tag| format!("{reference}:{tag}"));
    assert_eq!(texts(references, "reference"), names);
    assert!(references[0]["error"].is_string() && references[1]["error"].is_null(), "{references}");
    assert_eq!((&report["layers_converted"], &report["layers_reused"]), (&json!(3), &json!(1)));
    assert_eq!(texts(&references[2]["images"][0]["layers"], "reused"), ["in place", ""]);
    for tag in ["v1", "v2"] {
        registry.run(&["verify", &format!("{reference}:{tag}")]).succeeded();
    }
    let again = registry.run(&["convert", "--all-tags", "--json", &reference]);
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&again["layers_converted"], &again["failed"]), (&json!(0), &json!(1)));
    assert_eq!(again["summary"]["converted_before"], 2);
}

#[test]
fn every_tag_has_its_number_and_in_the_end_all_are_summed_up() {
    let Some(registry) = Registry::start() else { return };
    fill(&registry);
    registry.push_manifest(REPOSITORY, "windows", &registry.image(REPOSITORY, &[own("w")], "windows"));
    let reference = registry.reference(REPOSITORY);
    registry.run(&["convert", &format!("{reference}:v1")]).succeeded();
    let run = registry.run(&["convert", "--all-tags", &reference]);
    assert_eq!(run.code, Some(1), "{run:?}");
    for (number, tag) in (1..).zip(["broken", "v1", "v2", "windows"]) {
        assert!(run.stdout.contains(&format!("[{number}/4] {reference}:{tag}\n")), "{run:?}");
    }
    let (_, summary) = run.stdout.split_once("4 tags: ").unwrap();
    assert!(
        summary.starts_with(
            "1 converted, 1 converted before, 1 with nothing to convert, 1 failed\n  failed broken: "
        ),
        "{summary}"
    );
    let skipped = "skipped once: a windows image: only Linux images can be started lazily (windows)";
    assert!(summary.contains(skipped), "{summary}");
}

#[test]
fn a_repository_that_is_not_there_is_no_success() {
    let Some(registry) = Registry::start() else { return };
    let reference = registry.reference("team/ap");
    for arguments in [
        &["convert", "--all-tags", &reference] as &[&str],
        &["convert", "--all-tags", "--dry-run", &reference],
    ] {
        let run = registry.run(arguments);
        assert!(run.failed().contains(&format!("{reference}: no tag names an image there")), "{run:?}");
    }
}

#[test]
fn every_tag_is_replaced_and_finds_its_way_back() {
    let Some(registry) = Registry::start() else { return };
    let before = ["v1", "v2"].map(|tag| registry.push_image(REPOSITORY, tag, &[base(), own(tag)]));
    let reference = registry.reference(REPOSITORY);
    registry.run(&["convert", "--all-tags", "--mode", "replace", &reference]).succeeded();
    for (tag, before) in ["v1", "v2"].into_iter().zip(before) {
        assert_ne!(registry.digest(REPOSITORY, tag), before);
        registry.run(&["verify", &format!("{reference}:{tag}")]).succeeded();
        registry.run(&["revert", &format!("{reference}:{tag}")]).succeeded();
        assert_eq!(registry.digest(REPOSITORY, tag), before);
    }
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image(REPOSITORY, "v1", &[base(), own("1")]);
    registry.push_image(REPOSITORY, "v2", &[base(), own("2")]);
    registry.push_image("other/app", "v1", &[base(), own("1")]);
    let state = || (registry.blob_count(), registry.tags(REPOSITORY), registry.tags("other/app"));
    let plan = |arguments: &[&str]| {
        let before = state();
        let report = registry.run(&[&["convert", "--dry-run", "--json"], arguments].concat()).json();
        assert_eq!(state(), before, "nothing was done");
        report
    };
    let sizes = |layers: &[Layer]| -> u64 { layers.iter().map(|layer| layer.blob.len() as u64).sum() };
    let reference = registry.reference(REPOSITORY);

    let first = plan(&["--all-tags", &reference]);
    assert_eq!((&first["layers_to_convert"], &first["layers_to_reuse"]), (&json!(3), &json!(0)));
    assert_eq!(first["bytes_to_read"], sizes(&[base(), own("1"), own("2")]));

    registry.run(&["convert", &format!("{reference}:v1")]).succeeded();
    let second = plan(&["--all-tags", &reference]);
    let images = ["/references/0/images/0", "/references/1/images/0"].map(|at| second.pointer(at).unwrap());
    assert_eq!(images.map(|image| image["action"].as_str().unwrap()), ["none", "convert"]);
    assert_eq!(texts(&images[1]["layers"], "action"), ["in place", "convert"]);
    assert_eq!(second["bytes_to_read"], sizes(&[own("2")]));

    let mounted = plan(&["--reuse-from", &reference, &registry.reference("other/app:v1")]);
    assert_eq!((&mounted["layers_to_convert"], &mounted["bytes_to_read"]), (&json!(0), &json!(0)));
    assert_eq!(texts(&mounted["references"][0]["images"][0]["layers"], "action"), ["mount", "mount"]);
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", directory.path().join("layout").display());
    let copied = plan(&["--to", &layout, &format!("{reference}:v1")]);
    assert_eq!(texts(&copied["references"][0]["images"][0]["layers"], "action"), ["copy", "copy"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
