//! `jaunt-snapshotter mount` and `umount`: an image as a file system, without containerd.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::packs::{proxy, trace_of};
use common::{Bed, copied, everything, noise, runnable};
use jaunt_tests::image::{BuiltImage, Image, file, layer};
use jaunt_tests::process::{Daemon, run, wait_until};
use jaunt_tests::{Node, compare, mounts, needs_root};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// A `mount` in the foreground.
struct Mount {
    process: Daemon,
    point: PathBuf,
}

impl Mount {
    fn command(bed: &Bed, reference: &str, point: &Path) -> Command {
        let mut command = bed.binaries.snapshotter(&bed.scratch, &["mount", "--plain-http"]);
        command.arg(bed.registry.host()).arg("--root").arg(bed.scratch.dir("cache").unwrap());
        command.arg(reference).arg(point);
        command
    }

    fn start(bed: &Bed, reference: &str) -> Self {
        Self::start_with(bed, reference, &[])
    }

    fn start_with(bed: &Bed, reference: &str, flags: &[&str]) -> Self {
        let point = bed.scratch.dir("point").unwrap();
        let mut command = Self::command(bed, reference, &point);
        command.args(flags);
        // A second mount of a test appends to the log of the first.
        let _ = std::fs::remove_file(process_log(bed));
        let mut process = Daemon::spawn("mount", &mut command, &bed.scratch.logs()).unwrap();
        let marker = "mounted on";
        let log = process_log(bed);
        process
            .wait_until(marker, LIMIT, || std::fs::read_to_string(&log).unwrap().contains(marker))
            .unwrap();
        Self { process, point }
    }

    fn ended(&mut self) -> bool {
        self.process.exited().unwrap().is_some()
    }
}

/// Ends it as Ctrl-C does.
fn end(mut mount: Mount) {
    mount.process.signal(Signal::INT);
    wait_until("the end of the mount", LIMIT, || mount.ended()).unwrap();
    assert!(mount.process.exited().unwrap().unwrap().success(), "{}", mount.process.log());
    assert!(mounts::below(&mount.point).is_empty());
}

fn process_log(bed: &Bed) -> PathBuf {
    bed.scratch.logs().join("mount.log")
}

/// The tree of an image that containerd unpacked.
struct Unpacked(compare::Tree);

impl Unpacked {
    fn of(bed: &Bed, image: &BuiltImage, reference: &str) -> Self {
        let node = Node::overlayfs(&bed.scratch, &[bed.registry.host()]).unwrap();
        node.pull(reference).unwrap();
        let whole = image.chain_ids().last().unwrap().to_string();
        let unpacked = node.containerd.view("overlayfs", &whole).unwrap();
        Self(compare::read(unpacked.point()).unwrap())
    }

    fn is_what_is_at(&self, point: &Path) {
        let mounted = compare::read(point).unwrap();
        let mut found = compare::differences(&mounted, &self.0);
        // containerd ignores what a layer says about its root, which so has the time of unpacking.
        found.retain(|line| !line.starts_with("/: mtime: "));
        assert!(found.is_empty() && mounted.len() > 20, "mounted against unpacked:\n{}", found.join("\n"));
    }
}

fn failure(command: &mut Command) -> String {
    run(command).unwrap_err().to_string()
}

#[test]
fn the_images_root_is_at_the_directory_and_equals_what_is_unpacked() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(everything());
    let mount = Mount::start(&bed, &pushed.reference);
    let unpacked = Unpacked::of(&bed, &image, &pushed.reference);
    unpacked.is_what_is_at(&mount.point);

    end(mount);
}

#[test]
fn a_completed_mount_needs_no_registry_whoever_made_the_image_lazy() {
    needs_root!();
    let mut bed = Bed::new();
    let (image, pushed) = bed.pushed(everything().in_words());
    run(&mut bed.binaries.proxy(&bed.scratch, &["convert", "--mode", "replace", &pushed.reference])).unwrap();
    // Without its artifact: zstd:chunked, whose own tables are read.
    let (_, copied) = copied(&bed, "fixture", "elsewhere");
    let unpacked = Unpacked::of(&bed, &image, &copied);
    let by_tables = Mount::start(&bed, &copied);
    unpacked.is_what_is_at(&by_tables.point);
    end(by_tables);
    for reference in [&pushed.reference, &copied] {
        let mount = Mount::start_with(&bed, reference, &["--complete"]);
        wait_until("completion", LIMIT, || mount.process.log().contains("an image is complete")).unwrap();
        bed.registry.pause();
        unpacked.is_what_is_at(&mount.point);
        bed.registry.resume();
        end(mount);
    }
}

#[test]
fn what_a_boot_pack_brings_is_read_without_asking_for_it_also_by_the_next_mount() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(Image::new().layer(layer(runnable())).command(&["/bin/sh"]));
    let program = std::fs::read(jaunt_tests::host::find("busybox").unwrap()).unwrap();
    for is_first in [true, false] {
        let mount = Mount::start(&bed, &pushed.reference);
        if is_first {
            wait_until("the pack", LIMIT, || mount.process.log().contains("boot pack is here")).unwrap();
        }
        let asked = bed.registry.blob_requests().unwrap();
        assert!(std::fs::read(mount.point.join("bin/busybox")).unwrap() == program);
        assert_eq!(bed.registry.blob_requests().unwrap(), asked);
        end(mount);
    }
}

/// A pack has of a file what was read of it, and that little was read ahead then. Nothing is pushed here: who reads the same with a large
/// read-ahead misses the pack for what lies beyond it, and waits for spans.
#[test]
fn a_program_reads_from_a_learnt_pack_what_it_read_when_that_was_learnt() {
    needs_root!();
    const READ: &str = "262144";
    let bed = Bed::new();
    let large = layer([file("large", noise(1, 4 << 20))]);
    let reads = format!("head -c {READ} /large | wc -c; exec sleep 600");
    let image = Image::new().layer(layer(runnable())).layer(large).command(&["/bin/sh", "-c", &reads]);
    let (_, pushed) = bed.converted(image);
    let node = bed.node_with("[boot]\nsettled_seconds = 3\n");
    node.pull(&pushed.reference).unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    assert_eq!(container.next_line(LIMIT).unwrap().unwrap(), READ);
    let trace = trace_of(&bed, &node, &pushed.reference);
    container.stop().unwrap();
    node.wipe().unwrap();
    proxy(&bed, &["optimize", "--trace", &trace, &pushed.reference]);

    let config = bed.scratch.path().join("mount.toml");
    std::fs::write(&config, "[boot]\nlongest_seconds = 3\n").unwrap();
    let mount = Mount::start_with(&bed, &pushed.reference, &["--config", config.to_str().unwrap()]);
    wait_until("the pack", LIMIT, || mount.process.log().contains("boot pack is here")).unwrap();
    let asked = bed.registry.blob_requests().unwrap();
    let mut head = Command::new(jaunt_tests::host::find("busybox").unwrap());
    let read = head.args(["head", "-c", READ]).arg(mount.point.join("large")).output().unwrap();
    assert!(read.stdout == noise(1, 4 << 20)[..262_144]);
    assert_eq!(bed.registry.blob_requests().unwrap(), asked, "the pack has all that is read");
    // Later, as ever.
    wait_until("reading ahead", LIMIT, || mounts::read_ahead_kib(&mount.point).unwrap() == 1024).unwrap();
    end(mount);
}

#[test]
fn a_second_signal_does_not_wait_for_who_uses_the_mount() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(Image::new().layer(layer([file("a", "content")])));
    let mut mount = Mount::start(&bed, &pushed.reference);
    let open = File::open(mount.point.join("a")).unwrap();
    mount.process.signal(Signal::INT);
    wait_until("a word about it", LIMIT, || mount.process.log().contains("is in use")).unwrap();
    mount.process.signal(Signal::INT);
    wait_until("the end of the mount", LIMIT, || mount.ended()).unwrap();
    assert!(!mount.process.exited().unwrap().unwrap().success());
    assert!(mount.process.log().contains("ended by a second signal"), "{}", mount.process.log());
    assert!(mounts::below(&mount.point).is_empty());
    assert!(open.read_at(&mut [0; 1], 0).is_err(), "it is broken for who uses it");
}

#[test]
fn a_mount_in_use_is_kept_until_it_is_not() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(Image::new().layer(layer([file("a", "content")])));
    let mut mount = Mount::start(&bed, &pushed.reference);
    let open = File::open(mount.point.join("a")).unwrap();
    mount.process.signal(Signal::TERM);
    wait_until("a word about it", LIMIT, || mount.process.log().contains("is in use")).unwrap();
    assert_eq!(std::fs::read(mount.point.join("a")).unwrap(), b"content");
    assert!(!mount.ended());
    drop(open);
    wait_until("the end of the mount", LIMIT, || mount.ended()).unwrap();
    assert!(mount.process.exited().unwrap().unwrap().success());
    assert!(mounts::below(&mount.point).is_empty());
}

#[test]
fn umount_ends_a_mount_and_removes_a_dead_one() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(Image::new().layer(layer([file("a", "content")])));
    let umount = |point: &Path| {
        let mut command = bed.binaries.snapshotter(&bed.scratch, &["umount"]);
        command.arg(point);
        command
    };
    let mut mount = Mount::start(&bed, &pushed.reference);
    let open = File::open(mount.point.join("a")).unwrap();
    assert!(failure(&mut umount(&mount.point)).contains("is in use"));
    drop(open);
    wait_until("umount", LIMIT, || run(&mut umount(&mount.point)).is_ok()).unwrap();
    wait_until("the end of the mount", LIMIT, || mount.ended()).unwrap();
    assert!(mount.process.exited().unwrap().unwrap().success());

    let mut mount = Mount::start(&bed, &pushed.reference);
    mount.process.kill().unwrap();
    let dead = std::fs::symlink_metadata(mount.point.join("never asked for")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    let mut again = Mount::command(&bed, &pushed.reference, &mount.point);
    assert!(failure(&mut again).contains("is busy: a file system of type fuse.jaunt"));
    run(&mut umount(&mount.point)).unwrap();
    assert!(failure(&mut umount(&mount.point)).contains("is not a mount of jaunt-snapshotter"));
}

#[test]
fn what_cannot_be_mounted_is_told_why() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(Image::new().layer(layer(runnable())));
    let point = bed.scratch.dir("point").unwrap();
    let try_to = |reference: &str, point: &Path| failure(&mut Mount::command(&bed, reference, point));
    let plain = try_to(&pushed.reference, &point);
    assert!(plain.contains(&format!("jaunt-proxy convert {}", pushed.reference)), "{plain}");
    let missing = try_to(&format!("{}/none:v1", bed.registry.host()), &point);
    assert!(missing.contains("none:v1"), "{missing}");
    let file = bed.scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(try_to(&pushed.reference, &file).contains("is not a directory"));
    let mut other = Mount::command(&bed, &pushed.reference, &point);
    let other = failure(other.args(["--platform", "linux/s390x"]));
    assert!(other.contains("has no image for linux/s390x; it has: linux/"), "{other}");
    assert!(mounts::below(bed.scratch.path()).is_empty());
}

#[test]
fn what_is_kept_from_earlier_mounts_goes_where_the_cap_is_reached() {
    const CAP_MIB: u64 = 8;
    needs_root!();
    let bed = Bed::new();
    let image = |seed: u64| Image::new().layer(layer([file("f", noise(seed, 6 << 20))])).build().unwrap();
    let references = [1, 2].map(|seed| {
        let pushed = image(seed).push(&bed.registry, &format!("of/{seed}"), "v1").unwrap();
        bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
        pushed.reference
    });
    let config = bed.scratch.path().join("capped.toml");
    std::fs::write(&config, format!("[store]\ncap_mib = {CAP_MIB}\n")).unwrap();
    let layers = bed.scratch.path().join("cache/layers");
    for (reference, seed) in references.iter().zip([1, 2]) {
        let mount = Mount::start_with(&bed, reference, &["--config", &config.display().to_string()]);
        assert!(std::fs::read(mount.point.join("f")).unwrap() == noise(seed, 6 << 20));
        wait_until("room", LIMIT, || bytes_below(&layers) <= CAP_MIB << 20).unwrap();
        assert!(std::fs::read(mount.point.join("f")).unwrap() == noise(seed, 6 << 20));
        end(mount);
    }
}

/// What files below a directory take of the disk, while some of them may go.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
