//! Images of complete chains, as the tools of EROFS's own authors read them. Needs neither root nor a kernel with EROFS.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use jaunt_layerfs::erofs::Image as Erofs;
use jaunt_layerfs::fs::RootPlace;
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::store::LargeFiles;

use crate::fixture::{
    Image, Node, block_device, char_device, dir, fifo, file, hard_link, noise, sparse, symlink,
};

const CHECKER: &str = "fsck.erofs";
/// The first release whose checker was seen to take blocks of 512 bytes; 1.5 takes those of 4096 only.
const LEAST: (u32, u32) = (1, 9);

/// Whether there is a checker that can read these images.
fn has_checker() -> bool {
    let Ok(told) = Command::new(CHECKER).arg("--version").output() else {
        eprintln!("skipped: {CHECKER} of erofs-utils is missing");
        return false;
    };
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let version = told.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or_default();
    let mut numbers = version.split(['.', '-']).map_while(|number| number.parse().ok());
    let version = numbers.next().zip(numbers.next());
    if version < Some(LEAST) {
        eprintln!("skipped: {CHECKER} is too old: {told}");
    }
    version >= Some(LEAST)
}

/// What a checker complains of: it does not always tell by its exit.
fn faults(checker: &mut Command) -> Option<String> {
    let checked = checker.output().unwrap();
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    (!checked.status.success() || said.contains("<E>")).then_some(said)
}

/// What the checker says of the images of each prefix of an image, whichever way its root is placed.
fn check(directory: &Path, image: Image) {
    let path = directory.join("index");
    fs::write(&path, image.index).unwrap();
    let index = open_index(&path).unwrap();
    for prefix in 1..=image.layers {
        for place in [RootPlace::Below, RootPlace::AtMount] {
            let written = Erofs::write(&index, prefix, place, &LargeFiles::of_layers(&index)).unwrap();
            let path = directory.join("image");
            fs::write(&path, &written.bytes).unwrap();
            let mut command = Command::new(CHECKER);
            for (at, device) in written.devices.iter().enumerate() {
                let name = directory.join(format!("device-{at}"));
                File::create(&name).unwrap().set_len(device.len.next_multiple_of(512)).unwrap();
                command.arg(format!("--device={}", name.display()));
            }
            let faults = faults(command.arg(&path));
            assert_eq!(faults, None, "{prefix} layers, {place:?}");
        }
    }
}

#[test]
fn the_checker_of_erofs_finds_nothing_wrong_with_images() {
    if !has_checker() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let many: Vec<Node> = (0..20_000).map(|at| file(format!("many/{at:030}"), "x")).collect();
    let deep = "d/".repeat(200);
    let odd = vec![
        dir("empty"),
        dir("#"),
        dir("+").mode(0o2755).xattr("security.of-it", &noise(4, 2000)).xattr("security.other", b""),
        file("#/file", noise(2, 2_500_001)).mode(0o4755).owner(1, 2).mtime(-1, 999_999_999),
        file("+/file", noise(3, 513)).xattr("security.of-it", &noise(4, 1000)),
        file([&b"!\xff\xfe"[..], &[b'n'; 250]].concat(), "x"),
        hard_link("+/again", "#/file"),
        char_device("char", 511, 1_048_575),
        block_device("block", 8, 300),
        fifo("fifo"),
        sparse("sparse", (5 << 20) + 1000, &[(1 << 20, &noise(5, 1 << 16)), (5 << 20, &noise(6, 1000))]),
        symlink("long", "t".repeat(4095)),
        dir("deep"),
        file(format!("deep/{deep}f"), noise(1, 70_000)),
        file("none", ""),
    ];
    check(directory.path(), Image::new(vec![odd, many, vec![file("many/1", "y")]]));
}

#[test]
fn the_checker_of_erofs_finds_what_was_damaged() {
    if !has_checker() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let index = directory.path().join("index");
    fs::write(&index, Image::new(vec![vec![file("f", "x")]]).index).unwrap();
    let index = open_index(&index).unwrap();
    let mut written = Erofs::write(&index, 1, RootPlace::Below, &LargeFiles::of_layers(&index)).unwrap();
    written.bytes[1024 + 40] ^= 1;
    fs::write(&image, &written.bytes).unwrap();
    assert!(faults(Command::new(CHECKER).arg(&image)).is_some());
}
