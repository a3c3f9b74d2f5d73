//! An updated image starts from its predecessor's boot pack, by path and content digest.

use jaunt_formats::Digest;
use jaunt_formats::media_type::{DIFF_ID, LAUNCH_INDEX};
use serde_json::{Value, json};

use crate::support::{Layer, Registry, noise, tar};

/// Files of the layer that both images have, and of the one that differs. Lengths tell them apart.
const SHARED: usize = 10_000;
const KEPT: usize = 20_000;
const CHANGED: usize = 30_000;
const MOVED: usize = 40_000;
const GONE: usize = 50_000;
const UNREAD: usize = 60_000;
const SWAPPED: usize = 70_000;

fn base() -> Layer {
    Layer::gzip(&tar(&[("lib/", b""), ("lib/shared", &noise(SHARED, 1)), ("lib/unread", &noise(UNREAD, 2))]))
}

fn before() -> Layer {
    Layer::gzip(&tar(&[
        ("app/", b""),
        ("app/changed", &noise(CHANGED, 3)),
        ("app/gone", &noise(GONE, 4)),
        ("app/kept", &noise(KEPT, 5)),
        ("app/moved", &noise(MOVED, 6)),
        ("app/swapped", &noise(SWAPPED, 7)),
        ("app/unread", &noise(UNREAD, 8)),
    ]))
}

/// What changed has 12,000 bytes now; what is gone has left a file of its length; one file's content has gone elsewhere, and
/// another, shorter one has its name.
fn after() -> Layer {
    Layer::gzip(&tar(&[
        ("app/", b""),
        ("app/changed", &noise(12_000, 13)),
        ("app/kept", &noise(KEPT, 5)),
        ("app/not-gone", &noise(GONE, 14)),
        ("app/swapped", &noise(5000, 15)),
        ("app/unread", &noise(UNREAD, 8)),
        ("app/v2/copy-of-moved", &noise(MOVED, 6)),
        ("app/v2/moved", &noise(MOVED, 6)),
        ("app/v2/was-swapped", &noise(SWAPPED, 7)),
    ]))
}

/// Pushes an image that runs `program`.
fn push(registry: &Registry, name: &str, layers: &[Layer], program: &str, created: &str) -> String {
    push_running(registry, name, layers, &[program], created)
}

fn push_running(
    registry: &Registry,
    name: &str,
    layers: &[Layer],
    command: &[&str],
    created: &str,
) -> String {
    let (repository, tag) = name.split_once(':').unwrap();
    let mut manifest = registry.image(repository, layers, "linux");
    let config = registry.blob(repository, manifest["config"]["digest"].as_str().unwrap());
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["config"] = json!({ "Cmd": command });
    config["created"] = json!(created);
    let config = serde_json::to_vec(&config).unwrap();
    manifest["config"]["size"] = json!(config.len());
    manifest["config"]["digest"] = json!(registry.push_blob(repository, config));
    registry.push_manifest(repository, tag, &manifest);
    registry.reference(name)
}

/// Converts an image, and gives it a pack of a start that touched these ranges.
fn learn(registry: &Registry, reference: &str, touches: &[(&str, u64, usize)]) {
    registry.run(&["convert", "--no-boot-pack", reference]).succeeded();
    let trace = tempfile::NamedTempFile::new().unwrap();
    let index = Digest::of(b"any");
    let head = json!({ "jauntTrace": 1, "image": "app", "index": index, "prefix": 1, "startedMs": 0, "readyMs": 0, "settled": true });
    let touches = touches
        .iter()
        .map(|(path, offset, len)| json!({ "path": path, "offset": offset, "len": len, "ms": 1 }));
    let lines: Vec<String> = [head].into_iter().chain(touches).map(|line| line.to_string()).collect();
    std::fs::write(trace.path(), lines.join("\n")).unwrap();
    registry.run(&["optimize", "--trace", trace.path().to_str().unwrap(), reference]).succeeded();
}

fn pack(registry: &Registry, reference: &str) -> Value {
    registry.run(&["inspect", "--json", reference]).json()["images"][0]["boot"].clone()
}

const TOUCHED: [(&str, u64, usize); 6] = [
    ("app/moved", 0, MOVED),
    ("lib/shared", 4096, 100),
    ("app/changed", 0, CHANGED),
    ("app/kept", 0, KEPT),
    ("app/gone", 0, GONE),
    ("app/swapped", 8192, 4096),
];
/// Of the image after: the moved file once, a page of the shared one, the shorter one, the one that was kept, and the page of what
/// was swapped where that is now; the name that it had has nothing there any more.
const CARRIED: usize = MOVED + 4096 + 12_000 + KEPT + 4096;

#[test]
fn an_updated_image_starts_from_its_predecessors_pack_by_path_and_content() {
    let Some(registry) = Registry::start() else { return };
    let v1 = push(&registry, "app:v1", &[base(), before()], "/app/kept", "2024-01-01T00:00:00Z");
    learn(&registry, &v1, &TOUCHED);
    let v2 = push(&registry, "app:v2", &[base(), after()], "/app/kept", "2024-02-01T00:00:00Z");
    let run = registry.run(&["convert", &v2]);
    assert!(run.succeeded().stdout.contains("2 of its files have another name now"), "{}", run.stdout);
    assert!(run.stdout.contains("that was learnt of the image before"), "{}", run.stdout);
    let carried = pack(&registry, &v2);
    assert_eq!(carried["content_bytes"], CARRIED, "{carried}");
    assert_eq!(carried["predecessor"], pack(&registry, &v1)["digest"]);
    assert_eq!(carried["traces"], json!([]), "nobody has started it yet: nodes have to learn");
    registry.run(&["convert", "--level", "4", &v2]).succeeded();
    let again = pack(&registry, &v2);
    assert_eq!([&again["traces"], &again["predecessor"]], [&carried["traces"], &carried["predecessor"]]);
    registry.run(&["verify", &v2]).succeeded();

    // By hand it is the same, and an image of another repository can be named.
    let other = push(&registry, "other:v2", &[base(), after()], "/app/kept", "2024-02-01T00:00:00Z");
    registry.run(&["convert", &other]).succeeded();
    assert_eq!(pack(&registry, &other)["predecessor"], Value::Null, "nobody was told of the predecessor");
    registry.run(&["optimize", "--from", &v1, &other]).succeeded();
    assert_eq!(pack(&registry, &other)["content_bytes"], CARRIED);
    let named = push(&registry, "third:v2", &[base(), after()], "/app/kept", "2024-02-01T00:00:00Z");
    registry.run(&["convert", "--predecessor", &v1, &named]).succeeded();
    assert_eq!(pack(&registry, &named)["digest"], carried["digest"]);
}

#[test]
fn of_a_predecessors_pack_that_finds_no_room_what_was_touched_first_is_kept() {
    const FIRST: usize = 600_000;
    const SECOND: usize = 1 << 20;
    const PAGE: usize = 4096;
    let Some(registry) = Registry::start() else { return };
    let app = |version: u64| {
        Layer::gzip(&tar(&[
            ("app/a-second", &noise(SECOND, 1)[..]),
            ("app/kept", &noise(KEPT, version)),
            ("app/z-first", &noise(FIRST, 2)),
        ]))
    };
    let v1 = push(&registry, "app:v1", &[base(), app(3)], "/app/kept", "2024-01-01T00:00:00Z");
    learn(&registry, &v1, &[("app/z-first", 0, FIRST), ("app/a-second", 0, SECOND)]);
    let v2 = push(&registry, "app:v2", &[base(), app(4)], "/app/kept", "2024-02-01T00:00:00Z");
    let run = registry.run(&["convert", "--max-boot-mib", "1", &v2]);
    assert!(run.succeeded().stdout.contains("found no room"), "{}", run.stdout);
    let held = FIRST + KEPT;
    assert_eq!(pack(&registry, &v2)["content_bytes"], held + (SECOND - held) / PAGE * PAGE);
    registry.run(&["verify", &v2]).succeeded();

    // One of its own that was learnt is made again as it was.
    registry.run(&["convert", "--level", "4", "--max-boot-mib", "1", &v1]).succeeded();
    assert_eq!(pack(&registry, &v1)["content_bytes"], FIRST + SECOND);

    // Where nobody says otherwise there is room.
    let v3 = push(&registry, "app:v3", &[base(), app(5)], "/app/kept", "2024-03-01T00:00:00Z");
    let run = registry.run(&["convert", "--predecessor", &v1, &v3]);
    assert!(!run.succeeded().stdout.contains("found no room"), "{}", run.stdout);
    assert_eq!(pack(&registry, &v3)["content_bytes"], FIRST + SECOND + KEPT);
}

#[test]
fn a_predecessor_that_is_gone_in_part_costs_no_image_its_pack() {
    let Some(registry) = Registry::start() else { return };
    let v1 = push(&registry, "app:v1", &[base(), before()], "/app/kept", "2024-01-01T00:00:00Z");
    learn(&registry, &v1, &TOUCHED);
    let tag = format!("sha256-{}.jaunt", registry.digest("app", "v1").hex());
    let artifact = registry.manifest("app", &tag).unwrap();
    let diff_id = before().diff_id.to_string();
    let blob = |is_it: &dyn Fn(&Value) -> bool| {
        let found = artifact["layers"].as_array().unwrap().iter().find(|blob| is_it(blob)).unwrap();
        registry.blob_file(found["digest"].as_str().unwrap())
    };

    let index = blob(&|blob| blob["mediaType"] == LAUNCH_INDEX);
    let bytes = std::fs::read(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    let v2 = push(&registry, "app:v2", &[base(), after()], "/app/kept", "2024-02-01T00:00:00Z");
    let run = registry.run(&["convert", &v2]);
    assert!(run.succeeded().stdout.contains("that its command needs"), "{run:?}");
    assert_eq!(pack(&registry, &v2)["content_bytes"], KEPT);

    std::fs::write(&index, bytes).unwrap();
    std::fs::remove_file(blob(&|blob| blob["annotations"][DIFF_ID] == diff_id)).unwrap();
    let v3 = push(&registry, "app:v3", &[base(), after()], "/app/kept", "2024-03-01T00:00:00Z");
    let run = registry.run(&["convert", &v3]);
    assert!(run.succeeded().stdout.contains("that was learnt of the image before"), "{run:?}");
    // Its files are known by path alone.
    assert_eq!(pack(&registry, &v3)["content_bytes"], 4096 + 12_000 + KEPT);
}

#[test]
fn the_predecessor_runs_the_same_program_has_most_in_common_and_is_the_newest() {
    let Some(registry) = Registry::start() else { return };
    let name = |tag: &str| format!("app:{tag}");
    let of = |tag: &str, layers: &[Layer], program: &str, created: &str, len: usize| {
        let reference = push(&registry, &name(tag), layers, program, created);
        learn(&registry, &reference, &[("lib/shared", 0, len)]);
    };
    let [one, two, three] = [1_u64, 2, 3].map(|seed| Layer::gzip(&tar(&[("app/x", &noise(100, seed)[..])])));
    of("newest-but-one", &[base(), one], "/lib/shared", "2024-03-01T00:00:00Z", 4096);
    of("older", &[base(), two], "/lib/shared", "2024-01-01T00:00:00Z", 8192);
    of("of-another-program", &[base()], "/lib/unread", "2024-04-01T00:00:00Z", SHARED);
    let other = Layer::gzip(&tar(&[("lib/shared", &noise(SHARED, 1)[..])]));
    of("with-nothing-in-common", &[other], "/lib/shared", "2024-05-01T00:00:00Z", SHARED);

    let next = push(&registry, "app:next", &[base(), three], "/lib/shared", "2024-06-01T00:00:00Z");
    registry.run(&["convert", &next]).succeeded();
    assert_eq!(pack(&registry, &next)["content_bytes"], 4096);
    registry.run(&["verify", &next]).succeeded();

    // An image of another program's arguments and layers is nobody's predecessor.
    let far = Layer::gzip(&tar(&[("lib/shared", &noise(SHARED, 9)[..])]));
    let far = push_running(&registry, "app:far", &[far], &["/lib/shared", "other"], "2024-06-02T00:00:00Z");
    registry.run(&["convert", &far]).succeeded();
    assert_eq!(pack(&registry, &far)["predecessor"], Value::Null);

    // Who wants none has none, and a predecessor without a pack is told of.
    let none = push(&registry, "app:none", &[base()], "/lib/shared", "2024-07-01T00:00:00Z");
    registry.run(&["convert", "--no-boot-pack", &none]).succeeded();
    assert_eq!(pack(&registry, &none), Value::Null);
    let bare = push(&registry, "app:bare", &[base()], "/lib/shared", "2024-08-01T00:00:00Z");
    let run = registry.run(&["convert", "--predecessor", &none, &bare]);
    assert!(run.failed().contains("has no boot pack"), "{}", run.stderr);
}
