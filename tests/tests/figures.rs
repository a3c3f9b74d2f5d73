//! What the daemon tells of itself, scraped from a real one: figures move as they must after known reads.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Bed, fill, noise};
use jaunt_tests::image::{Image, file, layer};
use jaunt_tests::mounts::Mounted;
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Container, Node, http, needs_root};
use serde_json::Value;

/// Bytes of each file: none is large, and the two lie in spans of their own.
const LEN: usize = 700_000;
const LIMIT: Duration = Duration::from_secs(120);

/// A node whose daemon tells its figures, and where: on the loopback address that the test's registry has for itself.
fn node_that_tells<'b>(bed: &'b Bed, config: &str) -> (Node<'b>, SocketAddr) {
    let mut address: SocketAddr = bed.registry.host().parse().unwrap();
    address.set_port(9464);
    let config = format!("{config}[metrics]\naddress = \"{address}\"\n");
    let node = bed.node_with(&config);
    wait_until("the endpoint", LIMIT, || TcpStream::connect(address).is_ok()).unwrap();
    (node, address)
}

/// The value of a sample by its name and labels.
fn sample(address: SocketAddr, name: &str) -> f64 {
    let told = http::request(address, "GET", "/metrics", &[], b"").unwrap();
    assert_eq!(told.status, 200);
    assert!(told.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(told.body).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    value.rsplit(' ').next().unwrap().parse().unwrap()
}

fn read(root: &Path, name: &str) {
    assert_eq!(std::fs::read(root.join(name)).unwrap().len(), LEN);
}

#[test]
fn what_is_unpacked_instead_is_counted_by_its_reason() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) =
        bed.pushed(Image::new().layer(layer([file("one", "1")])).layer(layer([file("other", "2")])));
    let (node, address) = node_that_tells(&bed, "");
    let told = |reason: &str| sample(address, &format!("jaunt_fallbacks_total{{reason=\"{reason}\"}}"));
    assert_eq!(told("no-launch-artifact"), 0.0);
    node.pull(&pushed.reference).unwrap();
    assert_eq!((told("no-launch-artifact"), told("untrusted-artifact")), (2.0, 0.0));
}

/// Alive, and of no use: to whom that matters is told apart.
#[test]
fn who_runs_is_told_from_who_can_be_used() {
    needs_root!();
    let bed = Bed::new();
    let taken = bed.scratch.path().join("taken.sock");
    let other = std::os::unix::net::UnixListener::bind(&taken).unwrap();
    let (node, address) = node_that_tells(&bed, &format!("[credentials]\ncri_socket = {taken:?}\n"));
    let ask = |path: &str| {
        let told = http::request(address, "GET", path, &[], b"").unwrap();
        (told.status, String::from_utf8(told.body).unwrap())
    };
    assert_eq!(ask("/livez"), (200, "ok\n".to_owned()));
    wait_until("the socket's being tried", LIMIT, || ask("/readyz").0 == 503).unwrap();
    let why = ask("/readyz").1;
    assert!(why.contains("image calls are not taken") && why.contains("taken.sock"), "{why}");
    assert!(status(&bed, &node)["health"]["image_calls_trouble"].as_str().unwrap().contains("taken.sock"));
    drop(other);
    wait_until("readiness", LIMIT, || ask("/readyz") == (200, "ok\n".to_owned())).unwrap();
}

/// Reads go on and nothing new can be begun: whoever places pods is told.
#[test]
fn a_disk_that_is_full_or_read_only_is_told_until_it_is_neither() {
    needs_root!();
    let bed = Bed::new();
    let root = bed.scratch.path().join("jaunt/root");
    let disk = Mounted::tmpfs(&bed.scratch, root.clone(), 24 << 20).unwrap();
    let (node, address) = node_that_tells(&bed, "");
    let ask = || {
        let told = http::request(address, "GET", "/readyz", &[], b"").unwrap();
        (told.status, String::from_utf8(told.body).unwrap())
    };
    let ready = || ask() == (200, "ok\n".to_owned());
    assert!(ready());
    // What was found a moment ago is told again.
    let told = |cause: &str| {
        let is_told = || {
            let (code, why) = ask();
            code == 503 && why.contains(cause) && why.contains(root.to_str().unwrap())
        };
        wait_until(cause, LIMIT, is_told).unwrap();
        assert_eq!(http::request(address, "GET", "/livez", &[], b"").unwrap().status, 200);
    };
    fill(&root.join("filler"));
    told("No space left on device");
    std::fs::remove_file(root.join("filler")).unwrap();
    wait_until("room", LIMIT, ready).unwrap();

    let read_only = Mounted::read_only(&bed.scratch, &root).unwrap();
    told("Read-only file system");
    drop(read_only);
    wait_until("a writable disk", LIMIT, ready).unwrap();
    drop((node, disk));
}

#[test]
fn figures_move_as_they_must_after_known_reads() {
    needs_root!();
    let bed = Bed::new();
    let files = [file("first", noise(1, LEN)), file("second", noise(2, LEN))];
    let (image, pushed) = bed.converted(Image::new().layer(layer(files)));
    let (node, address) = node_that_tells(&bed, "");
    let told = |name: &str| sample(address, name);
    assert_eq!(http::request(address, "GET", "/healthz", &[], b"").unwrap().body, b"ok\n");
    assert_eq!((told("jaunt_reads_total"), told("jaunt_fetched_bytes_total")), (0.0, 0.0));

    node.pull(&pushed.reference).unwrap();
    let chain = image.chain_ids().last().unwrap().to_string();
    let view = node.containerd.view("jaunt", &chain).unwrap();
    read(view.point(), "first");
    let (misses, fetched) = (told("jaunt_misses_total"), told("jaunt_fetched_bytes_total"));
    assert!(misses >= 1.0, "{misses} misses");
    // Noise does not compress: what arrived is about what was read, and the rest of its spans.
    assert!(fetched >= LEN as f64 * 0.9, "{fetched} bytes");
    assert!(told("jaunt_decoded_bytes_total") >= LEN as f64);
    assert!(told("jaunt_served_bytes_total") >= LEN as f64);
    for histogram in ["fetch", "decode", "stall"] {
        assert!(told(&format!("jaunt_{histogram}_seconds_count")) >= 1.0, "{histogram}");
    }
    assert_eq!(told("jaunt_failed_reads_total"), 0.0);
    assert_eq!(told("jaunt_fallbacks_total{reason=\"no-launch-artifact\"}"), 0.0);

    // From the page cache: the daemon hears nothing of it.
    let reads = told("jaunt_reads_total");
    read(view.point(), "first");
    assert_eq!(told("jaunt_reads_total"), reads);

    read(view.point(), "second");
    assert!(told("jaunt_fetched_bytes_total") >= 2.0 * LEN as f64 * 0.9);
    let status = status(&bed, &node);
    let figures = &status["figures"];
    // What lies behind the last file in the tar is nobody's.
    let [present, total] =
        ["present_bytes", "total_bytes"].map(|key| figures["images"][0][key].as_u64().unwrap());
    assert!(present >= 2 * LEN as u64 && present <= total, "{present} of {total}");
    assert_eq!(figures["images"][0]["mounts"], 1);
    assert_eq!(figures["quarantined"], 0);
    let stalled = figures["stalled_files"].as_array().unwrap();
    assert!(stalled.iter().any(|file| file["path"] == "/first" || file["path"] == "/second"), "{stalled:?}");
}

/// The value of an image's sample. One image is mounted.
fn of_image(address: SocketAddr, name: &str) -> f64 {
    let told = http::request(address, "GET", "/metrics", &[], b"").unwrap();
    let text = String::from_utf8(told.body).unwrap();
    let samples: Vec<_> =
        text.lines().filter(|line| line.starts_with(&format!("{name}{{image=\""))).collect();
    let [sample] = samples[..] else { panic!("{name}: {samples:?}\n{text}") };
    sample.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn how_far_an_image_is_and_what_its_readers_have_waited_is_told() {
    needs_root!();
    let mut bed = Bed::new();
    let layers = [("first", 1), ("second", 2)].map(|(name, seed)| layer([file(name, noise(seed, LEN))]));
    let (image, pushed) = bed.converted(layers.into_iter().fold(Image::new(), Image::layer));
    let (node, address) = node_that_tells(&bed, "[completion]\ndelay_seconds = 3\n");
    let told = |name: &str| sample(address, name);
    node.pull(&pushed.reference).unwrap();
    let view = node.containerd.view("jaunt", &image.chain_ids().last().unwrap().to_string()).unwrap();
    read(view.point(), "first");
    assert_eq!(of_image(address, "jaunt_image_mounts"), 1.0);
    assert!(of_image(address, "jaunt_image_stalled_seconds") > 0.0);
    assert!(of_image(address, "jaunt_image_present_ratio") > 0.4);
    assert!(of_image(address, "jaunt_image_bytes") >= 2.0 * LEN as f64);
    wait_until("completion", LIMIT, || told("jaunt_completion_trees_total") == 1.0).unwrap();
    assert_eq!(of_image(address, "jaunt_image_present_ratio"), 1.0);
    assert_eq!(told("jaunt_completion_layers_total"), 2.0);
    // Noise does not compress, and nobody has read the second.
    let filled = told("jaunt_completion_filled_bytes_total");
    assert!((LEN as f64 * 0.9..LEN as f64 * 2.1).contains(&filled), "{filled} bytes");
    for nothing in ["quarantined_total", "postponed_total", "lost_total", "without_room"] {
        assert_eq!(told(&format!("jaunt_completion_{nothing}")), 0.0, "{nothing}");
    }
    // What waits does not grow while nothing is missing.
    let waited = of_image(address, "jaunt_image_stalled_seconds");
    bed.registry.pause();
    read(view.point(), "second");
    assert_eq!(of_image(address, "jaunt_image_stalled_seconds"), waited);
    bed.registry.resume();
    drop(view);
}

#[test]
fn a_source_that_fails_is_told_with_its_host() {
    needs_root!();
    let mut bed = Bed::new();
    let (image, pushed) = bed.converted(Image::new().layer(layer([file("first", noise(1, LEN))])));
    let (node, address) = node_that_tells(&bed, "read_deadline_seconds = 1\n");
    node.pull(&pushed.reference).unwrap();
    let view = node.containerd.view("jaunt", &image.chain_ids().last().unwrap().to_string()).unwrap();
    let host = bed.registry.host();
    bed.registry.stop().unwrap();
    let error = std::fs::read(view.point().join("first")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let failures = format!("jaunt_source_failures_total{{host=\"{host}\",trouble=\"broken\"}}");
    assert!(sample(address, &failures) >= 1.0);
    assert!(sample(address, "jaunt_failed_reads_total") >= 1.0);
}

fn status(bed: &Bed, node: &Node<'_>) -> Value {
    let mut command: Command = bed.binaries.snapshotter(&bed.scratch, &["status", "--json", "--socket"]);
    command.arg(node.jaunt.as_ref().unwrap().socket());
    serde_json::from_str(&run(&mut command).unwrap()).unwrap()
}

/// The image does not fit below the cap, and both containers go on reading all of it.
#[test]
fn a_cap_below_what_containers_use_takes_nothing_from_them_and_is_told() {
    const CAP_MIB: u64 = 8;
    needs_root!();
    let bed = Bed::new();
    let content = [1, 2, 3].map(|seed| noise(seed, 6 << 20));
    let one_file = |(name, bytes): (&str, &Vec<u8>)| layer([file(name, bytes.clone())]);
    let layers = ["a", "b", "c"].into_iter().zip(&content).map(one_file);
    let (_, pushed) = bed.converted(layers.fold(Image::new().layer(layer(common::runnable())), Image::layer));
    let config = format!("[store]\ncap_mib = {CAP_MIB}\n[completion]\nenabled = false\n");
    let (node, address) = node_that_tells(&bed, &config);
    node.pull(&pushed.reference).unwrap();
    let evicted = || sample(address, "jaunt_store_evicted_bytes_total");
    let fetched = || sample(address, "jaunt_fetched_bytes_total");
    assert_eq!(sample(address, "jaunt_store_cap_bytes"), (CAP_MIB << 20) as f64);
    let words =
        ["/bin/sh", "-c", "mkfifo /go; while :; do cat /a /b /c | sha256sum; cat /go > /dev/null; done"];
    let mut both = [(); 2].map(|()| node.containerd.run_with(&pushed.reference, &words).unwrap());
    let right = jaunt_formats::Digest::of(&content.concat()).hex().to_string();
    let all_read = |both: &mut [Container; 2]| {
        for container in both {
            let line = container.next_line(LIMIT).unwrap().expect("it goes on");
            assert!(line.starts_with(&right), "{line}");
        }
    };
    let is_below_cap = || sample(address, "jaunt_store_bytes") <= (CAP_MIB << 20) as f64;
    let mut before = 0.0;
    all_read(&mut both);
    for _ in 0..2 {
        // Nobody reads meanwhile, so nothing is in use, and half of what they read has to go.
        wait_until("room", LIMIT, || evicted() > before && is_below_cap()).unwrap();
        before = evicted();
        let present = fetched();
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        both.iter().for_each(|container| node.containerd.wake(container).unwrap());
        all_read(&mut both);
        assert!(fetched() > present, "nothing was missing");
    }
    wait_until("the cap", LIMIT, is_below_cap).unwrap();
}
