//! Starts with boot packs: what they cost, what was noted of them, and what the registry says of a pack.

use std::time::Duration;

use jaunt_formats::Digest;
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Container, Node};
use serde_json::Value;

use super::{Bed, status};

const LIMIT: Duration = Duration::from_secs(60);

/// What a start cost.
#[derive(Debug)]
pub struct Cost {
    pub misses: u64,
    pub fetches: u64,
}

/// What a node has spent on starts so far.
pub fn cost(bed: &Bed, node: &Node<'_>) -> Cost {
    let figures = &status(bed, node)["figures"];
    let figure = |name: &str| figures[name].as_u64().unwrap();
    Cost { misses: figure("misses"), fetches: figure("fetches") }
}

/// Starts a container that reads these files, and compares what it has read.
pub fn read_in_container(node: &Node<'_>, reference: &str, files: &[(&str, &[u8])]) {
    let paths: Vec<String> = files.iter().map(|(path, _)| format!("/{path}")).collect();
    let script = format!("sha256sum {}", paths.join(" "));
    let mut container: Container = node.containerd.run_with(reference, &["/bin/sh", "-c", &script]).unwrap();
    let said = container.finish_saying(LIMIT).unwrap();
    let sums: Vec<String> =
        files.iter().map(|(path, bytes)| format!("{}  /{path}", Digest::of(bytes).hex())).collect();
    assert_eq!(said, sums.join("\n"));
}

/// Runs `jaunt-proxy` on an image of the bed's registry, or another one.
pub fn proxy(bed: &Bed, words: &[&str]) -> String {
    let host = bed.registry.host();
    let all = [&words[..1], &["--plain-http", &host], &words[1..]].concat();
    run(&mut bed.binaries.proxy(&bed.scratch, &all)).unwrap()
}

/// What is told of an image's boot pack.
pub fn pack_told(bed: &Bed, reference: &str) -> Value {
    let told: Value = serde_json::from_str(&proxy(bed, &["inspect", "--json", reference])).unwrap();
    told["images"][0]["boot"].clone()
}

/// Takes the trace of an image's start out of a node, once it is there.
pub fn trace_of(bed: &Bed, node: &Node<'_>, reference: &str) -> String {
    let root = node.jaunt.as_ref().unwrap().root();
    let trace = bed.scratch.path().join("trace.jsonl").to_str().unwrap().to_owned();
    let take_out = |words: &[&str]| {
        let mut command = bed.binaries.snapshotter(&bed.scratch, &["trace", "--root"]);
        run(command.arg(&root).args(words))
    };
    wait_until("a trace", LIMIT, || take_out(&[reference, "--output", &trace]).is_ok()).unwrap();
    let listed = take_out(&["ls"]).unwrap();
    assert!(listed.contains("/fixture") && listed.contains("came to rest"), "{listed}");
    trace
}
