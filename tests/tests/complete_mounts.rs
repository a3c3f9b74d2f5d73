//! Mounts of complete images, which nobody serves, below containers.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Bed, await_ready, everything, noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, file, layer};
use jaunt_tests::process::{run, signal_pid, wait_until};
use jaunt_tests::{Container, Node, compare, mounts, needs_root};
use rustix::fs::OFlags;
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);
const EINVAL: i32 = 22;
const AT_ONCE: &str = "[completion]\ndelay_seconds = 0\n";
/// Linux 6.12.
const NO_EROFS: &str = "mounts no EROFS from files";
/// Tells the digest of a file of several spans when it is woken, twice.
const WAITING: &str = "mkfifo /go; echo ready; cat /go >/dev/null; sha256sum /d/spans; cat /go >/dev/null; sha256sum /opaque/third";

fn node<'b>(bed: &'b Bed, config: &str) -> Node<'b> {
    bed.node_with(config)
}

/// What is mounted for complete chains.
fn complete_mounts(node: &Node<'_>) -> Vec<PathBuf> {
    let points = mounts::below(&node.jaunt.as_ref().unwrap().run_dir());
    points.into_iter().filter(|point| point.to_string_lossy().ends_with("-complete")).collect()
}

/// Pulls, and waits until all is there.
fn pulled_and_completed<'b>(bed: &'b Bed, reference: &str, config: &str) -> Node<'b> {
    let node = node(bed, config);
    node.pull(reference).unwrap();
    let mut container = node.containerd.run(reference).unwrap();
    await_ready(&mut container);
    let jaunt = node.jaunt.as_ref().unwrap();
    wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
    node
}

/// P6: A mount that the kernel reads by itself needs no daemon: containers on it run on without worker and supervisor, and
/// the next daemon takes it up.
#[test]
fn a_complete_image_is_read_by_the_kernel_whatever_becomes_of_the_daemon() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(everything());
    let lazy = pulled_and_completed(&bed, &pushed.reference, AT_ONCE);
    let mut container = lazy.containerd.run_with(&pushed.reference, &["/bin/sh", "-ec", WAITING]).unwrap();
    await_ready(&mut container);
    let jaunt = lazy.jaunt.as_ref().unwrap();
    if jaunt.log().contains(NO_EROFS) {
        return eprintln!("skipped: this kernel mounts no EROFS from files (Linux 6.12 does)");
    }
    assert_eq!(complete_mounts(&lazy).len(), 1, "{}", jaunt.log());
    // The same as unpacked layers below overlayfs, for every prefix.
    lazy.containerd.pull("overlayfs", &pushed.reference).unwrap();
    for (before, chain_id) in image.chain_ids().iter().map(ToString::to_string).enumerate() {
        // Its tree is compared with its layers while it is mounted for the first time.
        let wanted = (before + 2).min(image.chain_ids().len());
        let is_complete = || {
            drop(lazy.containerd.view("jaunt", &chain_id).unwrap());
            lazy.containerd.end_view("jaunt", &chain_id).unwrap();
            complete_mounts(&lazy).len() == wanted
        };
        wait_until("a complete mount", LIMIT, is_complete).unwrap();
        let complete = lazy.containerd.view("jaunt", &chain_id).unwrap();
        let unpacked = lazy.containerd.view("overlayfs", &chain_id).unwrap();
        let trees = [&complete, &unpacked].map(|view| compare::read(view.point()).unwrap());
        let mut found = compare::differences(&trees[0], &trees[1]);
        found.retain(|line| !line.starts_with("/: mtime: "));
        assert!(found.is_empty(), "{}", found.join("\n"));
        drop((complete, unpacked));
        lazy.containerd.end_view("jaunt", &chain_id).unwrap();
        lazy.containerd.end_view("overlayfs", &chain_id).unwrap();
    }
    assert_eq!(complete_mounts(&lazy).len(), image.chain_ids().len());

    signal_pid(jaunt.worker().unwrap(), Signal::KILL);
    lazy.containerd.wake(&container).unwrap();
    let digest = |seed, len| Digest::of(&noise(seed, len)).hex().to_string();
    assert!(container.next_line(LIMIT).unwrap().unwrap().starts_with(&digest(1, 3 << 20)));
    signal_pid(jaunt.pid(), Signal::KILL);
    let drop_caches = fs::write("/proc/sys/vm/drop_caches", "3");
    assert!(drop_caches.is_ok());
    lazy.containerd.wake(&container).unwrap();
    assert!(container.finish(LIMIT).unwrap().contains(&digest(2, 700_000)));
    assert_eq!(complete_mounts(&lazy).len(), image.chain_ids().len());
    drop(container);
    drop(lazy);

    let lazy = node(&bed, AT_ONCE);
    let jaunt = lazy.jaunt.as_ref().unwrap();
    assert!(jaunt.log().contains("holds a complete mount again"), "{}", jaunt.log());
    assert_eq!(complete_mounts(&lazy).len(), image.chain_ids().len());
    await_ready(&mut lazy.containerd.run(&pushed.reference).unwrap());
    lazy.containerd.remove_images().unwrap();
    wait_until("the mounts' end", LIMIT, || complete_mounts(&lazy).is_empty()).unwrap();
    let images = fs::read_dir(jaunt.root().join("erofs")).unwrap().count();
    assert_eq!(images, 0);
}

/// doc/SEMANTICS.md S7, as a container sees it.
#[test]
fn a_container_sees_the_same_inode_numbers_over_a_lazy_mount_after_a_restart_and_over_a_complete_one() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(everything());
    let words = ["/bin/sh", "-ec", "echo ready; ls -1ai /d /opaque /bin /etc"];
    let numbers = |node: &Node<'_>| {
        let mut container = node.containerd.run_with(&pushed.reference, &words).unwrap();
        let said = container.finish_saying(LIMIT).unwrap();
        // Above them is the container's own root.
        said.lines().filter(|line| !line.ends_with(" ..")).collect::<Vec<_>>().join("\n")
    };
    let lazy = node(&bed, "[completion]\nenabled = false\n");
    lazy.pull(&pushed.reference).unwrap();
    let first = numbers(&lazy);
    // Directories, links and files; containerd has files of its own in /etc.
    assert!(first.lines().filter(|line| line.ends_with(" spans") || line.ends_with(" sh")).count() == 2);
    drop(lazy);
    let lazy = node(&bed, AT_ONCE);
    assert_eq!(numbers(&lazy), first);
    let jaunt = lazy.jaunt.as_ref().unwrap();
    wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
    assert_eq!(numbers(&lazy), first);
    let by_kernel = jaunt.log().contains("complete: the kernel reads it by itself");
    assert!(by_kernel || jaunt.log().contains(NO_EROFS), "{}", jaunt.log());
}

#[test]
fn a_tree_that_nobody_has_compared_is_not_mounted_as_complete_though_its_layers_are() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(everything());
    drop(pulled_and_completed(&bed, &pushed.reference, AT_ONCE));
    let lazy = node(&bed, "[completion]\nenabled = false\n");
    let chain_ids: Vec<_> = image.chain_ids().iter().map(ToString::to_string).collect();
    let (whole, part) = chain_ids.split_last().unwrap();
    let unchecked = lazy.containerd.view("jaunt", &part[0]).unwrap();
    assert_eq!(complete_mounts(&lazy), Vec::<PathBuf>::new());
    let checked = lazy.containerd.view("jaunt", whole).unwrap();
    let has_erofs = !lazy.jaunt.as_ref().unwrap().log().contains(NO_EROFS);
    assert_eq!(complete_mounts(&lazy).len(), usize::from(has_erofs));
    drop((unchecked, checked));
}

#[test]
fn a_kernel_without_erofs_has_complete_images_served() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(everything());
    let config = format!("avoid_kernel_features = [\"erofs\"]\n{AT_ONCE}");
    let lazy = pulled_and_completed(&bed, &pushed.reference, &config);
    let words = ["/bin/sh", "-ec", "echo ready; sha256sum /d/spans"];
    let mut container = lazy.containerd.run_with(&pushed.reference, &words).unwrap();
    assert!(
        container.finish_saying(LIMIT).unwrap().contains(&Digest::of(&noise(1, 3 << 20)).hex().to_string())
    );
    assert_eq!(complete_mounts(&lazy), Vec::<PathBuf>::new());
}

/// doc/SEMANTICS.md B5: what becomes of a complete mount when the disk changes a bit under it.
#[test]
fn a_bit_that_flips_under_a_complete_mount_is_found_and_no_further_container_reads_it() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(everything());
    let config = format!("[store]\nscrub_mb_per_second = 100\nscrub_interval_hours = 0\n{AT_ONCE}");
    let lazy = pulled_and_completed(&bed, &pushed.reference, &config);
    let words = ["/bin/sh", "-ec", "echo ready; sha256sum /d/spans; exec sleep 600"];
    let right = Digest::of(&noise(1, 3 << 20)).hex().to_string();
    let reads = || {
        let mut container = lazy.containerd.run_with(&pushed.reference, &words).unwrap();
        await_ready(&mut container);
        let line = container.next_line(LIMIT).unwrap().unwrap();
        (container, line.starts_with(&right))
    };
    let (first, is_right) = reads();
    assert!(is_right);
    if complete_mounts(&lazy).is_empty() {
        return eprintln!("skipped: this kernel mounts no EROFS from files (Linux 6.12 does)");
    }
    let jaunt = lazy.jaunt.as_ref().unwrap();
    let layers = jaunt.root().join("layers");
    let large =
        run(std::process::Command::new("find").arg(layers).args(["-path", "*/large/*", "-size", "3072k"]));
    let large = PathBuf::from(large.unwrap().trim());
    let bytes = fs::read(&large).unwrap();
    assert!(bytes == noise(1, 3 << 20));
    // In place: it is what the kernel has mounted.
    let file = fs::File::options().write(true).open(&large).unwrap();
    file.write_all_at(&[bytes[1_000_000] ^ 1], 1_000_000).unwrap();
    wait_until("the scrub", LIMIT, || jaunt.log().contains("bytes on disk are damaged")).unwrap();
    wait_until("the end of the mount", LIMIT, || complete_mounts(&lazy).is_empty()).unwrap();
    let (second, is_right) = reads();
    assert!(is_right, "{}", jaunt.log());
    assert_eq!(jaunt.log().matches("bytes on disk are damaged").count(), 1);
    drop((first, second));
}

#[test]
fn a_complete_image_that_no_container_uses_makes_room_for_another_and_one_in_use_does_not() {
    needs_root!();
    let bed = Bed::new();
    let (_, used) = bed.converted(everything());
    let program = layer(runnable());
    let content = |seed| layer([file("content", noise(seed, 6 << 20))]);
    let reads = ["/bin/sh", "-c", "sha256sum /content; echo ready; exec sleep 600"];
    let image = |seed| Image::new().layer(program.clone()).layer(content(seed)).command(&reads);
    let pushed = [1, 2].map(|seed| {
        let image = image(seed).build().unwrap();
        let pushed = image.push(&bed.registry, &format!("fixture-{seed}"), "v1").unwrap();
        bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
        pushed.reference
    });
    let config = format!("[store]\ncap_mib = 18\nlow_percent = 80\n{AT_ONCE}");
    let lazy = pulled_and_completed(&bed, &used.reference, &config);
    let mut staying = lazy.containerd.run(&used.reference).unwrap();
    await_ready(&mut staying);
    if complete_mounts(&lazy).is_empty() {
        return eprintln!("skipped: this kernel mounts no EROFS from files (Linux 6.12 does)");
    }
    let jaunt = lazy.jaunt.as_ref().unwrap();
    let completed = || jaunt.log().matches("an image is complete:").count();
    let start = |reference: &str| {
        let mut container = lazy.containerd.run(reference).unwrap();
        await_ready(&mut container);
        container
    };
    // The last one stays: whoever looks for room finds one image that nobody uses, whenever that is.
    let mut last = None;
    for (number, reference) in pushed.iter().enumerate() {
        drop(last.take());
        lazy.pull(reference).unwrap();
        drop(start(reference));
        wait_until("completion", LIMIT, || completed() == number + 2).unwrap();
        last = Some(start(reference));
    }
    // There is room for two of the three.
    wait_until("room", LIMIT, || jaunt.log().contains("let go of a complete mount")).unwrap();
    wait_until("the rest", LIMIT, || complete_mounts(&lazy).len() == 2).unwrap();
    assert_eq!(jaunt.log().matches("let go of a complete mount").count(), 1, "{}", jaunt.log());
    let said = |container: &Container| container.said();
    let digest = Digest::of(&noise(1, 6 << 20)).hex().to_string();
    assert!(said(&start(&pushed[0])).contains(&digest), "what made room comes back");
    drop((staying, last));
}

/// How a chain comes to be served though the kernel could read it by itself.
#[derive(Clone, Copy, PartialEq)]
enum Direct {
    Never,
    Learnt,
    Configured,
}

/// doc/SEMANTICS.md S24, and what keeps a container that worked at its first start from failing at its second.
#[test]
fn an_image_that_is_read_with_o_direct_can_be_so_once_it_is_complete_and_after_a_restart() {
    needs_root!();
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap();
    // Aligned, as a disk wants it: read by dd, which sees to that.
    let reads = |root: &Path| {
        let open = fs::File::options().read(true).custom_flags(direct).open(root.join("d/spans"));
        let mut dd = std::process::Command::new("dd");
        let spans = root.join("d/spans");
        dd.args(["bs=1M", "iflag=direct", "status=none"]).arg(format!("if={}", spans.display()));
        open.map(|_| assert!(dd.output().unwrap().stdout == noise(1, 3 << 20)))
    };
    for way in [Direct::Never, Direct::Learnt, Direct::Configured] {
        let bed = Bed::new();
        let (image, pushed) = bed.converted(everything());
        let listed = match way {
            Direct::Configured => format!("direct_io = [\"{}/fixture\"]\n", bed.registry.host()),
            _ => String::new(),
        };
        let config = format!("{listed}{AT_ONCE}");
        let chain = image.chain_ids().last().unwrap().to_string();
        let lazy = node(&bed, &config);
        let jaunt = lazy.jaunt.as_ref().unwrap();
        lazy.pull(&pushed.reference).unwrap();
        let first = lazy.containerd.root("jaunt", &chain).unwrap();
        if way == Direct::Learnt {
            reads(first.point()).unwrap();
            let noted = || jaunt.log().contains("read with O_DIRECT: FUSE serves it");
            wait_until("what is learnt", LIMIT, noted).unwrap();
        }
        wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
        let second = lazy.containerd.view("jaunt", &chain).unwrap();
        if way == Direct::Never {
            if jaunt.log().contains(NO_EROFS) {
                return eprintln!("skipped: this kernel mounts no EROFS from files (Linux 6.12 does)");
            }
            assert_eq!(complete_mounts(&lazy).len(), 1);
            assert_eq!(reads(second.point()).unwrap_err().raw_os_error(), Some(EINVAL));
            drop((first, second));
            continue;
        }
        assert_eq!(complete_mounts(&lazy), Vec::<PathBuf>::new());
        reads(second.point()).unwrap();
        drop((first, second));
        lazy.containerd.end_view("jaunt", &chain).unwrap();
        drop(lazy);

        let lazy = node(&bed, &config);
        let third = lazy.containerd.view("jaunt", &chain).unwrap();
        reads(third.point()).unwrap();
        assert_eq!(complete_mounts(&lazy), Vec::<PathBuf>::new());
        drop(third);
    }
}

/// doc/SEMANTICS.md K2: for a container that ran before its image was complete, too, whose mount the daemon serves on.
#[test]
fn nothing_is_taken_away_below_a_container_whose_image_was_completed_while_it_ran() {
    needs_root!();
    let mut bed = Bed::new();
    let program = layer(runnable());
    let push = |seed, words: &str| {
        let content = layer([file("content", noise(seed, 6 << 20))]);
        let image = Image::new().layer(program.clone()).layer(content).command(&["/bin/sh", "-ec", words]);
        let pushed = image.build().unwrap().push(&bed.registry, &format!("fixture-{seed}"), "v1").unwrap();
        bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
        pushed.reference
    };
    let waits = push(1, "mkfifo /go; echo ready; cat /go >/dev/null; sha256sum /content");
    let others = [2, 3].map(|seed| push(seed, "sha256sum /content; echo ready; exec sleep 600"));
    let (config, hosts) =
        (format!("[store]\ncap_mib = 12\nlow_percent = 80\n{AT_ONCE}"), [bed.registry.host()]);
    let lazy = Node::configured(&bed.scratch, &bed.binaries, &hosts, &config).unwrap();
    let jaunt = lazy.jaunt.as_ref().unwrap();
    let start = |reference: &str| {
        lazy.pull(reference).unwrap();
        let mut container = lazy.containerd.run(reference).unwrap();
        await_ready(&mut container);
        container
    };
    let mut before = start(&waits);
    wait_until("completion", LIMIT, || jaunt.log().contains("an image is complete")).unwrap();
    for (at, other) in others.iter().enumerate() {
        // Beside it there is no room for a second one.
        drop(start(other));
        wait_until("room", LIMIT, || jaunt.log().matches("made room in the store").count() > at).unwrap();
        let worker = jaunt.worker().unwrap();
        signal_pid(worker, Signal::KILL);
        wait_until("the next worker", LIMIT, || jaunt.worker().is_some_and(|next| next != worker)).unwrap();
    }
    bed.registry.stop().unwrap();
    lazy.containerd.wake(&before).unwrap();
    let said = before.finish(LIMIT).unwrap();
    assert!(said.contains(&Digest::of(&noise(1, 6 << 20)).hex().to_string()), "{said}{}", jaunt.log());
}
