//! What is broken, hostile or missing: a clear error that names what and where, nothing half-done left
//! as valid, and a daemon that lives on.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Bed, await_ready, backings, fill, noise, runnable, status};
use jaunt_formats::{DiffId, Digest};
use jaunt_tests::image::{BuiltImage, Image, Pushed, dir, file, layer};
use jaunt_tests::mounts::Mounted;
use jaunt_tests::process::{line, wait_until};
use jaunt_tests::{Jaunt, Node, needs_root};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const EIO: i32 = 5;
const ARTIFACT: &str = "application/vnd.oci.image.manifest.v1+json";

/// A runnable layer, and one with two files of which each is several spans.
fn image(seed: u64) -> Image {
    let data = [
        dir("data", 0o755),
        file("data/one", noise(seed, 3 << 20)),
        file("data/other", noise(seed + 1, 3 << 20)),
    ];
    Image::new().layer(layer(runnable())).layer(layer(data)).command(&[
        "/bin/sh",
        "-c",
        "echo ready; exec sleep 600",
    ])
}

/// Runs a command that must fail with exit code `code`; what it says must contain all `words`.
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}: {said}", line(command));
    for word in words {
        assert!(said.contains(word), "{}: {word:?} is not in: {said}", line(command));
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Converting what `spoil` made of an image fails, says why, and leaves no artifact.
fn does_not_convert(spoil: impl FnOnce(&mut BuiltImage), words: impl FnOnce(&Pushed) -> Vec<String>) {
    let bed = Bed::new();
    let mut image = image(1).build().unwrap();
    spoil(&mut image);
    let pushed = image.push(&bed.registry, "fixture", "v1").unwrap();
    let words = words(&pushed);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fails(&mut bed.binaries.proxy(&bed.scratch, &["convert", &pushed.reference]), 1, &words);
    has_no_artifact(&bed, &pushed);
}

fn has_no_artifact(bed: &Bed, pushed: &Pushed) {
    for tag in [format!("sha256-{}.jaunt", pushed.digest.hex()), format!("sha256-{}", pushed.digest.hex())] {
        let path = format!("fixture/manifests/{tag}");
        assert_eq!(bed.registry.request("GET", &path, &[], b"").unwrap().status, 404, "{tag} was pushed");
    }
}

fn layer_digest(pushed: &Pushed, layer: usize) -> String {
    pushed.manifest["layers"][layer]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_truncated_layer_is_not_converted() {
    needs_root!();
    let spoil = |image: &mut BuiltImage| image.layers[1].bytes.truncate(2 << 20);
    does_not_convert(spoil, |pushed| vec![layer_digest(pushed, 1)]);
}

#[test]
fn a_corrupt_layer_is_not_converted() {
    needs_root!();
    let spoil = |image: &mut BuiltImage| image.layers[1].bytes[1 << 20] ^= 0x55;
    does_not_convert(spoil, |pushed| vec![layer_digest(pushed, 1)]);
}

#[test]
fn a_layer_with_another_diff_id_is_not_converted() {
    needs_root!();
    let other = Digest::of(b"another tar");
    let spoil = |image: &mut BuiltImage| image.layers[1].diff_id = DiffId(other);
    does_not_convert(spoil, |pushed| vec![layer_digest(pushed, 1), other.to_string()]);
}

#[test]
fn an_image_with_a_layer_of_an_unknown_media_type_stays_as_it_is() {
    needs_root!();
    let bed = Bed::new();
    let mut image = image(1).build().unwrap();
    image.layers[1].media_type = "application/x-novel".to_owned();
    let pushed = image.push(&bed.registry, "fixture", "v1").unwrap();
    let output = bed.binaries.proxy(&bed.scratch, &["convert", &pushed.reference]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for word in [&layer_digest(&pushed, 1), "application/x-novel", "nothing to convert"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    has_no_artifact(&bed, &pushed);
}

#[test]
fn the_converter_says_what_it_cannot_reach_or_find() {
    needs_root!();
    let bed = Bed::new();
    let host = bed.registry.host();
    let convert = |reference: &str| bed.binaries.proxy(&bed.scratch, &["convert", reference]);
    fails(&mut convert("127.0.0.1:9/some/image:v1"), 1, &["127.0.0.1:9", "refused"]);
    fails(&mut convert(&format!("{host}/nothing/here:v1")), 1, &[&host, "nothing/here", "v1"]);
    fails(&mut convert("not a reference"), 2, &["not a reference"]);
    fails(&mut bed.binaries.proxy(&bed.scratch, &["convert"]), 2, &[]);
    let (_, pushed) = bed.pushed(image(1));
    let blob: Digest = layer_digest(&pushed, 1).parse().unwrap();
    fs::remove_file(bed.registry.blob_file(&blob)).unwrap();
    fails(&mut convert(&pushed.reference), 1, &[&blob.to_string()]);
}

/// B2: A span whose bytes are wrong is fetched once more, from every repository that is known to have it (three at
/// most); if they are wrong again and the original cannot be streamed instead (B8), its readers get EIO, the log has
/// image, path and span, and everything else goes on.
#[test]
fn a_wrong_span_is_an_error_for_its_readers_only() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image(3));
    let (blob, good) = spoil_span(&bed, &pushed, &noise(3, 3 << 20)[1_500_000..1_500_064]);
    let original: Digest = layer_digest(&pushed, 1).parse().unwrap();
    fs::remove_file(bed.registry.blob_file(&original)).unwrap();
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let script = "sha256sum /data/other; sha256sum /data/one && exit 1; head -c 1000 /data/one | sha256sum; echo ready";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-c", script]).unwrap();
    let said = container.finish_saying(LIMIT).unwrap();
    assert!(said.contains(&Digest::of(&noise(4, 3 << 20)).hex()), "{said}");
    assert!(said.contains(&Digest::of(&noise(3, 3 << 20)[..1000]).hex()), "{said}");
    assert!(said.to_lowercase().contains("i/o error") || said.contains("Input/output error"), "{said}");
    let log = node.jaunt.as_ref().unwrap().log();
    let report = log.lines().find(|line| line.contains("ERROR") && line.contains("data/one"));
    let report = report.unwrap_or_else(|| panic!("no report in {log}"));
    let repository = format!("{}/{}", bed.registry.host(), pushed.repository);
    assert!(report.contains(&repository) && report.contains("span"), "{report}");

    // Mended at the source, the file reads well: nothing wrong was kept.
    fs::write(&blob, good).unwrap();
    let mut again = node.containerd.run_with(&pushed.reference, &["/bin/sha256sum", "/data/one"]).unwrap();
    assert!(again.finish_saying(LIMIT).unwrap().contains(&Digest::of(&noise(3, 3 << 20)).hex()));
}

/// Flips four bytes of a converted layer where it holds `content`; returns the file and what it held.
fn spoil_span(bed: &Bed, pushed: &Pushed, content: &[u8]) -> (std::path::PathBuf, Vec<u8>) {
    let artifact = bed.artifact(pushed);
    for layer in artifact["layers"].as_array().unwrap() {
        let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
        let path = bed.registry.blob_file(&digest);
        let good = fs::read(&path).unwrap();
        if let Some(at) = good.windows(content.len()).position(|window| window == content) {
            let mut bad = good.clone();
            bad[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::write(&path, bad).unwrap();
            return (path, good);
        }
    }
    panic!("no converted layer holds the content as it is");
}

/// Pushes `artifact` as the launch artifact of `pushed`, under the tag that nodes ask for first.
fn claim(bed: &Bed, artifact: &Value, pushed: &Pushed) {
    let bytes = serde_json::to_vec(artifact).unwrap();
    let tag = format!("sha256-{}.jaunt", pushed.digest.hex());
    bed.registry.push_manifest(&pushed.repository, &tag, ARTIFACT, &bytes).unwrap();
}

/// The image is pulled and runs, but its layers are held as `expected`, for the reason `code`.
fn falls_back(bed: &Bed, pushed: &Pushed, expected: [&str; 2], code: &str) {
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    await_ready(&mut container);
    let mut backings = backings(bed, &node);
    backings.sort();
    assert_eq!(backings, expected);
    let status = status(bed, &node);
    assert_eq!(status["fallbacks"][0]["code"], code, "{status:#}");
}

#[test]
fn an_artifact_for_another_image_is_not_believed() {
    needs_root!();
    let bed = Bed::new();
    let (_, first) = bed.converted(image(1));
    let artifact = bed.artifact(&first);
    let second = image(5).build().unwrap().push(&bed.registry, "fixture", "v2").unwrap();
    claim(&bed, &artifact, &second);
    falls_back(&bed, &second, ["eager", "eager"], "bad-artifact");
}

/// The subject is right, but the launch index describes other layers.
#[test]
fn an_index_of_other_layers_is_not_believed() {
    needs_root!();
    let bed = Bed::new();
    let (_, first) = bed.converted(image(1));
    let second = image(5).build().unwrap().push(&bed.registry, "fixture", "v2").unwrap();
    let mut artifact = bed.artifact(&first);
    let size = bed.registry.manifest("fixture", "v2").unwrap().0;
    artifact["subject"]["digest"] = second.digest.to_string().into();
    artifact["subject"]["size"] = serde_json::to_vec(&size).unwrap().len().into();
    claim(&bed, &artifact, &second);
    // The layer below is the same in both images, so of that one the index tells the truth.
    falls_back(&bed, &second, ["eager", "lazy"], "chain-mismatch");
}

#[test]
fn a_damaged_index_is_not_believed() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image(1));
    let index: Digest = bed.artifact(&pushed)["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let path = bed.registry.blob_file(&index);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    falls_back(&bed, &pushed, ["eager", "eager"], "bad-index");
}

/// A converted layer that is gone is noticed before the layer is promised.
#[test]
fn a_missing_converted_layer_is_unpacked_instead() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image(1));
    let artifact = bed.artifact(&pushed);
    let layers = artifact["layers"].as_array().unwrap();
    let converted =
        layers.iter().find(|layer| layer["annotations"]["dev.jaunt.diff-id"].is_string()).unwrap();
    let blob = converted["digest"].as_str().unwrap();
    let path = format!("fixture/blobs/{blob}");
    assert_eq!(bed.registry.request("DELETE", &path, &[], b"").unwrap().status, 202);
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
    let status = status(&bed, &node);
    assert_eq!(status["fallbacks"][0]["code"], "converted-layer-missing", "{status:#}");
}

/// A registry that hangs for a while delays its readers, and no one else.
#[test]
fn a_silent_registry_is_waited_for() {
    needs_root!();
    let mut bed = Bed::new();
    let (_, pushed) = bed.converted(image(6));
    let node = Node::jaunt(&bed.scratch, &bed.binaries, &[bed.registry.host()]).unwrap();
    node.pull(&pushed.reference).unwrap();
    let script = "mkfifo /go; echo ready; cat /go; sha256sum /data/one";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-c", script]).unwrap();
    await_ready(&mut container);
    bed.registry.pause();
    node.containerd.wake(&container).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    bed.registry.resume();
    let said = container.finish(LIMIT).unwrap();
    assert!(said.contains(&Digest::of(&noise(6, 3 << 20)).hex()), "{said}");
}

/// doc/SEMANTICS.md B6, through overlayfs and FUSE: what the kernel keeps of a read that failed is in nobody's way.
#[test]
fn an_outage_is_an_error_at_the_deadline_and_over_for_the_same_open_file_once_the_registry_is_back() {
    needs_root!();
    const DEADLINE: Duration = Duration::from_secs(3);
    for is_silent in [true, false] {
        let mut bed = Bed::new();
        let (image, pushed) = bed.converted(image(6));
        let config =
            format!("read_deadline_seconds = {}\n[completion]\nenabled = false\n", DEADLINE.as_secs());
        let hosts = [bed.registry.host()];
        let node = Node::configured(&bed.scratch, &bed.binaries, &hosts, &config).unwrap();
        node.pull(&pushed.reference).unwrap();
        let chain = image.chain_ids().last().unwrap().to_string();
        let root = node.containerd.root("jaunt", &chain).unwrap();
        let program = fs::read(root.point().join("bin/busybox")).unwrap();
        let one = fs::File::open(root.point().join("data/one")).unwrap();
        match is_silent {
            true => bed.registry.pause(),
            false => bed.registry.stop().unwrap(),
        }
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        let (mut bytes, begun) = (vec![0; 3 << 20], Instant::now());
        let error = one.read_at(&mut bytes[..4096], 1 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
        assert!(begun.elapsed() >= DEADLINE, "{:?}", begun.elapsed());
        assert!(fs::read(root.point().join("bin/busybox")).unwrap() == program, "what is local is read");
        match is_silent {
            true => bed.registry.resume(),
            false => bed.registry.start_again(&bed.scratch).unwrap(),
        }
        // Reads that come at once may still be told of the failure.
        wait_until("recovery", LIMIT, || one.read_exact_at(&mut bytes, 0).is_ok()).unwrap();
        assert!(bytes == noise(6, 3 << 20), "silent: {is_silent}");
        drop((one, root));
        drop(node);
    }
}

/// B4: A full disk makes reads slower, not wrong: what cannot be kept is served from memory, and older content makes
/// room.
#[test]
fn a_full_disk_makes_reads_slower_not_wrong() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image(8));
    let root = bed.scratch.path().join("jaunt/root");
    let disk = Mounted::tmpfs(&bed.scratch, root.clone(), 24 << 20).unwrap();
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    // Room for the container's own snapshot, none for what it reads.
    let script = "mkfifo /go; echo ready; cat /go; sha256sum /data/one /data/other";
    let mut container = node.containerd.run_with(&pushed.reference, &["/bin/sh", "-c", script]).unwrap();
    await_ready(&mut container);
    fill(&root.join("filler"));
    node.containerd.wake(&container).unwrap();
    let said = container.finish(LIMIT).unwrap();
    for seed in [8, 9] {
        assert!(said.contains(&Digest::of(&noise(seed, 3 << 20)).hex()), "{said}");
    }
    fs::remove_file(root.join("filler")).unwrap();
    drop((container, node));
    drop(disk);
}

#[test]
fn a_second_daemon_is_refused() {
    needs_root!();
    let bed = Bed::new();
    let dir = bed.scratch.dir("jaunt").unwrap();
    let mut first = Jaunt::start(&bed.binaries, &bed.scratch, "jaunt", &[]).unwrap();
    let root = first.root().display().to_string();

    // The same root, another socket; then another root, the same socket.
    let other = bed.scratch.dir("other").unwrap();
    let mut same_root = bed.binaries.snapshotter(&bed.scratch, &["serve", "--root", &root, "--run-dir"]);
    same_root.arg(&other).arg("--socket").arg(other.join("s.sock"));
    fails(&mut same_root, 1, &[&root, &first.pid().to_string()]);
    let socket = first.socket().display().to_string();
    let mut same_socket = bed.binaries.snapshotter(&bed.scratch, &["serve", "--socket", &socket, "--root"]);
    same_socket.arg(other.join("root")).arg("--run-dir").arg(&other);
    fails(&mut same_socket, 1, &[&socket]);
    assert!(first.alive());
    assert!(std::os::unix::net::UnixStream::connect(first.socket()).is_ok());

    // What a killed daemon leaves behind is in nobody's way.
    first.stop().unwrap();
    drop(UnixListener::bind(dir.join("jaunt.sock")).unwrap());
    assert!(first.socket().exists());
    Jaunt::start(&bed.binaries, &bed.scratch, "jaunt", &[]).unwrap();
}

#[test]
fn the_pull_command_says_what_is_missing() {
    needs_root!();
    let bed = Bed::new();
    let pull = |socket: &std::path::Path, reference: &str| {
        let mut command = bed.binaries.snapshotter(&bed.scratch, &["pull", "--address"]);
        command.arg(socket).arg(reference);
        command
    };
    let nowhere = bed.scratch.path().join("no.sock");
    fails(&mut pull(&nowhere, "r.example/a:v1"), 1, &["no.sock"]);
    fails(&mut pull(&nowhere, "not a reference"), 2, &["not a reference"]);
    let (_, pushed) = bed.pushed(image(1));
    let node = Node::overlayfs(&bed.scratch, &[bed.registry.host()]).unwrap();
    fails(&mut pull(&node.containerd.socket(), &pushed.reference), 1, &["jaunt", "snapshotter"]);
    drop(node);
    let node = bed.node();
    let missing = format!("{}/fixture:none", bed.registry.host());
    fails(&mut pull(&node.containerd.socket(), &missing), 1, &["fixture:none", "not found"]);
}
