//! Five hundred containers' root file systems of a handful of images: made at once through containerd's calls, read at once, and
//! removed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Bed, noise, status};
use jaunt_tests::containerd::NAMESPACE;
use jaunt_tests::image::{Image, file, layer};
use jaunt_tests::mounts::{self, Mounted};
use jaunt_tests::process::wait_until;
use jaunt_tests::proto::containerd::services::snapshots::v1 as api;
use jaunt_tests::proto::containerd::types::Mount;
use jaunt_tests::{cri, needs_root};
use tonic::Request;
use tonic::transport::Channel;

type Snapshots = api::snapshots_client::SnapshotsClient<Channel>;

const IMAGES: usize = 5;
const CONTAINERS: usize = 500;
const LEN: usize = 300_000;
const LIMIT: Duration = Duration::from_secs(120);

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
