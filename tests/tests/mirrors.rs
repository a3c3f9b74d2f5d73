//! A node behind a mirror: what is read when it dies, and when it gives wrong bytes.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use common::{Bed, behind, mount, noise};
use jaunt_formats::Digest;
use jaunt_tests::image::{BuiltImage, Image, dir, file, layer};
use jaunt_tests::process::Daemon;
use jaunt_tests::{Registry, needs_root};

const FILES: u64 = 8;
const FILE_BYTES: usize = 1 << 20;

/// A registry, a mirror of it with the same image converted, and a mount of that.
struct Mirrored {
    bed: Bed,
    mirror: Registry,
    point: PathBuf,
    mount: Daemon,
}

impl Mirrored {
    /// `spoil` is what happens to the mirror before it is asked for anything.
    fn new(spoil: impl FnOnce(&Bed, &Registry)) -> Self {
        let bed = Bed::new();
        let mirror = Registry::local(&bed.scratch).unwrap();
        let files = (0..FILES).map(|n| file(format!("d/{n}"), noise(n + 1, FILE_BYTES)));
        let image = Image::new().layer(layer([dir("d", 0o755)].into_iter().chain(files))).build().unwrap();
        let reference = convert(&bed, &bed.registry, &image);
        convert(&bed, &mirror, &image);
        spoil(&bed, &mirror);

        let point = bed.scratch.dir("point").unwrap();
        let config = behind(&bed, &mirror.host());
        let mount = mount(&bed, "mount", &reference, &point, &config);
        Self { bed, mirror, point, mount }
    }

    fn file(&self, n: u64) -> bool {
        std::fs::read(self.point.join(format!("d/{n}"))).unwrap() == noise(n + 1, FILE_BYTES)
    }
}

fn convert(bed: &Bed, registry: &Registry, image: &BuiltImage) -> String {
    let pushed = image.push(registry, "fixture", "v1").unwrap();
    bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
    pushed.reference
}

#[test]
fn a_mirror_that_dies_under_a_mounted_image_is_left_for_the_registry() {
    needs_root!();
    let mut mirrored = Mirrored::new(|_, _| {});
    mirrored.bed.registry.pause();
    assert!(mirrored.file(0), "the mirror alone answers");
    mirrored.bed.registry.resume();
    mirrored.mirror.stop().unwrap();
    assert!((1..FILES).all(|n| mirrored.file(n)), "{}", mirrored.mount.log());
}

/// doc/SEMANTICS.md B2: the same repository has the bytes from another hand.
#[test]
fn what_a_mirror_spoils_is_fetched_from_the_registry() {
    needs_root!();
    let mirrored = Mirrored::new(|bed, mirror| {
        let (image, _) = mirror.manifest("fixture", "v1").map(|(_, digest)| (digest, ())).unwrap();
        let tag = format!("sha256-{}.jaunt", image.hex());
        let (artifact, _) = bed.registry.manifest("fixture", &tag).unwrap();
        for blob in artifact["layers"].as_array().unwrap() {
            let blob: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            let data = std::fs::File::options().write(true).open(mirror.blob_file(&blob)).unwrap();
            if data.metadata().unwrap().len() > FILE_BYTES as u64 {
                (0..FILES).for_each(|n| data.write_all_at(b"spoilt", n * FILE_BYTES as u64 + 777).unwrap());
            }
        }
    });
    assert!((0..FILES).all(|n| mirrored.file(n)), "{}", mirrored.mount.log());
    assert!(mirrored.mount.log().contains("wrong bytes"));
    assert!(!mirrored.mount.log().contains("original"), "{}", mirrored.mount.log());
}
