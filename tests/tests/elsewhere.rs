//! An image whose own project nobody may write to, as one that caches another registry: it is converted into another place, and nodes
//! find it there.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;

use common::packs::read_in_container;
use common::{Bed, backings, mirrored, mount, noise, runnable};
use jaunt_tests::image::{Image, file, layer};
use jaunt_tests::process::run;
use jaunt_tests::{Nginx, Node, Registry, needs_programs, needs_root};

const LEN: usize = 1 << 20;
/// Beside the registries' own ports, on the address of one.
const PORT: u16 = 5080;

/// A registry that can be written to, and an image that has been converted into it from one that cannot.
struct Elsewhere {
    bed: Bed,
    /// Reads alone pass it.
    project: Nginx,
    other: Registry,
}

impl Elsewhere {
    fn new() -> Self {
        let bed = Bed::new();
        let data = [file("first", noise(1, LEN)), file("second", noise(2, LEN))];
        bed.pushed(Image::new().layer(layer(runnable())).layer(layer(data)));
        let address = SocketAddr::new(bed.registry.address().ip(), PORT);
        let project = Nginx::start(&bed.scratch, address, bed.registry.address()).unwrap();
        let other = Registry::local(&bed.scratch).unwrap();
        Self { bed, project, other }
    }

    /// The image where nobody may write.
    fn reference(&self) -> String {
        format!("{}/fixture:v1", self.project.address())
    }

    fn convert(&self, words: &[&str]) -> Result<String, String> {
        let (project, other) = (self.project.address().to_string(), self.other.host());
        let hosts = ["convert", "--plain-http", &project, "--plain-http", &other];
        let reference = self.reference();
        let all = [&hosts, words, &[&reference]].concat();
        run(&mut self.bed.binaries.proxy(&self.bed.scratch, &all)).map_err(|error| error.to_string())
    }

    fn blob_requests(&self) -> (u64, u64) {
        (self.project.requests().unwrap(), self.other.blob_requests().unwrap())
    }
}

#[test]
fn an_image_whose_project_cannot_be_written_to_is_converted_elsewhere_and_started_from_there() {
    needs_root!();
    needs_programs!("nginx");
    let place = Elsewhere::new();
    let refused = place.convert(&[]).unwrap_err();
    assert!(refused.contains("access denied (403") && refused.contains("--to"), "{refused}");

    let copy = format!("{}/team/copy:v1", place.other.host());
    place.convert(&["--to", &copy]).unwrap();
    let (bed, before) = (&place.bed, place.project.requests().unwrap());
    let node = Node::jaunt(&bed.scratch, &bed.binaries, &[place.other.host()]).unwrap();
    node.pull(&copy).unwrap();
    assert_eq!(backings(bed, &node), ["lazy"; 2]);
    read_in_container(&node, &copy, &[("first", &noise(1, LEN)), ("second", &noise(2, LEN))]);
    assert_eq!(place.project.requests().unwrap(), before, "the project was asked");
}

/// Pods keep the name that they have: the digest is the same.
#[test]
fn nodes_that_ask_the_other_place_first_start_the_image_lazily_under_its_own_name() {
    needs_root!();
    needs_programs!("nginx");
    let place = Elsewhere::new();
    place.convert(&["--to", &format!("{}/fixture:v1", place.other.host())]).unwrap();
    let (bed, before) = (&place.bed, place.blob_requests());
    let point = bed.scratch.dir("point").unwrap();
    let config = mirrored(bed, &place.project.address().to_string(), &place.other.host());
    let mounted = mount(bed, "node", &place.reference(), &point, &config);
    for (name, seed) in [("first", 1), ("second", 2)] {
        assert_eq!(std::fs::read(point.join(name)).unwrap(), noise(seed, LEN), "{}", mounted.log());
    }
    let after = place.blob_requests();
    assert!(after.0 == before.0 && after.1 > before.1, "{before:?} {after:?}");
}
