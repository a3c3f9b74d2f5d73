//! Boot packs over an image's versions: what its command needs while nobody has started it, what its starts touch, and what an updated
//! image takes of that until its own starts are known.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::packs::{Cost, cost, pack_told, proxy, read_in_container, trace_of};
use common::{Bed, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_tests::image::{Entry, Image, dir, file, layer};
use jaunt_tests::process::wait_until;
use jaunt_tests::{Node, needs_root};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const LEN: usize = 700_000;
/// Of starts that can be learnt of all are traced, and of the others none. What comes, comes for a start.
const SETTINGS: &str = "[boot]\nsettled_seconds = 3\ntrace_one_in = 0\n[completion]\nenabled = false\n";

/// An image that runs a shell, with a layer of data on top of it.
fn image(data: impl IntoIterator<Item = Entry>) -> Image {
    let data = [dir("data", 0o755)].into_iter().chain(data);
    Image::new().layer(layer(runnable())).layer(layer(data)).command(&["/bin/sh", "-c", "echo ready"])
}

fn push(bed: &Bed, image: Image, repository: &str, tag: &str) -> String {
    image.build().unwrap().push(&bed.registry, repository, tag).unwrap().reference
}

/// A node that is new to everything.
struct Fresh<'b> {
    bed: &'b Bed,
    node: Node<'b>,
    /// What nodes before it have put into the log.
    before: usize,
}

impl<'b> Fresh<'b> {
    fn new(bed: &'b Bed) -> Self {
        let node = bed.node_with(SETTINGS);
        let before = node.jaunt.as_ref().unwrap().log().len();
        Self { bed, node, before }
    }

    /// Starts an image whose pack, if it has one, is here before its container is made.
    fn start(&self, reference: &str, has_pack: bool, files: &[(&str, &[u8])]) -> Cost {
        self.node.pull(reference).unwrap();
        if has_pack {
            self.await_word("boot pack is here");
        }
        read_in_container(&self.node, reference, files);
        assert!(!self.log().contains("boot pack cannot be used"), "{}", self.log());
        cost(self.bed, &self.node)
    }

    /// What it has said itself.
    fn log(&self) -> String {
        self.node.jaunt.as_ref().unwrap().log().split_off(self.before)
    }

    /// Whether a read of a file has waited for what was not here.
    fn waited_for(&self, path: &str) -> bool {
        let status = status(self.bed, &self.node);
        let files = status["figures"]["stalled_files"].as_array().unwrap();
        files.iter().any(|file| file["path"] == path)
    }

    fn await_word(&self, words: &str) {
        wait_until(words, LIMIT, || self.log().contains(words)).unwrap();
    }

    /// Its start's trace, and how much that used of the pack.
    fn trace(&self, reference: &str) -> (String, u64) {
        let trace = trace_of(self.bed, &self.node, reference);
        self.await_word("a start was traced");
        let log = self.log();
        let line = log.lines().find(|line| line.contains("a start was traced")).unwrap();
        let used = line.split("used=").nth(1).unwrap().split_whitespace().next().unwrap();
        (trace, used.parse().unwrap())
    }

    fn wipe(self) {
        self.node.wipe().unwrap();
    }
}

fn len(of: &Value) -> u64 {
    of["content_bytes"].as_u64().unwrap()
}

#[test]
fn an_image_that_nobody_has_started_has_a_pack_of_what_its_command_needs_and_nodes_use_it() {
    needs_root!();
    let bed = Bed::new();
    let data = || image([file("data/untouched", noise(1, LEN))]);
    let shell = std::fs::read(jaunt_tests::host::find("busybox").unwrap()).unwrap();
    let files = [("bin/busybox", &shell[..])];
    let bare = push(&bed, data(), "bare", "v1");
    proxy(&bed, &["convert", "--no-boot-pack", &bare]);
    assert_eq!(pack_told(&bed, &bare), Value::Null);
    let node = Fresh::new(&bed);
    let without = node.start(&bare, false, &files);
    node.wipe();

    let reference = push(&bed, data(), "fixture", "v1");
    proxy(&bed, &["convert", &reference]);
    let pack = pack_told(&bed, &reference);
    assert_eq!([&pack["traces"], &pack["predecessor"]], [&json!([]), &Value::Null]);
    let shell = shell.len() as u64;
    assert!((shell..shell + LEN as u64).contains(&len(&pack)), "the shell, and not the data: {pack}");
    let node = Fresh::new(&bed);
    let with = node.start(&reference, true, &files);
    assert!(with.misses == 0 && without.misses > 0, "{with:?} {without:?}");
    // Nobody has learnt of it yet.
    let (_, used) = node.trace(&reference);
    assert!(used > 0, "{}", node.log());
}

#[test]
fn an_updated_image_begins_with_the_pack_before_and_then_learns_its_own() {
    needs_root!();
    let bed = Bed::new();
    let [touched, left, fresh] = [1, 2, 3].map(|seed| noise(seed, LEN));
    let v1 = push(&bed, image([file("data/left", &left), file("data/touched", &touched)]), "fixture", "v1");
    proxy(&bed, &["convert", &v1]);
    let node = Fresh::new(&bed);
    node.start(&v1, true, &[("data/touched", &touched)]);
    let (trace, _) = node.trace(&v1);
    node.wipe();
    proxy(&bed, &["optimize", "--trace", &trace, &v1]);
    let learnt = pack_told(&bed, &v1);
    assert!(len(&learnt) >= LEN as u64, "{learnt}");

    // What was touched has another name in the next version, and its start touches more.
    let data = [dir("data/v2", 0o755), file("data/v2/moved", &touched), file("data/fresh", &fresh)];
    let v2 = push(&bed, image(data), "fixture", "v2");
    proxy(&bed, &["convert", &v2]);
    let carried = pack_told(&bed, &v2);
    assert_eq!([&carried["predecessor"], &carried["traces"]], [&learnt["digest"], &json!([])]);
    let files = [("data/v2/moved", &touched[..]), ("data/fresh", &fresh[..])];
    let node = Fresh::new(&bed);
    let before = node.start(&v2, true, &files);
    let (trace, used) = node.trace(&v2);
    assert!(used >= LEN as u64, "what was carried helps: {}", node.log());
    assert!(node.waited_for("/data/fresh") && !node.waited_for("/data/v2/moved"), "{before:?}");
    assert!(!node.log().contains("is in the page cache"), "it is learnt of: {}", node.log());
    node.wipe();

    proxy(&bed, &["optimize", "--trace", &trace, &v2]);
    proxy(&bed, &["verify", &v2]);
    let own = pack_told(&bed, &v2);
    let digest = Digest::of(&std::fs::read(&trace).unwrap());
    assert_eq!([&own["predecessor"], &own["traces"]], [&Value::Null, &json!([digest])]);
    assert!(len(&own) >= 2 * LEN as u64, "{own}");
    let node = Fresh::new(&bed);
    let after = node.start(&v2, true, &files);
    assert!(!node.waited_for("/data/fresh") && !node.waited_for("/data/v2/moved"), "{after:?}");
    node.await_word("what its boot pack brought is in the page cache");
    assert!(!node.log().contains("a start was traced"), "nothing is left to be learnt");
    assert_eq!(pack_told(&bed, &v1), learnt, "the version before keeps its own");
}
