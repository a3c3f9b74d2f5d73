//! doc/SEMANTICS.md P1 and P2: what a running container notices when the daemon's worker is killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Bed, noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::container::Container;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::{signal_pid, wait_until};
use jaunt_tests::{Binaries, Network, Node, Registry, Scratch, mounts, needs_root};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);
const FILES: u64 = 16;
const FILE_BYTES: usize = 2 << 20;
/// So many workers may die before a read in flight fails: together sooner than a read gives up on a registry that says nothing.
const DEATHS: usize = 10;

/// Sixteen files of 2 MiB, read and hashed one after the other by the container's command.
fn image() -> Image {
    let files = (0..FILES).map(|n| file(format!("data/{n}"), noise(n + 1, FILE_BYTES)));
    let script = format!(
        "echo ready; n=0; while [ $n -lt {FILES} ]; do sha256sum /data/$n; ls -l /data > /dev/null; n=$((n+1)); done"
    );
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755)].into_iter().chain(files)))
        .command(&["/bin/sh", "-ec", &script])
}

fn digests() -> Vec<String> {
    (0..FILES).map(|n| format!("{}  /data/{n}", Digest::of(&noise(n + 1, FILE_BYTES)).hex())).collect()
}

/// The link is slow enough for every kill to find reads in flight.
/// P1: Killing the worker ends nothing: containers' reads wait and are answered rightly by the next worker (Linux 6.9
/// and later).
#[test]
fn killing_the_worker_again_and_again_costs_no_byte() {
    needs_root!();
    let scratch = Scratch::new().unwrap();
    let network = Network::new(&scratch, 80_000_000).unwrap();
    let registry = Registry::remote(&scratch, &network).unwrap();
    let binaries = Binaries::find().unwrap();
    let pushed = image().build().unwrap().push(&registry, "fixture", "v1").unwrap();
    binaries.convert(&scratch, &pushed.reference).unwrap();
    let node = Node::jaunt(&scratch, &binaries, &[registry.host()]).unwrap();
    node.pull(&pushed.reference).unwrap();
    let jaunt = node.jaunt.as_ref().unwrap();

    let mut container = node.containerd.run(&pushed.reference).unwrap();
    common::await_ready(&mut container);
    let mut killed = 0;
    let mut seen = Vec::new();
    while let Some(line) = container.next_line(LIMIT).unwrap() {
        seen.push(line);
        if killed < 5 {
            let worker = jaunt.worker().unwrap();
            signal_pid(worker, Signal::KILL);
            killed += 1;
            wait_until("another worker", LIMIT, || jaunt.worker().is_some_and(|pid| pid != worker)).unwrap();
        }
    }
    assert_eq!(seen, digests());
    assert_eq!(killed, 5);
    container.finish(LIMIT).unwrap();

    // containerd finds the next worker behind the same socket.
    node.pull(&pushed.reference).unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    assert!(container.finish(LIMIT).unwrap().contains(&digests()[3]));
}

/// A container that reads its file 5 when it is woken.
fn waiting(node: &Node<'_>, reference: &str) -> Container {
    let script = "mkfifo /go; echo ready; cat /go > /dev/null; sha256sum /data/5 || echo refused";
    let mut container = node.containerd.run_with(reference, &["/bin/sh", "-ec", script]).unwrap();
    common::await_ready(&mut container);
    container
}

#[test]
fn a_damaged_index_takes_its_own_image_alone_at_a_restart() {
    needs_root!();
    let bed = Bed::new();
    let (_, damaged) = bed.converted(image());
    let bytes = noise(99, FILE_BYTES);
    let sound = Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/5", bytes.clone())]))
        .build()
        .unwrap();
    let sound = sound.push(&bed.registry, "fixture", "sound").unwrap();
    bed.binaries.convert(&bed.scratch, &sound.reference).unwrap();
    let node = bed.node();
    let jaunt = node.jaunt.as_ref().unwrap();
    node.pull(&damaged.reference).unwrap();
    let index = fs::read_dir(jaunt.root().join("index")).unwrap().next().unwrap().unwrap().path();
    node.pull(&sound.reference).unwrap();
    let running = [&damaged, &sound].map(|image| waiting(&node, &image.reference));

    // Another file in its place: the worker has mapped this one.
    let other = bed.scratch.dir("damaged").unwrap().join("index");
    fs::write(&other, vec![0; 4096]).unwrap();
    fs::rename(&other, &index).unwrap();
    let worker = jaunt.worker().unwrap();
    signal_pid(worker, Signal::KILL);
    wait_until("another worker", LIMIT, || jaunt.worker().is_some_and(|pid| pid != worker)).unwrap();
    let next = jaunt.worker();
    running.iter().for_each(|container| node.containerd.wake(container).unwrap());
    let [mut of_damaged, mut of_sound] = running;
    let right = Digest::of(&bytes).hex();
    // What of its own program was not read before cannot be read either.
    let ended = of_damaged.finish(LIMIT);
    let said = of_damaged.said();
    assert!(ended.is_err() || said.contains("refused"), "{said}");
    assert!(!said.contains(&digests()[5]), "{said}");
    let said = of_sound.finish(LIMIT).unwrap();
    assert!(said.contains(&right), "{said}");

    let read = ["/bin/sh", "-ec", "sha256sum /data/5"];
    let mut new = node.containerd.run_with(&sound.reference, &read).unwrap();
    assert!(new.finish(LIMIT).unwrap().contains(&right));
    let refused = node.containerd.run_with(&damaged.reference, &read).and_then(|mut new| new.finish(LIMIT));
    assert!(refused.is_err(), "{refused:?}");
    let named = index.file_name().unwrap().to_str().unwrap().to_owned();
    let log = jaunt.log();
    assert!(log.contains(&named) && log.contains("the others are served"), "{log}");
    assert_eq!(jaunt.worker(), next, "nothing of it ends the worker: {log}");
}

#[test]
fn a_container_reads_on_over_a_restart_of_containerd() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let mut node = bed.node();
    node.pull(&pushed.reference).unwrap();
    // Whoever reads its output ends with its connection to containerd: it writes what it has read into its own root.
    let script = "mkfifo /go; echo ready; cat /go > /dev/null; sha256sum /data/5 > /told; mv /told /result; cat /go > /dev/null";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-ec", script]).unwrap();
    common::await_ready(&mut container);
    let fetches = |node: &Node<'_>| common::status(&bed, node)["figures"]["fetches"].as_u64().unwrap();
    let before = fetches(&node);
    node.containerd.kill().unwrap();
    node.containerd.restart().unwrap();

    node.containerd.wake(&container).unwrap();
    let snapshots = node.jaunt.as_ref().unwrap().root().join("snapshots");
    let results = || {
        let roots = fs::read_dir(&snapshots).unwrap().map(|snapshot| snapshot.unwrap().path());
        roots.filter_map(|root| fs::read_to_string(root.join("fs/result")).ok()).collect::<Vec<_>>()
    };
    wait_until("what it has read", LIMIT, || !results().is_empty()).unwrap();
    assert_eq!(results(), [format!("{}\n", digests()[5])]);
    assert!(fetches(&node) > before, "what it read had been here before");
    // containerd has it as it had before: it can be told to end, and others start beside it.
    node.containerd.wake(&container).unwrap();
    let mut other = node.containerd.run(&pushed.reference).unwrap();
    assert!(other.finish(LIMIT).unwrap().contains(&digests()[3]));
}

/// doc/SEMANTICS.md P1: on older kernels, a read that was in flight gets EIO from the next worker, and the one after it is right. The kernel asks a
/// second time for what it was reading ahead when that fails, and so one death is often not noticed.
#[test]
fn where_the_kernel_sends_nothing_again_a_read_in_flight_fails_in_the_container_and_the_next_is_right() {
    needs_root!();
    let mut bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let config = "avoid_kernel_features = [\"resend\", \"erofs\"]\n[completion]\nenabled = false\n";
    let registries = [bed.registry.host()];
    let node = Node::configured(&bed.scratch, &bed.binaries, &registries, config).unwrap();
    node.pull(&pushed.reference).unwrap();
    let jaunt = node.jaunt.as_ref().unwrap();
    let script = "mkfifo /go; n=0; sha256sum /etc/passwd; echo ready; while cat /go > /dev/null; do \
                  cat /data/$n 2>&1 > /dev/null || echo refused; sha256sum /data/$n; n=$((n+1)); done";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-c", script]).unwrap();
    common::await_ready(&mut container);
    for digest in &digests()[..2] {
        bed.registry.pause();
        node.containerd.wake(&container).unwrap();
        let said = (0..DEATHS).find_map(|_| {
            common::await_request(&bed, &jaunt.run_dir());
            let worker = jaunt.worker().unwrap();
            signal_pid(worker, Signal::KILL);
            wait_until("another worker", LIMIT, || jaunt.worker().is_some_and(|pid| pid != worker)).unwrap();
            container.next_line(Duration::from_secs(1)).ok().flatten()
        });
        let said = said.expect("what was in flight is never answered");
        assert!(said.ends_with("Input/output error"), "{said}");
        bed.registry.resume();
        assert_eq!(container.next_line(LIMIT).unwrap().unwrap(), "refused");
        assert_eq!(container.next_line(LIMIT).unwrap().as_ref(), Some(digest));
    }
}

/// P2: A mount in use is never unmounted.
#[test]
fn a_stopped_daemon_leaves_no_container_in_the_lurch() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let mut node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let mut container = waiting(&node, &pushed.reference);

    let jaunt = node.jaunt.as_mut().unwrap();
    let (pid, run_dir) = (jaunt.pid(), jaunt.run_dir());
    signal_pid(pid, Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    assert!(jaunt.alive(), "stopped although a container runs: {}", jaunt.log());

    node.containerd.wake(&container).unwrap();
    assert!(container.finish(LIMIT).unwrap().contains(&digests()[5]));
    drop(container);
    let jaunt = node.jaunt.as_mut().unwrap();
    wait_until("the daemon's end", LIMIT, || !jaunt.alive()).unwrap();
    assert!(mounts::below(&run_dir).is_empty());
}
