//! Boot packs: a start with one asks for less, and one that is wrong, of another image or cut short costs nothing but its bytes.
#![allow(clippy::unwrap_used)]

mod common;

use common::packs::{Cost, cost, pack_told, proxy, read_in_container, trace_of};
use common::{Bed, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_formats::boot::{Extent, PACK_LEVEL, Pack, PackWriter, Trace};
use jaunt_formats::launch::{LaunchIndex, unpack};
use jaunt_formats::media_type::{BOOT_TABLE, BOOT_TRACES, LAUNCH_BOOT_PACK, LAUNCH_TRACE, OCI_MANIFEST};
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::process::{run, signal_pid, wait_until};
use jaunt_tests::{Node, mounts, needs_root};
use rustix::process::Signal;
use serde_json::{Value, json};

const LEN: usize = 700_000;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
const TOUCHED: [&str; 3] = ["bin/busybox", "etc/passwd", "data/touched"];

fn image() -> Image {
    let data = [dir("data", 0o755), file("data/touched", noise(1, LEN)), file("data/other", noise(2, LEN))];
    Image::new().layer(layer(runnable())).layer(layer(data))
}

fn content(path: &str) -> Vec<u8> {
    match path {
        "bin/busybox" => std::fs::read(jaunt_tests::host::find("busybox").unwrap()).unwrap(),
        "etc/passwd" => b"root:x:0:0:root:/:/bin/sh\n".to_vec(),
        "data/other" => noise(2, LEN),
        _ => noise(1, LEN),
    }
}

/// A pack of what the container reads, as one of the index with this digest.
fn pack(bed: &Bed, pushed: &Pushed, of: Option<Digest>) -> Pack {
    pack_of(bed, pushed, of, &TOUCHED)
}

/// A pack of these files.
fn pack_of(bed: &Bed, pushed: &Pushed, of: Option<Digest>, paths: &[&str]) -> Pack {
    let digest: Digest = bed.artifact(pushed)["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let index = LaunchIndex::open(unpack(&bed.registry.blob("fixture", &digest).unwrap()).unwrap()).unwrap();
    let view = index.view(2).unwrap();
    let mut pack = PackWriter::new(of.unwrap_or(digest), PACK_LEVEL).unwrap();
    for &path in paths {
        let root = view.root().unwrap();
        let inode =
            path.split('/').fold(root, |dir, name| view.lookup(dir, name.as_bytes()).unwrap().unwrap());
        let found = index.content(inode).unwrap();
        let (place, bytes) = (found.extents[0], content(path));
        let len = u32::try_from(bytes.len()).unwrap();
        assert_eq!(found.size, u64::from(len), "{path}");
        let extent = Extent { layer: found.layer, tar_offset: place.tar_offset, len };
        pack.push(extent, &bytes).unwrap();
    }
    pack.finish().unwrap()
}

/// Pushes the artifact anew, with a pack. Its blob.
fn attach(bed: &Bed, pushed: &Pushed, pack: &Pack) -> Digest {
    attach_of(bed, pushed, pack, "")
}

/// The same, as made of these traces.
fn attach_of(bed: &Bed, pushed: &Pushed, pack: &Pack, traces: &str) -> Digest {
    let mut artifact = bed.artifact(pushed);
    let digest = bed.registry.push_blob("fixture", &pack.bytes).unwrap();
    let descriptor = json!({
        "mediaType": LAUNCH_BOOT_PACK, "digest": digest, "size": pack.bytes.len(),
        "annotations": { BOOT_TABLE: pack.table.to_string(), BOOT_TRACES: traces },
    });
    artifact["layers"].as_array_mut().unwrap().insert(1, descriptor);
    let tag = format!("sha256-{}.jaunt", pushed.digest.hex());
    bed.registry.push_manifest("fixture", &tag, OCI_MANIFEST, artifact.to_string().as_bytes()).unwrap();
    digest
}

fn start(bed: &Bed, node: &Node<'_>, pushed: &Pushed) -> Cost {
    start_after(bed, node, pushed, || true)
}

/// Starts it once something is so.
fn start_after(bed: &Bed, node: &Node<'_>, pushed: &Pushed, is_so: impl FnMut() -> bool) -> Cost {
    node.pull(&pushed.reference).unwrap();
    wait_until("what its start waits for", LIMIT, is_so).unwrap();
    read_in_container(node, &pushed.reference, &[("data/touched", &content("data/touched"))]);
    cost(bed, node)
}

/// Starts it with its pack: the first on this log or a later one.
fn start_with_pack(bed: &Bed, node: &Node<'_>, pushed: &Pushed, number: usize) -> Cost {
    let log = || node.jaunt.as_ref().unwrap().log();
    start_after(bed, node, pushed, || log().matches("boot pack is here").count() == number)
}

/// Of this node, and of those that were here before it.
fn complaints(node: &Node<'_>) -> usize {
    node.jaunt.as_ref().unwrap().log().matches("boot pack cannot be used").count()
}

#[test]
fn a_start_with_a_pack_asks_for_less_and_a_bad_one_does_not_stop_it() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let node = bed.node();
    let without = start(&bed, &node, &pushed);
    assert!(without.misses > 0, "{without:?}");
    node.wipe().unwrap();

    let good = pack(&bed, &pushed, None);
    let blob = bed.registry.blob_file(&attach(&bed, &pushed, &good));
    let node = bed.node();
    let with = start_with_pack(&bed, &node, &pushed, 1);
    let log = node.jaunt.as_ref().unwrap().log();
    assert!(with.misses < without.misses && with.fetches < without.fetches, "{with:?} {without:?}\n{log}");
    assert_eq!(complaints(&node), 0, "{log}");
    let shelves = std::fs::read_dir(node.jaunt.as_ref().unwrap().root().join("boot")).unwrap().count();
    assert_eq!(shelves, 1);
    node.wipe().unwrap();

    let sound = std::fs::read(&blob).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (bad, told) in [(&damaged[..], 1), (&sound[..sound.len() / 2], 2)] {
        std::fs::write(&blob, bad).unwrap();
        let node = bed.node();
        start(&bed, &node, &pushed);
        wait_until("a complaint", LIMIT, || complaints(&node) == told).unwrap();
        node.wipe().unwrap();
    }
}

#[test]
fn a_pack_of_another_image_is_not_used() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    attach(&bed, &pushed, &pack(&bed, &pushed, Some(Digest::of(b"another"))));
    let node = bed.node();
    assert!(start(&bed, &node, &pushed).misses > 0);
    wait_until("a complaint", LIMIT, || complaints(&node) == 1).unwrap();
}

/// Starts the image on a new node, and takes out what it has noted of that.
fn traced(bed: &Bed, pushed: &Pushed) -> (Cost, String) {
    let node = bed.node_with("[boot]\nsettled_seconds = 3\n");
    let cost = start(bed, &node, pushed);
    let trace = trace_of(bed, &node, &pushed.reference);
    node.wipe().unwrap();
    (cost, trace)
}

#[test]
fn a_start_is_traced_and_the_next_node_has_what_it_touched_in_a_pack() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let reference = pushed.reference.as_str();
    let (without, trace) = traced(&bed, &pushed);

    let before = bed.artifact(&pushed);
    proxy(&bed, &["optimize", "--dry-run", "--trace", &trace, reference]);
    assert_eq!(bed.artifact(&pushed), before);
    proxy(&bed, &["optimize", "--trace", &trace, reference]);
    let optimized = bed.artifact(&pushed);
    assert_eq!(optimized["layers"][1]["mediaType"], LAUNCH_BOOT_PACK);
    assert_eq!(optimized["layers"][0], before["layers"][0], "the index stays");
    proxy(&bed, &["optimize", "--trace", &trace, reference]);
    assert_eq!(bed.artifact(&pushed), optimized, "the same trace gives the same pack");
    proxy(&bed, &["verify", reference]);
    let told = pack_told(&bed, reference);
    assert!(told["content_bytes"].as_u64().unwrap() >= LEN as u64, "{told}");

    // A start with it is traced, and nothing pushed for it, or the other way round.
    for (number, (one_in, name)) in [(0_u64, "pushed"), (1, "traced")].into_iter().enumerate() {
        let config = format!("[boot]\nsettled_seconds = 3\ntrace_one_in = {one_in}\n");
        let node = bed.node_with(&config);
        let with = start_with_pack(&bed, &node, &pushed, number + 1);
        let log = node.jaunt.as_ref().unwrap().log();
        assert!(
            with.misses < without.misses && with.fetches < without.fetches,
            "{with:?} {without:?}\n{log}"
        );
        assert_eq!(complaints(&node), 0, "{log}");
        let jaunt = node.jaunt.as_ref().unwrap();
        let traces = || std::fs::read_dir(jaunt.root().join("traces")).unwrap().count();
        // Of this node, and of the one before.
        let count = || jaunt.log().matches("what its boot pack brought is in the page cache").count();
        let pushed = || count() > usize::try_from(one_in).unwrap();
        let limit = std::time::Duration::from_secs(60);
        wait_until(name, limit, || (pushed(), traces() > 0) == (one_in == 0, one_in == 1)).unwrap();
        node.wipe().unwrap();
    }

    // The next version: one file is as it was, one has changed, the rest is new.
    let data = [dir("data", 0o755), file("data/touched", noise(9, LEN)), file("data/other", noise(2, LEN))];
    let next = Image::new().layer(layer(runnable())).layer(layer(data)).build().unwrap();
    let next = next.push(&bed.registry, "fixture", "v2").unwrap();
    bed.binaries.convert(&bed.scratch, &next.reference).unwrap();
    proxy(&bed, &["optimize", "--from", reference, &next.reference]);
    proxy(&bed, &["verify", &next.reference]);
    let carried = pack_told(&bed, &next.reference)["content_bytes"].clone();
    assert_eq!(carried, told["content_bytes"]);

    // A layout on disk has it as well, and loses it.
    let layout = format!("oci:{}:v1", bed.scratch.path().join("layout").display());
    proxy(&bed, &["copy", reference, &layout]);
    assert_eq!(pack_told(&bed, &layout)["digest"], told["digest"]);
    proxy(&bed, &["optimize", "--drop", &layout]);
    assert_eq!(pack_told(&bed, &layout), Value::Null);
    proxy(&bed, &["optimize", "--trace", &trace, &layout]);
    proxy(&bed, &["verify", &layout]);
    assert_eq!(pack_told(&bed, &layout)["digest"], told["digest"]);
}

#[test]
fn a_learnt_pack_is_in_the_page_cache_before_a_container_is_made_and_goes_with_the_image() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    attach_of(&bed, &pushed, &pack_of(&bed, &pushed, None, &["data/touched"]), "of a start");
    let node = bed.node_with("[boot]\ntrace_one_in = 0\n[completion]\nenabled = false\n");
    let jaunt = node.jaunt.as_ref().unwrap();
    let mounts = || mounts::below(&jaunt.run_dir()).len();
    let before = mounts();
    node.pull(&pushed.reference).unwrap();
    let words = "what its boot pack brought is in the page cache";
    wait_until(words, std::time::Duration::from_secs(60), || jaunt.log().contains(words)).unwrap();
    assert_eq!(mounts(), before + 1);
    node.containerd.remove_images().unwrap();
    wait_until("the mount to go", std::time::Duration::from_secs(60), || mounts() == before).unwrap();
}

#[test]
fn verify_finds_a_pack_that_does_not_hold_what_the_layers_have() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let honest = pack(&bed, &pushed, None);
    attach(&bed, &pushed, &honest);
    proxy(&bed, &["verify", &pushed.reference]);
    let table = honest.table.to_string().parse::<jaunt_formats::boot::TablePlace>().unwrap();
    let read = table.open(&honest.bytes[..honest.table.len()]).unwrap();
    let mut lies = PackWriter::new(read.index, PACK_LEVEL).unwrap();
    read.extents.iter().for_each(|extent| lies.push(*extent, &vec![7; extent.len as usize]).unwrap());
    attach(&bed, &pushed, &lies.finish().unwrap());
    let host = bed.registry.host();
    let words = ["verify", "--plain-http", &host, &pushed.reference];
    let error = run(&mut bed.binaries.proxy(&bed.scratch, &words)).unwrap_err().to_string();
    assert!(error.contains("it does not hold what the layers have there"), "{error}");
}

/// Traces that the registry lists for an image, which has no API for it.
fn left_beside(bed: &Bed, pushed: &Pushed) -> usize {
    let tag = format!("sha256-{}", pushed.digest.hex());
    let Ok((list, _)) = bed.registry.manifest("fixture", &tag) else { return 0 };
    let listed = list["manifests"].as_array().unwrap().iter();
    listed.filter(|one| one["artifactType"] == LAUNCH_TRACE).count()
}

/// Starts the image on a new node whose settings of boot packs end like this, and waits for these words in its log.
fn start_until(bed: &Bed, pushed: &Pushed, config: &str, words: &str) {
    let config = format!("[boot]\nsettled_seconds = 3\n{config}\n");
    let node = bed.node_with(&config);
    // The log is that of the nodes before as well.
    let told = || node.jaunt.as_ref().unwrap().log().matches(words).count();
    let before = told();
    start(bed, &node, pushed);
    wait_until(words, std::time::Duration::from_secs(60), || told() > before).unwrap();
    node.wipe().unwrap();
}

#[test]
fn nodes_leave_traces_beside_the_image_where_they_may_and_a_pack_is_made_of_them() {
    needs_root!();
    let mut bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let nowhere = ["", "send_traces_to = [\"other.example\"]"];
    for config in nowhere {
        start_until(&bed, &pushed, config, "a start was traced");
        assert_eq!(left_beside(&bed, &pushed), 0, "{config}");
    }
    let here = format!("send_traces_to = [\"{}/fixture\"]", bed.registry.host());
    for sent in 1..3 {
        start_until(&bed, &pushed, &here, "the trace of a start was sent");
        assert_eq!(left_beside(&bed, &pushed), sent);
    }
    let reference = pushed.reference.as_str();
    let told = proxy(&bed, &["optimize", "--gather", "--consume", reference]);
    assert!(told.contains("2 used"), "{told}");
    assert_eq!(left_beside(&bed, &pushed), 0);
    proxy(&bed, &["verify", reference]);
    let pack = pack_told(&bed, reference);
    assert!(pack["content_bytes"].as_u64().unwrap() >= LEN as u64, "{pack}");

    // One that cannot be sent is told of, and stands in nobody's way.
    let registry = &mut bed.registry;
    let host = registry.host();
    let config = format!("[boot]\nsettled_seconds = 20\ntrace_one_in = 1\n{here}\n");
    let node = Node::configured(&bed.scratch, &bed.binaries, &[host], &config).unwrap();
    node.pull(reference).unwrap();
    let mut container =
        node.containerd.run_with(reference, &["/bin/sh", "-c", "sha256sum /data/touched"]).unwrap();
    container.finish(std::time::Duration::from_secs(60)).unwrap();
    registry.stop().unwrap();
    let log = || node.jaunt.as_ref().unwrap().log();
    wait_until("a failure", std::time::Duration::from_secs(120), || log().contains("traces cannot be sent"))
        .unwrap();
}

#[test]
fn a_pack_that_starts_hardly_use_is_not_fetched_any_more() {
    needs_root!();
    hardly_used("", 0, 16);
}

/// Chance picks no start here, but after one that hardly used the pack the next ones are traced.
#[test]
fn a_learnt_pack_that_a_start_hardly_used_is_looked_at_with_the_next_ones_and_not_fetched_any_more() {
    needs_root!();
    hardly_used("of a start", 1, u64::from(u32::MAX));
}

/// Has a node start an image with a pack that it touches nothing of, made of these traces, until it is not fetched any more. Of the three
/// starts that this takes `known` have been.
fn hardly_used(traces: &str, known: usize, trace_one_in: u64) {
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let unused = pack_of(&bed, &pushed, None, &["data/touched", "data/other"]);
    let digest = attach_of(&bed, &pushed, &unused, traces);
    if known > 0 {
        let root = bed.scratch.path().join("jaunt/root");
        std::fs::create_dir_all(&root).unwrap();
        let worth = json!({ (digest.to_string()): known });
        std::fs::write(root.join("boot-worth.json"), worth.to_string()).unwrap();
    }
    let config = format!(
        "[boot]\nsettled_seconds = 3\ntrace_one_in = {trace_one_in}\n[completion]\nenabled = false\n"
    );
    let node = bed.node_with(&config);
    let (jaunt, limit) = (node.jaunt.as_ref().unwrap(), std::time::Duration::from_secs(60));
    let count = |words: &str| jaunt.log().matches(words).count();
    let begin = || {
        node.pull(&pushed.reference).unwrap();
        let mut container = node.containerd.run_with(&pushed.reference, &["/bin/echo", "ready"]).unwrap();
        container.finish(limit).unwrap();
    };
    let rounds = 3 - known;
    for round in 1..=rounds {
        begin();
        wait_until("a trace", limit, || count("a start was traced") == round).unwrap();
        assert_eq!(
            (count("boot pack is here"), count("a boot pack is not fetched")),
            (round, 0),
            "{}",
            jaunt.log()
        );
        node.containerd.remove_images().unwrap();
        let is_empty = |name: &str| std::fs::read_dir(jaunt.root().join(name)).unwrap().next().is_none();
        wait_until("nothing left", limit, || is_empty("index") && is_empty("boot")).unwrap();
    }
    begin();
    assert_eq!(
        (count("boot pack is here"), count("a boot pack is not fetched")),
        (rounds, 1),
        "{}",
        jaunt.log()
    );
    assert_eq!(status(&bed, &node)["figures"]["boot_packs_set_aside"], 1);
}

/// KiB that the kernel reads ahead on what a node has mounted.
fn read_ahead(node: &Node<'_>) -> u32 {
    let [point] = mounts::below(&node.jaunt.as_ref().unwrap().run_dir()).try_into().unwrap();
    mounts::read_ahead_kib(&point).unwrap()
}

#[test]
fn a_trace_names_little_that_was_only_read_ahead_and_reading_ahead_goes_on_after_it() {
    needs_root!();
    const READ: u64 = 256 << 10;
    let bed = Bed::new();
    let large = layer([file("large", noise(1, 4 << 20))]);
    let reads = format!("head -c {READ} /large | wc -c; exec sleep 600");
    let image = Image::new().layer(layer(runnable())).layer(large).command(&["/bin/sh", "-c", &reads]);
    let (_, pushed) = bed.converted(image);
    let limit = std::time::Duration::from_secs(60);
    // One whose worker is killed before the trace is over, and one that takes it.
    for settled in [600, 3] {
        let config = format!("[boot]\nsettled_seconds = {settled}\nlongest_seconds = 600\n");
        let node = bed.node_with(&config);
        node.pull(&pushed.reference).unwrap();
        let mut container = node.containerd.run(&pushed.reference).unwrap();
        assert_eq!(container.next_line(limit).unwrap().unwrap(), READ.to_string());
        let jaunt = node.jaunt.as_ref().unwrap();
        if settled > 3 {
            assert_eq!(read_ahead(&node), 64);
            signal_pid(jaunt.worker().unwrap(), Signal::KILL);
        }
        wait_until("reading ahead", limit, || read_ahead(&node) == 1024).unwrap();
        if settled == 3 {
            let traces = || -> Vec<_> {
                let entries = std::fs::read_dir(jaunt.root().join("traces")).unwrap();
                let paths = entries.map(|entry| entry.unwrap().path());
                paths.filter(|path| path.extension().is_some_and(|is| is == "jsonl")).collect()
            };
            wait_until("the trace", limit, || !traces().is_empty()).unwrap();
            let trace = Trace::parse(&std::fs::read(&traces()[0]).unwrap()).unwrap();
            let of_large = trace.touches.iter().filter(|touch| touch.path == "large");
            let touched: u64 = of_large.map(|touch| touch.len).sum();
            assert!((READ..=2 * READ).contains(&touched), "{touched}");
        }
        container.stop().unwrap();
        node.wipe().unwrap();
    }
}

/// What is not pushed, or not yet, is asked for as it was when the pack was learnt: a larger read is for its most part not in it.
#[test]
fn a_start_with_a_learnt_pack_reads_no_further_ahead_than_those_it_was_learnt_of() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    attach_of(&bed, &pushed, &pack_of(&bed, &pushed, None, &["data/touched"]), "of a start");
    let config = "[boot]\ntrace_one_in = 0\nlongest_seconds = 3\n[completion]\nenabled = false\n";
    let node = bed.node_with(config);
    node.pull(&pushed.reference).unwrap();
    let limit = std::time::Duration::from_secs(60);
    wait_until("the mount", limit, || !mounts::below(&node.jaunt.as_ref().unwrap().run_dir()).is_empty())
        .unwrap();
    assert_eq!(read_ahead(&node), 64, "from the pull on");
    read_in_container(&node, &pushed.reference, &[("data/touched", &content("data/touched"))]);
    wait_until("reading ahead", limit, || read_ahead(&node) == 1024).unwrap();
}
