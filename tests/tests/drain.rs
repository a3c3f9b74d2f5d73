//! A node that is given to Jaunt by `install`, and taken back while a container runs: nothing breaks on the way.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Bed, await_ready, noise, runnable};
use jaunt_tests::containerd::{Snapshotter, Version};
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Jaunt, Node, needs_root};

const LIMIT: Duration = Duration::from_secs(60);
const UNREAD: usize = 3 << 20;

/// A file of it is read by nobody until it is asked for.
fn image() -> Image {
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/unread", noise(3, UNREAD))]))
        .command(&["/bin/sh", "-ec", "echo ready; exec sleep 600"])
}

struct Given<'b> {
    bed: &'b Bed,
    node: Node<'b>,
    jaunt: Jaunt,
}

impl<'b> Given<'b> {
    /// A node with overlayfs, our daemon beside it, and our program's configuration as `install` looks for it.
    fn new(bed: &'b Bed) -> Self {
        let registries = [bed.registry.host()];
        let node = Node::overlayfs(&bed.scratch, &registries).unwrap();
        // Nothing comes by itself: what is read late is fetched late.
        let config = "[completion]\nenabled = false\n";
        let jaunt = Jaunt::configured(&bed.binaries, &bed.scratch, "jaunt", &registries, config).unwrap();
        let settings = format!("socket = {:?}\nroot = {:?}\n", jaunt.socket(), jaunt.root());
        // Paths are the same from the scratch, as the machine's root directory, and from outside.
        let within = bed.scratch.path().join(bed.scratch.path().strip_prefix("/").unwrap());
        fs::create_dir_all(within.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/", within).unwrap();
        let etc = bed.scratch.dir("etc/jaunt").unwrap();
        fs::write(etc.join("snapshotter.toml"), settings).unwrap();
        Self { bed, node, jaunt }
    }

    /// One of our commands for this node, whose root directory is the scratch.
    fn try_run(&self, words: &[&str]) -> jaunt_tests::Result<String> {
        let mut command = self.bed.binaries.snapshotter(&self.bed.scratch, &words[..1]);
        command.arg("--host-root").arg(self.bed.scratch.path());
        run(command.args(&words[1..]))
    }

    fn install(&self) -> String {
        let version = Version::installed(&self.bed.scratch).unwrap().to_string();
        let config = self.node.containerd.config();
        let config = format!("/{}", config.strip_prefix(self.bed.scratch.path()).unwrap().display());
        let words =
            ["install", "--no-unit", "--containerd-version", &version, "--containerd-config", &config];
        self.try_run(&words).unwrap()
    }

    fn restart(&mut self, snapshotter: &Snapshotter) {
        self.node.containerd.use_snapshotter(snapshotter);
        self.node.containerd.restart().unwrap();
    }

    /// Runs the image's own command apart from us, so that containerd can be restarted meanwhile.
    fn detached(&self, reference: &str, id: &str) {
        let mut command =
            self.node.containerd.ctr(&["run", "--detach", "--null-io", "--snapshotter", "jaunt"]);
        command.arg("--runc-root").arg(self.bed.scratch.path().join("containerd/runc"));
        run(command.args([reference, id])).unwrap();
    }

    fn exec(&self, id: &str, exec: &str, script: &str) -> String {
        let mut command = self.node.containerd.ctr(&["tasks", "exec", "--exec-id", exec, "--fifo-dir"]);
        command.arg(self.bed.scratch.dir("fifo").unwrap());
        run(command.args([id, "/bin/sh", "-c", script])).unwrap()
    }
}

#[test]
fn a_node_is_taken_back_to_overlayfs_while_a_container_runs() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let mut given = Given::new(&bed);
    let original = fs::read(given.node.containerd.config()).unwrap();
    given.install();
    given.restart(&Snapshotter::Jaunt(given.jaunt.socket()));
    let mut pull = bed.binaries.snapshotter(&bed.scratch, &["pull", "--address"]);
    pull.arg(given.node.containerd.socket()).arg("--hosts-dir").arg(given.node.containerd.hosts_dir());
    let said = run(pull.arg(&pushed.reference)).unwrap();
    assert!(said.contains("2 of 2 layers lazy"), "{said}");
    let id = format!("{}-drained", bed.scratch.name());
    given.detached(&pushed.reference, &id);

    // Drained: the container goes on, and reads what it had not read yet.
    let refused = given.try_run(&["uninstall"]).unwrap_err().to_string();
    assert!(refused.contains("drain the node first"), "{refused}");
    given.try_run(&["uninstall", "--drain"]).unwrap();
    given.restart(&Snapshotter::Overlayfs);
    let read = given.exec(&id, "late", "sha256sum /data/unread");
    let expected = jaunt_formats::Digest::of(&noise(3, UNREAD)).hex().to_string();
    assert!(read.starts_with(&expected), "{read}");

    // An image that was pulled lazily has no layers here: it is pulled again, and then runs as ever.
    let unpulled = given.node.containerd.run(&pushed.reference).and_then(|mut c| c.finish(LIMIT));
    assert!(unpulled.is_err(), "there is nothing to unpack");
    given.node.containerd.pull("overlayfs", &pushed.reference).unwrap();
    await_ready(&mut given.node.containerd.run(&pushed.reference).unwrap());

    // The last container goes, the image and its snapshots with it, and then Jaunt.
    run(&mut given.node.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id])).unwrap();
    wait_until("the container's end", LIMIT, || {
        run(&mut given.node.containerd.ctr(&["tasks", "rm", &id])).is_ok()
    })
    .unwrap();
    run(&mut given.node.containerd.ctr(&["containers", "rm", &id])).unwrap();
    given.node.containerd.remove_images().unwrap();
    wait_until("the end of our snapshots", LIMIT, || {
        given.node.containerd.snapshots("jaunt").is_ok_and(|names| names.is_empty())
    })
    .unwrap();
    given.try_run(&["uninstall"]).unwrap();
    assert!(fs::read(given.node.containerd.config()).unwrap() == original);
    given.jaunt.stop().unwrap();
    given.restart(&Snapshotter::Overlayfs);
    given.node.containerd.pull("overlayfs", &pushed.reference).unwrap();
    await_ready(&mut given.node.containerd.run(&pushed.reference).unwrap());
}
