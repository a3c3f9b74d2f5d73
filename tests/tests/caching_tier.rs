//! Nodes behind nginx as a caching tier, as doc/nginx-cache.conf sets it up: what they read, who is asked for it, and what
//! happens when the tier is gone.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use common::{Bed, behind, mount, noise};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::Daemon;
use jaunt_tests::{Nginx, needs_programs, needs_root};

const FILES: u64 = 6;
const FILE_BYTES: usize = 1 << 20;
/// Beside the registry's own ports, on its own address.
const PORT: u16 = 5080;

/// A registry with an image, and nginx before it.
struct Tier {
    bed: Bed,
    nginx: Nginx,
    reference: String,
    config: PathBuf,
}

/// A node that has mounted the image.
struct Mounted {
    point: PathBuf,
    daemon: Daemon,
}

impl Tier {
    fn new() -> Self {
        let bed = Bed::new();
        let files = (0..FILES).map(|n| file(format!("d/{n}"), noise(n + 1, FILE_BYTES)));
        let image = Image::new().layer(layer([dir("d", 0o755)].into_iter().chain(files)));
        let (_, pushed) = bed.converted(image);
        let address = SocketAddr::new(bed.registry.address().ip(), PORT);
        let nginx = Nginx::start(&bed.scratch, address, bed.registry.address()).unwrap();
        let config = behind(&bed, &nginx.address().to_string());
        Self { bed, nginx, reference: pushed.reference, config }
    }

    fn node(&self, name: &str) -> Mounted {
        let point = self.bed.scratch.dir(&format!("point-{name}")).unwrap();
        let daemon = mount(&self.bed, name, &self.reference, &point, &self.config);
        Mounted { point, daemon }
    }

    fn blob_requests(&self) -> u64 {
        self.bed.registry.blob_requests().unwrap()
    }
}

impl Mounted {
    fn reads_right(&self, n: u64) -> bool {
        std::fs::read(self.point.join(format!("d/{n}"))).unwrap() == noise(n + 1, FILE_BYTES)
    }
}

/// What the files of a directory take together.
fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let bytes = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        found if found.is_dir() => bytes_below(&entry.path()),
        found => found.len(),
    };
    entries.map(bytes).sum()
}

#[test]
fn what_one_node_has_read_the_next_one_gets_from_the_caching_tier() {
    needs_root!();
    needs_programs!("nginx");
    let tier = Tier::new();
    let before = (tier.blob_requests(), tier.nginx.requests().unwrap());
    let first = tier.node("first");
    assert!((0..FILES).all(|n| first.reads_right(n)), "{}", first.daemon.log());
    let after_first = (tier.blob_requests(), tier.nginx.requests().unwrap());
    assert!(after_first.0 > before.0, "nothing was cached before");
    assert!(after_first.1 > before.1, "the first node has asked nginx");

    let second = tier.node("second");
    assert!((0..FILES).all(|n| second.reads_right(n)), "{}", second.daemon.log());
    assert_eq!(tier.blob_requests(), after_first.0, "the registry was asked again");
    assert!(tier.nginx.requests().unwrap() > after_first.1);
}

/// Nodes ask for some layers of an image before it is promised, and need no byte of them for that.
#[test]
fn whether_a_blob_is_there_costs_the_caching_tier_none_of_its_bytes() {
    needs_root!();
    needs_programs!("nginx");
    const LEN: usize = 3 << 20;
    let tier = Tier::new();
    let digest = tier.bed.registry.push_blob("fixture", &noise(99, LEN)).unwrap();
    let path = format!("/v2/fixture/blobs/{digest}");
    let cached = || bytes_below(&tier.bed.scratch.path().join("nginx/cache"));
    let (before, asked) = (cached(), tier.blob_requests());
    for _ in 0..2 {
        let told = jaunt_tests::http::request(tier.nginx.address(), "HEAD", &path, &[], b"").unwrap();
        assert_eq!((told.status, told.header("content-length")), (200, Some(&*LEN.to_string())));
    }
    assert_eq!(tier.blob_requests(), asked + 1, "the registry is asked once");
    assert!(cached() - before < 64 << 10, "{} bytes", cached() - before);
    let got = jaunt_tests::http::request(tier.nginx.address(), "GET", &path, &[], b"").unwrap();
    assert!(got.status == 200 && got.body == noise(99, LEN));
}

#[test]
fn a_caching_tier_that_is_gone_is_left_for_the_registry() {
    needs_root!();
    needs_programs!("nginx");
    let mut tier = Tier::new();
    let node = tier.node("node");
    assert!(tier.nginx.requests().unwrap() > 0, "the index came by nginx");
    // Before the first read, so that nothing of the layer is here yet.
    tier.nginx.stop().unwrap();
    let before = tier.blob_requests();
    assert!((0..FILES).all(|n| node.reads_right(n)), "{}", node.daemon.log());
    assert!(tier.blob_requests() > before, "the registry itself was asked");
}

/// Nobody pushes through a cache, nor deletes.
#[test]
fn a_caching_tier_hands_on_reads_alone() {
    needs_root!();
    needs_programs!("nginx");
    let tier = Tier::new();
    let ask = |method| {
        let path = "/v2/fixture/blobs/uploads/";
        jaunt_tests::http::request(tier.nginx.address(), method, path, &[], b"").unwrap().status
    };
    assert_eq!((ask("POST"), ask("DELETE")), (403, 403));
}
