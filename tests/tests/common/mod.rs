//! Fixtures that several whole-system tests share.
#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(clippy::unwrap_used)]

pub mod package;
pub mod packs;
pub mod private;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jaunt_formats::media_type::OCI_MANIFEST;
use jaunt_formats::{ChainId, Digest};
use jaunt_tests::image::{
    BuiltImage, Entry, Image, Pushed, block_device, char_device, dir, fifo, file, hardlink, layer, opaque,
    symlink, whiteout,
};
use jaunt_tests::mounts::{self, Mounted};
use jaunt_tests::process::{Daemon, run, wait_until};
use jaunt_tests::{Binaries, Container, Dice, Node, Readiness, Registry, Scratch, compare};
use serde_json::Value;

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let words = std::iter::repeat_with(move || dice.roll().to_le_bytes());
    words.take(len / 8 + 1).flatten().take(len).collect()
}

/// A layer in which programs can run: busybox, and what runc expects of a root file system.
pub fn runnable() -> Vec<Entry> {
    let program = jaunt_tests::host::find("busybox").unwrap();
    let mut entries: Vec<Entry> =
        ["bin", "dev", "etc", "proc", "sys", "tmp"].map(|name| dir(name, 0o755)).into();
    entries.insert(0, root());
    entries.push(file("bin/busybox", std::fs::read(program).unwrap()).mode(0o755));
    entries.extend(
        ["sh", "cat", "sleep", "ls", "echo", "rm", "mkfifo", "sha256sum", "head", "dd"]
            .map(|applet| symlink(format!("bin/{applet}"), "busybox")),
    );
    entries.push(file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"));
    entries
}

/// Everything a layer can hold and every way layers change one another, compressed each in its way.
pub fn everything() -> Image {
    let mut base = runnable();
    base.extend([
        dir("d", 0o1777).owner(1000, 1001).mtime(1_234_567_890, 123_456_789),
        file("d/empty", ""),
        file("d/small", "small\n").mode(0o640).owner(7, 8).mtime(1_000_000_000, 1),
        file("d/setuid", "s").mode(0o6755),
        file("d/huge-ids", "h").owner(3_000_000, 4_000_000),
        file("d/spans", noise(1, 3 << 20)),
        file("d/zeros", vec![0; 2 << 20]),
        file("d/attributes", "x").xattr("user.key", b"value\0\xff").xattr("user.empty", b""),
        file("d/capable", "c").mode(0o755).xattr("security.capability", CAPABILITY),
        hardlink("d/small-too", "d/small").mode(0o640).owner(7, 8).mtime(1_000_000_000, 1),
        hardlink("small-above", "d/small").mode(0o640).owner(7, 8).mtime(1_000_000_000, 1),
        symlink("d/relative", "../etc/passwd"),
        symlink("d/dangling", "/no/where"),
        symlink("d/long", "t/".repeat(100)),
        char_device("d/null", 1, 3),
        block_device("d/disk", 259, 70_000),
        fifo("d/pipe"),
        file("d/old", "-").mtime(1, 0),
        file("d/blank and \\ slash", "n"),
        file(b"d/not-utf8-\xff\xfe", "n"),
        file(format!("d/{}", "n".repeat(200)), "long name"),
        dir("opaque", 0o755),
        file("opaque/below", "1"),
        dir("replaced", 0o755),
        file("replaced/inside", "1"),
        file("file-then-dir", "1"),
        file("changed", "first"),
        file("dropped", "1"),
        file("kept", "1"),
        dir("deep", 0o700),
        dir("deep/er", 0o711),
        file("deep/er/file", "1"),
    ]);
    let change = layer([
        root(),
        whiteout("dropped"),
        file("changed", "second, and longer").mtime(1_700_000_000, 999_999_999),
        dir("opaque", 0o750),
        opaque("opaque"),
        file("opaque/above", "2"),
        file("replaced", "now a file"),
        dir("file-then-dir", 0o755),
        file("file-then-dir/inside", "2"),
        dir("deep", 0o700),
        dir("deep/er", 0o711),
        file("deep/er/second", "2"),
        hardlink("deep/er/linked", "deep/er/second"),
    ]);
    let again = layer([
        root(),
        file("dropped", "back again"),
        dir("d", 0o755).mtime(1_600_000_001, 0),
        whiteout("d/zeros"),
        dir("deep", 0o700),
        dir("deep/er", 0o711),
        whiteout("deep/er/second"),
        dir("opaque", 0o750),
        file("opaque/third", noise(2, 700_000)),
    ]);
    Image::new()
        .layer(layer(base))
        .layer(change.zstd())
        .layer(again.plain())
        .layer(layer([]))
        .layer(layer([root(), file("top", "4"), dir("opaque", 0o755), whiteout("opaque/above")]))
        .command(&["/bin/sh", "-c", "echo ready; exec sleep 600"])
}

/// `cap_net_raw=ep`, as setcap(8) writes it: revision 2, effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The root directory itself, which containerd ignores: it stays as the snapshotter made it.
fn root() -> Entry {
    dir("", 0o711).owner(3, 4).xattr("user.root", b"ignored")
}

/// Everything a whole-system test of ours starts from.
#[derive(Debug)]
pub struct Bed {
    pub binaries: Binaries,
    pub registry: Registry,
    pub scratch: Scratch,
}

impl Bed {
    /// A scratch with a registry on loopback.
    pub fn new() -> Self {
        let scratch = Scratch::new().unwrap();
        let registry = Registry::local(&scratch).unwrap();
        Self { binaries: Binaries::find().unwrap(), registry, scratch }
    }

    /// Builds, pushes and converts an image.
    pub fn converted(&self, image: Image) -> (BuiltImage, Pushed) {
        let (image, pushed) = self.pushed(image);
        self.binaries.convert(&self.scratch, &pushed.reference).unwrap();
        (image, pushed)
    }

    /// Builds and pushes an image.
    pub fn pushed(&self, image: Image) -> (BuiltImage, Pushed) {
        let image = image.build().unwrap();
        let pushed = image.push(&self.registry, "fixture", "v1").unwrap();
        (image, pushed)
    }

    /// A node with our snapshotter that knows the registry. What nobody reads is left alone, so that however long a test takes,
    /// what it counts is what it asked for.
    pub fn node(&self) -> Node<'_> {
        self.node_with("[completion]\nenabled = false\n")
    }

    /// The same with a configuration of its own.
    pub fn node_with(&self, config: &str) -> Node<'_> {
        Node::configured(&self.scratch, &self.binaries, &[self.registry.host()], config).unwrap()
    }

    /// The launch artifact's manifest, by the tag every node can ask for.
    pub fn artifact(&self, pushed: &Pushed) -> Value {
        let tag = format!("sha256-{}.jaunt", pushed.digest.hex());
        self.registry.manifest(&pushed.repository, &tag).unwrap().0
    }
}

/// What the daemon says about itself.
pub fn status(bed: &Bed, node: &Node<'_>) -> Value {
    status_at(bed, &node.jaunt.as_ref().unwrap().socket())
}

/// What the daemon at a socket says about itself.
pub fn status_at(bed: &Bed, socket: &Path) -> Value {
    let mut command = bed.binaries.snapshotter(&bed.scratch, &["status", "--json", "--socket"]);
    serde_json::from_str(&run(command.arg(socket)).unwrap()).unwrap()
}

/// How each committed snapshot of a node is backed.
pub fn backings(bed: &Bed, node: &Node<'_>) -> Vec<String> {
    backings_in(&status(bed, node))
}

/// The same of what a daemon has said about itself.
pub fn backings_in(status: &Value) -> Vec<String> {
    let snapshots = status["snapshots"].as_array().unwrap().iter();
    let committed = snapshots.filter(|snapshot| snapshot["kind"] == "committed");
    committed.map(|snapshot| snapshot["backing"].as_str().unwrap().to_owned()).collect()
}

/// Pulls lazily and eagerly, and returns what differs between the two in each prefix.
pub fn differences(bed: &Bed, chain_ids: &[ChainId], reference: &str) -> Vec<String> {
    let node = bed.node();
    node.pull(reference).unwrap();
    assert_eq!(backings(bed, &node), vec!["lazy"; chain_ids.len()]);
    node.containerd.pull("overlayfs", reference).unwrap();
    let mut found = Vec::new();
    for (below, chain_id) in chain_ids.iter().map(ToString::to_string).enumerate() {
        let lazy = node.containerd.view("jaunt", &chain_id).unwrap();
        let unpacked = node.containerd.view("overlayfs", &chain_id).unwrap();
        let (left, right) = (compare::read(lazy.point()).unwrap(), compare::read(unpacked.point()).unwrap());
        assert!(left.len() > 1, "nothing to compare");
        found.extend(
            compare::differences(&left, &right).iter().map(|line| format!("{} layers: {line}", below + 1)),
        );
        drop((lazy, unpacked));
        node.containerd.end_view("jaunt", &chain_id).unwrap();
    }
    // containerd ignores what a layer says about its root, which so has the time of unpacking.
    found.retain(|line| !line.contains("layers: /: mtime: "));
    found
}

/// Copies an image into another repository as it is, and nothing that refers to it.
pub fn copied(bed: &Bed, from: &str, to: &str) -> (Value, String) {
    let manifest = bed.registry.manifest(from, "v1").unwrap().0;
    let layers = manifest["layers"].as_array().unwrap();
    for blob in layers.iter().chain([&manifest["config"]]) {
        let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
        bed.registry.push_blob(to, &bed.registry.blob(from, &digest).unwrap()).unwrap();
    }
    let bytes = serde_json::to_vec(&manifest).unwrap();
    bed.registry.push_manifest(to, "v1", OCI_MANIFEST, &bytes).unwrap();
    (manifest, format!("{}/{to}:v1", bed.registry.host()))
}

/// Waits for a container's line `ready`.
pub fn await_ready(container: &mut Container) {
    container.wait_ready(&Readiness::Line("ready".to_owned()), Duration::from_secs(60)).unwrap();
}

/// Waits until somebody waits for an answer on one of the mounts in a daemon's run directory.
pub fn await_request(bed: &Bed, run_dir: &Path) {
    let point = bed.scratch.dir("connections").unwrap();
    let line = format!("mount -t fusectl none {}", point.display());
    let connections = Mounted::by_command(&bed.scratch, point, &line).unwrap();
    let is_waited_for = |mount: &PathBuf| {
        let minor = rustix::fs::minor(std::fs::metadata(mount).unwrap().dev());
        let waiting = connections.point().join(minor.to_string()).join("waiting");
        std::fs::read_to_string(waiting).is_ok_and(|waiting| waiting.trim() != "0")
    };
    let limit = Duration::from_secs(120);
    wait_until("a read", limit, || mounts::below(run_dir).iter().any(is_waited_for)).unwrap();
}

/// A configuration file by which the bed's registry is asked through a mirror first.
pub fn behind(bed: &Bed, mirror: &str) -> PathBuf {
    mirrored(bed, &bed.registry.host(), mirror)
}

/// The same for any registry.
pub fn mirrored(bed: &Bed, registry: &str, mirror: &str) -> PathBuf {
    let certs = bed.scratch.dir("certs").unwrap();
    let own = bed.scratch.dir(&format!("certs/{registry}")).unwrap();
    let hosts = format!(
        "server = 'http://{registry}'\n[host.'http://{mirror}']\ncapabilities = ['pull', 'resolve']\n",
    );
    std::fs::write(own.join("hosts.toml"), hosts).unwrap();
    let config = bed.scratch.path().join("snapshotter.toml");
    std::fs::write(&config, format!("[registries]\ncerts_dirs = ['{}']\n", certs.display())).unwrap();
    config
}

/// Mounts an image by the command line, with content, under `name`, that no other mount has.
pub fn mount(bed: &Bed, name: &str, reference: &str, point: &Path, config: &Path) -> Daemon {
    const LIMIT: Duration = Duration::from_secs(60);
    let mut command = bed.binaries.snapshotter(&bed.scratch, &["mount", "--read-deadline", "10", "--config"]);
    command.arg(config).arg("--root").arg(bed.scratch.dir(&format!("content-{name}")).unwrap());
    let mut mount = Daemon::spawn(name, command.arg(reference).arg(point), &bed.scratch.logs()).unwrap();
    let log = bed.scratch.logs().join(format!("{name}.log"));
    let mounted = || std::fs::read_to_string(&log).is_ok_and(|said| said.contains("mounted on"));
    mount.wait_until("mounted on", LIMIT, mounted).unwrap();
    mount
}

/// Writes until the disk is full.
pub fn fill(path: &Path) {
    let filler = std::fs::File::create(path).unwrap();
    let (mut chunk, mut written) = (1 << 20, 0);
    while chunk > 0 {
        match std::os::unix::fs::FileExt::write_at(&filler, &vec![1; chunk], written) {
            Ok(len) if len > 0 => written += len as u64,
            _ => chunk /= 2,
        }
    }
}
