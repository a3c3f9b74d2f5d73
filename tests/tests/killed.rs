//! `kill -9` at random points while an image is pulled, run and removed: of the worker, of the supervisor, of containerd.
//! Afterwards everything works, and nothing is left that nobody knows of.
//!
//! `JAUNT_KILL_SEEDS=n` tries that many seeds (`make test`: a few). A failure names its seed, and `JAUNT_KILL_SEED=n` tries that
//! one alone.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Bed, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_formats::boot::{Touch, Trace, TraceHead};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::{run, signal_pid, wait_until};
use jaunt_tests::{Dice, Jaunt, Node, mounts, needs_root};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);
const FILES: u64 = 4;
const FILE_BYTES: usize = 300_000;
/// Files of the image whose pages are pushed.
const MANY: u64 = 3000;
/// So many seeds are tried where nothing else is asked for.
const SEEDS: u64 = 3;
/// A victim dies at most so many milliseconds after a command began: about what commands take.
const WITHIN_MS: u64 = 600;

fn image() -> Image {
    let files = (0..FILES).map(|n| file(format!("data/{n}"), noise(n + 1, FILE_BYTES)));
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755)].into_iter().chain(files)))
        .layer(layer([dir("more", 0o755), file("more/file", "m")]))
        .command(&["/bin/sh", "-ec", "sha256sum /data/0 /data/1 /data/2 /data/3"])
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    match (number("JAUNT_KILL_SEED"), number("JAUNT_KILL_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, seeds) => (1..=seeds.unwrap_or(SEEDS)).collect(),
    }
}

/// Begins a command, kills somebody, and waits for the command's end, however it ends.
fn interrupted(mut command: Command, bed: &Bed, node: &mut Node<'_>, dice: &mut Dice) {
    let mut child: Child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_millis(dice.below(WITHIN_MS)));
    kill_somebody(bed, node, dice);
    let ended = wait_until("the command's end", LIMIT, || child.try_wait().unwrap().is_some());
    if ended.is_err() {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{command:?} hangs");
    }
}

fn kill_somebody(bed: &Bed, node: &mut Node<'_>, dice: &mut Dice) {
    let jaunt = node.jaunt.as_mut().unwrap();
    match dice.below(4) {
        0 => {
            jaunt.kill().unwrap();
            node.jaunt =
                Some(Jaunt::start(&bed.binaries, &bed.scratch, "jaunt", &[bed.registry.host()]).unwrap());
        }
        1 => {
            node.containerd.kill().unwrap();
            node.containerd.restart().unwrap();
        }
        _ => {
            let worker = jaunt.worker();
            worker.inspect(|worker| signal_pid(*worker, Signal::KILL));
        }
    }
}

/// A container that may end in any way.
fn run_command(node: &Node<'_>, bed: &Bed, reference: &str, id: &str) -> Command {
    let mut command = node.containerd.ctr(&["run", "--snapshotter", "jaunt", "--fifo-dir"]);
    command
        .arg(bed.scratch.dir("fifo").unwrap())
        .arg("--runc-root")
        .arg(bed.scratch.path().join("containerd/runc"));
    command.args([reference, id]);
    command
}

/// What interrupted commands left in containerd: tasks, containers, and the leases of pulls.
fn tidy(node: &Node<'_>) {
    let list = |words: &[&str]| run(&mut node.containerd.ctr(words)).unwrap_or_default();
    for task in list(&["tasks", "ls", "--quiet"]).lines() {
        let _ = run(&mut node.containerd.ctr(&["tasks", "rm", "--force", task]));
    }
    for container in list(&["containers", "ls", "--quiet"]).lines() {
        let _ = run(&mut node.containerd.ctr(&["containers", "rm", container]));
    }
    for lease in list(&["leases", "ls", "--quiet"]).lines() {
        let _ = run(&mut node.containerd.ctr(&["leases", "rm", "--sync", lease]));
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// What containerd knows is what the daemon knows, and what lies on disk and is mounted belongs to it.
fn agree(bed: &Bed, node: &Node<'_>) {
    let jaunt = node.jaunt.as_ref().unwrap();
    // containerd removes what nobody needs in its own time, here a moment later than in its own books.
    let count = || status(bed, node)["snapshots"].as_array().unwrap().len();
    let _ = wait_until("as many here as there", LIMIT, || {
        count() == node.containerd.snapshots("jaunt").unwrap().len()
    });
    let status = status(bed, node);
    let known = status["snapshots"].as_array().unwrap();
    let ids: Vec<String> = known.iter().map(|snapshot| snapshot["id"].to_string()).collect();
    let named = node.containerd.snapshots("jaunt").unwrap();
    assert_eq!(known.len(), named.len(), "{known:?} are not {named:?}");
    let is_known = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ids.iter()
            .any(|id| *id == name || name.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('-')))
    };
    for path in entries(&jaunt.root().join("snapshots")).iter().chain(&entries(&jaunt.run_dir().join("mnt")))
    {
        assert!(is_known(path), "nobody knows {}: {ids:?}", path.display());
    }
    let mut check =
        bed.binaries.snapshotter(&bed.scratch, &["check", "--config", "/dev/null", "--deep", "--root"]);
    check.arg(jaunt.root()).arg("--run-dir").arg(jaunt.run_dir()).arg("--socket").arg(jaunt.socket());
    let found = check.output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&[found.stdout, found.stderr].concat()));
}

fn one(seed: u64) {
    eprintln!("seed {seed}");
    let mut dice = Dice::new(seed);
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let mut node = bed.node();
    let reference = &pushed.reference;
    for round in 0..2 {
        interrupted(node.pull_command(reference), &bed, &mut node, &mut dice);
        wait_until("a pull that nobody interrupts", LIMIT, || node.pull(reference).is_ok()).unwrap();
        let id = format!("{}-k{round}", bed.scratch.name());
        let command = run_command(&node, &bed, reference, &id);
        interrupted(command, &bed, &mut node, &mut dice);
        tidy(&node);
        let names = run(&mut node.containerd.ctr(&["images", "ls", "--quiet"])).unwrap();
        let mut remove = node.containerd.ctr(&["images", "rm", "--sync"]);
        remove.args(names.lines());
        interrupted(remove, &bed, &mut node, &mut dice);
    }
    wait_until("a pull after all", LIMIT, || node.pull(reference).is_ok()).unwrap();
    let said = node.containerd.run(reference).unwrap().finish_saying(LIMIT).unwrap();
    for n in 0..FILES {
        let line = format!("{}  /data/{n}", Digest::of(&noise(n + 1, FILE_BYTES)).hex());
        assert!(said.contains(&line), "{said}");
    }
    tidy(&node);
    agree(&bed, &node);
    node.containerd.remove_images().unwrap();
    agree(&bed, &node);
    let jaunt = node.jaunt.as_ref().unwrap();
    assert!(mounts::below(&jaunt.run_dir()).is_empty(), "{:?}", mounts::below(&jaunt.run_dir()));
    wait_until("nothing kept", LIMIT, || entries(&jaunt.root().join("index")).is_empty()).unwrap();
}

/// An image of many files, with a boot pack of a start that touched them all.
fn learnt(bed: &Bed) -> String {
    let files = (0..MANY).map(|n| file(format!("many/{n}"), noise(n + 1, 4096)));
    let image =
        Image::new().layer(layer(runnable())).layer(layer([dir("many", 0o755)].into_iter().chain(files)));
    let (_, pushed) = bed.converted(image);
    let head = TraceHead::new("fixture".to_owned(), Digest::of(b"any"), 2);
    let touch = |n| Touch { path: format!("many/{n}"), offset: 0, len: 4096, ms: n };
    let trace = bed.scratch.path().join("trace");
    fs::write(&trace, Trace { head, touches: (0..MANY).map(touch).collect() }.to_text()).unwrap();
    let host = bed.registry.host();
    let mut optimize = bed.binaries.proxy(&bed.scratch, &["optimize", "--plain-http", &host, "--trace"]);
    run(optimize.arg(trace).arg(&pushed.reference)).unwrap();
    pushed.reference
}

/// Of all files of [`learnt`], in the order in which a shell names them.
fn digest_of_many() -> String {
    let mut names: Vec<String> = (0..MANY).map(|n| n.to_string()).collect();
    names.sort();
    let all: Vec<u8> = names.iter().flat_map(|n| noise(n.parse::<u64>().unwrap() + 1, 4096)).collect();
    Digest::of(&all).hex().to_string()
}

/// What is pushed for a worker that dies would otherwise never be answered.
#[test]
fn where_the_kernel_sends_nothing_again_no_pages_are_pushed_and_the_pack_serves_all_the_same() {
    needs_root!();
    let bed = Bed::new();
    let reference = learnt(&bed);
    for (avoided, pushes) in [("", true), ("\"resend\"", false)] {
        let config = format!("avoid_kernel_features = [{avoided}]\n[boot]\nkeep_traces = 0\n");
        let node = bed.node_with(&config);
        let log = || node.jaunt.as_ref().unwrap().log();
        let pushed = || log().matches("what its boot pack brought is in the page cache").count();
        node.pull(&reference).unwrap();
        let words = ["/bin/sh", "-c", "cat /many/* | sha256sum"];
        let said = node.containerd.run_with(&reference, &words).unwrap().finish_saying(LIMIT).unwrap();
        assert!(said.contains(&digest_of_many()), "{said}\n{}", log());
        if pushes {
            wait_until("pages", LIMIT, || pushed() == 1).unwrap();
        }
        // The log is that of both nodes.
        assert_eq!((pushed(), log().matches("boot pack is here").count()), (1, if pushes { 1 } else { 2 }));
        tidy(&node);
        node.wipe().unwrap();
    }
}

#[test]
fn a_worker_that_is_killed_while_it_pushes_pages_is_replaced() {
    needs_root!();
    let bed = Bed::new();
    let reference = learnt(&bed);
    let mut dice = Dice::new(7);
    for round in 0..4 {
        // Nothing is traced: all is pushed, in some ten milliseconds from the mount on.
        let config = "[boot]\nkeep_traces = 0\n";
        let node = bed.node_with(config);
        let jaunt = node.jaunt.as_ref().unwrap();
        let (mounted, worker) = (jaunt.run_dir().join("mnt"), jaunt.worker().unwrap());
        let after = Duration::from_millis(dice.below(60));
        let killer = thread::spawn(move || {
            let made = wait_until("a mount", LIMIT, || !entries(&mounted).is_empty());
            thread::sleep(after);
            signal_pid(worker, Signal::KILL);
            made.unwrap();
        });
        let words = ["/bin/sh", "-c", "cat /many/* | sha256sum"];
        let run = || node.containerd.run_with(&reference, &words).and_then(|mut it| it.finish(LIMIT));
        // It is mounted, and pages are pushed, while it is pulled.
        let start = || node.pull(&reference).and_then(|_| run());
        let mut ended = start();
        killer.join().unwrap();
        // containerd gives up a pull or a container whose snapshots it was just asking for; who runs already reads on. It then collects
        // what the failed pull left, maybe from beneath the next one, which finds a layer and then not: whoever pulls tries again.
        for _ in 0..5 {
            ended = ended.or_else(|_| start());
        }
        let said = ended.unwrap();
        assert!(said.contains(&digest_of_many()), "round {round}: {said}\n{}", jaunt.log());
        tidy(&node);
        agree(&bed, &node);
        node.wipe().unwrap();
    }
}

#[test]
fn whoever_is_killed_whenever_nothing_is_lost_and_nothing_is_left() {
    needs_root!();
    seeds().into_iter().for_each(one);
}
