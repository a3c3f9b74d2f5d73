//! Many things at once on one node: two hundred calls while others are stuck, a hundred containers of one image, and five hundred
//! containers' root file systems of a handful of images; they are made, read, and removed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Bed, await_ready, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_tests::containerd::NAMESPACE;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::mounts::{self, Mounted};
use jaunt_tests::process::{run, signal_pid, wait_until};
use jaunt_tests::proto::containerd::services::snapshots::v1 as api;
use jaunt_tests::proto::containerd::types::Mount;
use jaunt_tests::{Node, cri, needs_root};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Status};

type Snapshots = api::snapshots_client::SnapshotsClient<Channel>;

const IMAGES: usize = 5;
const CONTAINERS: usize = 500;
const LEN: usize = 300_000;
const LIMIT: Duration = Duration::from_secs(120);
/// Calls at once, as a node gets them when its pods all start.
const CALLS: usize = 200;
/// Calls that wait for an index meanwhile.
const STUCK: usize = 16;
/// So many crowds are tried at most, until the bar is met: on a disk that others keep busy most of them are slow.
const CROWDS: usize = 30;
/// So many in any case, for their figures.
const CROWDS_AT_LEAST: usize = 3;
/// What 200 calls at once may take, in calls that are made one after the other. All in a row would be 200.
const BAR: f64 = 80.0;
/// One container image, so many containers.
const OF_ONE: usize = 100;

/// A request to a node's containerd.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().unwrap());
    request
}

fn key(number: usize) -> String {
    format!("crowd-{number}")
}

/// Prepare, and then Mounts as a container's start asks for them: the same.
async fn prepared(mut snapshots: Snapshots, number: usize, parent: String) -> Mount {
    // Without it, it is garbage.
    let labels = [("containerd.io/gc.root".to_owned(), "test".to_owned())].into();
    let (snapshotter, key) = ("jaunt".to_owned(), key(number));
    let prepare =
        api::PrepareSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone(), parent, labels };
    let first = snapshots.prepare(request(prepare)).await.unwrap().into_inner().mounts;
    let again =
        snapshots.mounts(request(api::MountsRequest { snapshotter, key })).await.unwrap().into_inner().mounts;
    assert_eq!(first, again);
    let [mount] = first.try_into().unwrap();
    mount
}

async fn remove(mut snapshots: Snapshots, number: usize) {
    let remove = api::RemoveSnapshotRequest { snapshotter: "jaunt".to_owned(), key: key(number) };
    snapshots.remove(request(remove)).await.unwrap();
}

fn mounted(bed: &Bed, number: usize, mount: &Mount) -> Mounted {
    let point = bed.scratch.dir(&format!("roots/{number}")).unwrap();
    let (kind, source, options) = (&mount.r#type, &mount.source, mount.options.join(","));
    let line = format!("mount -t {kind} {source} {} -o {options}", point.display());
    Mounted::by_command(&bed.scratch, point, &line).unwrap()
}

#[test]
fn five_hundred_containers_are_made_and_read_at_once_and_leave_nothing() {
    needs_root!();
    let bed = Bed::new();
    let node = {
        let config = "[completion]\nenabled = false\n";
        bed.node_with(config)
    };
    let base = layer([file("base", noise(99, LEN))]);
    let chains: Vec<String> = (0..IMAGES)
        .map(|number| {
            let own = layer([file("own", noise(number as u64, LEN))]);
            let image = Image::new().layer(base.clone()).layer(own).build().unwrap();
            let pushed = image.push(&bed.registry, &format!("fixture-{number}"), "v1").unwrap();
            bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
            node.pull(&pushed.reference).unwrap();
            image.chain_ids().last().unwrap().to_string()
        })
        .collect();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let snapshots = Snapshots::new(runtime.block_on(cri::channel(&node.containerd.socket())).unwrap());
    let each = 0..CONTAINERS;
    let made =
        each.clone().map(|number| prepared(snapshots.clone(), number, chains[number % IMAGES].clone()));
    let made: Vec<_> = made.map(|one| runtime.spawn(one)).collect();
    let made: Vec<_> = made.into_iter().map(|one| runtime.block_on(one).unwrap()).collect();
    let jaunt = node.jaunt.as_ref().unwrap();
    assert_eq!(mounts::below(&jaunt.run_dir()).len(), IMAGES, "one for each chain");

    let roots: Vec<Mounted> =
        made.iter().enumerate().map(|(number, mount)| mounted(&bed, number, mount)).collect();
    let reads = roots.iter().enumerate().map(|(number, root)| {
        let (base, own) = (root.point().join("base"), root.point().join("own"));
        runtime.spawn_blocking(move || {
            assert!(fs::read(own).unwrap() == noise((number % IMAGES) as u64, LEN), "{number}");
            assert!(fs::read(base).unwrap() == noise(99, LEN), "{number}");
        })
    });
    let reads: Vec<_> = reads.collect();
    reads.into_iter().for_each(|read| runtime.block_on(read).unwrap());
    drop(roots);

    let gone: Vec<_> = each.map(|number| runtime.spawn(remove(snapshots.clone(), number))).collect();
    gone.into_iter().for_each(|one| runtime.block_on(one).unwrap());
    node.containerd.remove_images().unwrap();
    wait_until("the mounts' end", LIMIT, || mounts::below(&jaunt.run_dir()).is_empty()).unwrap();
    wait_until("the snapshots' end", LIMIT, || {
        status(&bed, &node)["snapshots"].as_array().is_some_and(Vec::is_empty)
    })
    .unwrap();
    let left = |name: &str| fs::read_dir(jaunt.root().join(name)).map_or(0, Iterator::count);
    wait_until("the directories' end", LIMIT, || left("snapshots") + left("layers") == 0).unwrap();
}

/// Median and 99th percentile.
type Spread = (Duration, Duration);

fn spread(times: impl IntoIterator<Item = Duration>) -> Spread {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100 - 1])
}

/// The shortest times that were seen: what the machine does besides makes none shorter.
#[derive(Debug)]
struct Best {
    /// Half of the Prepare that were alone.
    alone: Duration,
    /// 99 % of those that were sent at once.
    prepare: Duration,
    /// 99 % of the Mounts that were.
    mounts: Duration,
}

impl Best {
    fn new() -> Self {
        Self { alone: Duration::MAX, prepare: Duration::MAX, mounts: Duration::MAX }
    }

    fn note(&mut self, alone: Spread, prepare: Spread, mounts: Spread) {
        eprintln!(
            "one Prepare alone {:.1?}; {CALLS} at once: half {:.1?}, 99 % {:.1?}; Mounts: half {:.1?}, 99 % {:.1?}",
            alone.0, prepare.0, prepare.1, mounts.0, mounts.1
        );
        self.alone = self.alone.min(alone.0);
        self.prepare = self.prepare.min(prepare.1);
        self.mounts = self.mounts.min(mounts.1);
    }

    /// How many Prepare one after the other take as long as the slower of both crowds.
    fn in_a_row(&self) -> f64 {
        self.prepare.max(self.mounts).as_secs_f64() / self.alone.as_secs_f64()
    }
}

/// How long a call took.
type Answer = Result<Duration, Status>;

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Answer {
    let begun = Instant::now();
    tokio::time::timeout(LIMIT, call).await.map_err(|_| Status::deadline_exceeded("no answer"))??;
    Ok(begun.elapsed())
}

/// A snapshotter that is called without a containerd in between.
#[derive(Clone)]
struct Direct(Snapshots);

impl Direct {
    async fn prepare(mut self, key: String, parent: String) -> Answer {
        let request = api::PrepareSnapshotRequest { key, parent, ..Default::default() };
        timed(self.0.prepare(request)).await
    }

    async fn mounts(mut self, key: String) -> Answer {
        timed(self.0.mounts(api::MountsRequest { key, ..Default::default() })).await
    }

    async fn remove(mut self, key: String) -> Answer {
        timed(self.0.remove(api::RemoveSnapshotRequest { key, ..Default::default() })).await
    }

    /// Name and parent of every snapshot.
    async fn list(&mut self) -> Vec<(String, String)> {
        let mut parts = self.0.list(api::ListSnapshotsRequest::default()).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(part) = parts.message().await.unwrap() {
            all.extend(part.info.into_iter().map(|info| (info.name, info.parent)));
        }
        all
    }

    /// The same call with every key, all at once; how long each took.
    fn at_once<C>(&self, runtime: &Runtime, call: impl Fn(Self, String) -> C) -> Vec<Duration>
    where
        C: Future<Output = Answer> + Send + 'static,
    {
        let calls: Vec<_> = (0..CALLS).map(|number| runtime.spawn(call(self.clone(), key(number)))).collect();
        let answered = calls.into_iter().map(|call| runtime.block_on(call).unwrap().unwrap());
        answered.collect()
    }
}

/// Takes the place of a file: who opens it waits.
struct Stuck<'p> {
    path: &'p Path,
    beside: &'p Path,
}

impl<'p> Stuck<'p> {
    fn new(path: &'p Path, beside: &'p Path) -> Self {
        fs::rename(path, beside).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        Self { path, beside }
    }

    /// Puts the file back. Who waits goes on, and so does, as long as what is returned is there, who is just about to; there must
    /// be somebody.
    fn end(self) -> File {
        let writer = rustix::fs::open(self.path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
        let writer = writer.expect("somebody waits, or this cannot be opened");
        fs::rename(self.beside, self.path).unwrap();
        writer.into()
    }
}

/// What is serial takes 200 times as long for 200 as for one. Compared with one alone, on the same disk in the same second: how
/// fast the machine is makes no difference.
#[test]
fn two_hundred_calls_are_answered_together_while_others_are_stuck() {
    needs_root!();
    let bed = Bed::new();
    let one = Image::new().layer(layer([file("lower", noise(1, LEN))])).build().unwrap();
    let stuck = one.push(&bed.registry, "stuck", "v1").unwrap();
    bed.binaries.convert(&bed.scratch, &stuck.reference).unwrap();
    let two = [2, 3].map(|seed| layer([file("upper", noise(seed, LEN))]));
    let (_, pushed) = bed.converted(two.into_iter().fold(Image::new(), Image::layer));
    let mut node = bed.node();
    node.pull(&stuck.reference).unwrap();
    let jaunt = node.jaunt.as_ref().unwrap();
    let index = fs::read_dir(jaunt.root().join("index")).unwrap().next().unwrap().unwrap().path();
    node.pull(&pushed.reference).unwrap();
    // It would collect what it does not know of.
    node.containerd.kill().unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let jaunt = node.jaunt.as_ref().unwrap();
    let mut direct = Direct(Snapshots::new(runtime.block_on(cri::channel(&jaunt.socket())).unwrap()));
    let chains = runtime.block_on(direct.list());
    let is_parent = |name: &str| chains.iter().any(|(_, parent)| parent == name);
    let top = |of_two: bool| {
        let is_top = |(name, parent): &&(String, String)| !is_parent(name) && parent.is_empty() != of_two;
        chains.iter().find(is_top).unwrap().0.clone()
    };
    let (top, stuck_top) = (top(true), top(false));
    runtime.block_on(direct.clone().prepare("first".to_owned(), top.clone())).unwrap();

    let beside = bed.scratch.path().join("index");
    let gate = Stuck::new(&index, &beside);
    let waiting: Vec<_> = (0..STUCK)
        .map(|number| runtime.spawn(direct.clone().prepare(format!("stuck-{number}"), stuck_top.clone())))
        .collect();
    let mut best = Best::new();
    for crowd in 0..CROWDS {
        let alone = spread((0..CALLS / 10).map(|number| {
            let took = runtime.block_on(direct.clone().prepare(key(number), top.clone())).unwrap();
            runtime.block_on(direct.clone().remove(key(number))).unwrap();
            took
        }));
        let prepare = spread(direct.at_once(&runtime, |to, key| to.prepare(key, top.clone())));
        let mounts = spread(direct.at_once(&runtime, Direct::mounts));
        best.note(alone, prepare, mounts);
        direct.at_once(&runtime, Direct::remove);
        if crowd + 1 >= CROWDS_AT_LEAST && best.in_a_row() <= BAR {
            break;
        }
    }
    assert!(waiting.iter().all(|call| !call.is_finished()), "nothing was stuck");
    let writer = gate.end();
    for call in waiting {
        let _ = runtime.block_on(call).unwrap();
    }
    runtime.block_on(direct.clone().prepare("late".to_owned(), stuck_top)).unwrap();
    drop(writer);
    let in_a_row = best.in_a_row();
    assert!(in_a_row <= BAR, "{CALLS} calls at once take as long as {in_a_row:.0} in a row: {best:?}");
}

/// What containerd says runs.
fn running(node: &Node<'_>) -> Vec<u32> {
    let tasks = run(&mut node.containerd.ctr(&["tasks", "ls"])).unwrap();
    let running = tasks.lines().filter(|line| line.ends_with("RUNNING"));
    running.map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap()).collect()
}

#[test]
fn a_hundred_containers_of_one_image_run_at_once_and_leave_nothing() {
    needs_root!();
    let bed = Bed::new();
    let data = layer([dir("data", 0o755), file("data/file", noise(5, LEN))]);
    let image = Image::new().layer(layer(runnable())).layer(data);
    let script = "sha256sum /data/file; echo ready; exec sleep 600";
    let (_, pushed) = bed.converted(image.command(&["/bin/sh", "-ec", script]));
    let manifest = bed.registry.manifest(&pushed.repository, "v1").unwrap().0;
    let layers = manifest["layers"].as_array().unwrap().iter();
    let whole: u64 = layers.map(|layer| layer["size"].as_u64().unwrap()).sum();
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();

    let mut containers: Vec<_> =
        (0..OF_ONE).map(|_| node.containerd.run(&pushed.reference).unwrap()).collect();
    containers.iter_mut().for_each(await_ready);
    let told = format!("{}  /data/file", Digest::of(&noise(5, LEN)).hex());
    for container in &containers {
        assert!(container.said().contains(&told), "{}: {}", container.id(), container.said());
    }
    let pids = running(&node);
    assert_eq!(pids.len(), OF_ONE, "all at the same time");
    let jaunt = node.jaunt.as_ref().unwrap();
    assert_eq!(mounts::below(&jaunt.run_dir()).len(), 1, "one for all of them");
    let fetched = status(&bed, &node)["figures"]["fetched_bytes"].as_u64().unwrap();
    // Its boot pack has some of it once more.
    assert!(fetched <= 2 * whole, "{fetched} bytes fetched of an image of {whole}");

    pids.into_iter().for_each(|pid| signal_pid(pid, Signal::KILL));
    for container in &mut containers {
        // Killed, which is how it was meant to end.
        let _ = container.finish(LIMIT);
    }
    assert_eq!(run(&mut node.containerd.ctr(&["containers", "ls", "--quiet"])).unwrap(), "");
    node.containerd.remove_images().unwrap();
    wait_until("the mount's end", LIMIT, || mounts::below(&jaunt.run_dir()).is_empty()).unwrap();
    let left = |name: &str| fs::read_dir(jaunt.root().join(name)).map_or(0, Iterator::count);
    wait_until("the directories' end", LIMIT, || left("snapshots") + left("layers") + left("index") == 0)
        .unwrap();
}
