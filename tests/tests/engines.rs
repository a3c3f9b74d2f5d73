//! Other container engines read what a conversion leaves behind: podman in parts, Docker as a whole.
//!
//! Debian 12 has neither in a version that can: `make test-matrix` runs these with podman 5 and Docker 26
//! and 28.
#![allow(clippy::unwrap_used)]

mod common;

use common::{noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::docker::{self, Docker, Store};
use jaunt_tests::image::{BuiltImage, Entry, Image, dir, file, layer};
use jaunt_tests::network::GIGABIT;
use jaunt_tests::podman::{self, Podman};
use jaunt_tests::process::run;
use jaunt_tests::{Binaries, Network, Registry, Scratch, needs_programs, needs_root};

/// Files that both images have, in layers that differ: 24 of 256 KiB, each one frame, and one of several.
const SHARED: u64 = 24;
const SHARED_LEN: usize = 256 << 10;
const LARGE_LEN: usize = 3 << 20;
/// A file of one image alone.
const OWN_LEN: usize = 512 << 10;

/// What all images show of themselves: the digest of every file, and a last line.
const SHOW: [&str; 3] = ["/bin/sh", "-ec", "sha256sum /data/*; echo ready"];

fn image(own: u64) -> Image {
    let mut data: Vec<Entry> = vec![dir("data", 0o755)];
    data.extend((0..SHARED).map(|n| file(format!("data/shared-{n:02}"), noise(n, SHARED_LEN))));
    data.push(file("data/large", noise(99, LARGE_LEN)));
    data.push(file("data/own", noise(1000 + own, OWN_LEN)));
    Image::new().layer(layer(runnable())).layer(layer(data)).command(&SHOW)
}

/// What a container of [`image`] prints.
fn shown(own: u64) -> String {
    let line = |name: &str, content: Vec<u8>| format!("{}  /data/{name}\n", Digest::of(&content).hex());
    let mut text = line("large", noise(99, LARGE_LEN)) + &line("own", noise(1000 + own, OWN_LEN));
    (0..SHARED).for_each(|n| text += &line(&format!("shared-{n:02}"), noise(n, SHARED_LEN)));
    text + "ready\n"
}

/// A registry behind a link, and the converter.
struct Bed {
    binaries: Binaries,
    registry: Registry,
    network: Network,
    scratch: Scratch,
}

impl Bed {
    fn new() -> Self {
        let scratch = Scratch::new().unwrap();
        let network = Network::new(&scratch, GIGABIT).unwrap();
        let registry = Registry::remote(&scratch, &network).unwrap();
        Self { binaries: Binaries::find().unwrap(), registry, network, scratch }
    }

    /// Pushes an image and converts it; where it is, and what was pushed.
    fn convert(&self, repository: &str, own: u64, mode: &str) -> (String, BuiltImage) {
        let built = image(own).build().unwrap();
        let reference = built.push(&self.registry, repository, "v1").unwrap().reference;
        let words = ["convert", "--mode", mode, "--plain-http", &self.registry.host(), &reference];
        run(&mut self.binaries.proxy(&self.scratch, &words)).unwrap();
        (reference, built)
    }
}

/// The share of a layer that podman had to fetch, as its log has it: `Missing 5 bytes out of 10 (50.00 %)`.
fn missing(log: &str) -> Vec<(u64, u64)> {
    let numbers = |line: &str| {
        let mut words = line.split_once("Missing ")?.1.split(' ');
        Some((words.next()?.parse().ok()?, words.nth(3)?.parse().ok()?))
    };
    log.lines().filter_map(numbers).collect()
}

#[test]
fn podman_pulls_in_parts_and_fetches_no_file_twice() {
    needs_root!();
    needs_programs!("podman", "conmon", "unshare");
    let bed = Bed::new();
    let version = Podman::version(&bed.scratch).unwrap();
    if version < podman::FIRST_VERSION {
        eprintln!("skipped: {}: podman {version} is too old (make test-matrix has 5)", module_path!());
        return;
    }
    let (first, _) = bed.convert("first", 1, "replace");
    let (second, _) = bed.convert("second", 2, "replace");
    let podman = Podman::new(&bed.scratch).unwrap();
    let pull = |reference: &str| {
        let before = bed.network.received().unwrap();
        let log = podman.pull(reference).unwrap();
        (log, bed.network.received().unwrap() - before)
    };

    let (log, all) = pull(&first);
    assert_eq!(log.matches("Retrieved partial blob").count(), 2, "{log}");
    assert_eq!(podman.run(&first).unwrap(), shown(1));

    let (log, fetched) = pull(&second);
    assert_eq!(log.matches("Retrieved partial blob").count(), 1, "{log}");
    let &[(missing, of)] = missing(&log).as_slice() else { panic!("{log}") };
    println!(
        "podman {version}: {missing} of {of} bytes missing, {fetched} on the wire after {all} for the first"
    );
    let own = OWN_LEN as u64;
    assert!((own..own + own / 4).contains(&missing), "{missing} bytes of {of} for a file of {own}");
    assert!(fetched < 2 * own, "{fetched} bytes fetched for a file of {own}");
    assert_eq!(podman.run(&second).unwrap(), shown(2));
}

#[test]
fn docker_pulls_and_runs_replaced_and_attached_images() {
    needs_root!();
    needs_programs!("dockerd", "docker", "unshare");
    let bed = Bed::new();
    let version = Docker::version(&bed.scratch).unwrap();
    if version < docker::FIRST_VERSION {
        eprintln!(
            "skipped: {}: Docker {version} does not know zstd (make test-matrix has it)",
            module_path!()
        );
        return;
    }
    let (replaced, built) = bed.convert("replaced", 1, "replace");
    let (attached, _) = bed.convert("attached", 2, "attach");
    for store in [Store::Graph, Store::Containerd] {
        let docker = Docker::start(&bed.scratch, &bed.network, store.clone()).unwrap();
        for (reference, own) in [(&replaced, 1), (&attached, 2)] {
            docker.pull(reference).unwrap();
            assert_eq!(docker.run(reference).unwrap(), shown(own), "{store:?}, {reference}");
        }
        if store == Store::Graph {
            let words = ["image", "inspect", "--format", "{{.Id}}", &replaced];
            let id = run(&mut docker.docker(&words)).unwrap();
            let config = serde_json::to_vec(&built.config()).unwrap();
            assert_eq!(id.trim(), Digest::of(&config).to_string(), "the image ID is the original's");
        }
    }
}
