//! Docker with its images in containerd, and this snapshotter below: what is run, built, committed, saved and
//! pushed.
//!
//! Debian 12's Docker is too old for it: `make test-matrix` runs this with Docker 26 and 28.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::docker::{Docker, Store};
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::network::GIGABIT;
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::registry::{PASSWORD, USER};
use jaunt_tests::{Binaries, Network, Node, Registry, Scratch, needs_programs, needs_root};

/// The first one whose images can lie in containerd with a snapshotter that it does not know.
const FIRST_VERSION: u32 = 25;
const LIMIT: Duration = Duration::from_secs(120);

/// A registry and another behind a link, and a node whose containerd Docker uses.
struct Bed {
    scratch: Scratch,
    network: Network,
    registry: Registry,
    binaries: Binaries,
}

impl Bed {
    /// `None` where Docker is too old.
    fn new() -> Option<Self> {
        Self::with(Registry::remote)
    }

    fn with(registry: fn(&Scratch, &Network) -> jaunt_tests::Result<Registry>) -> Option<Self> {
        let scratch = Scratch::new().unwrap();
        let version = Docker::version(&scratch).unwrap();
        if version < FIRST_VERSION {
            eprintln!("skipped: {}: Docker {version} is too old (make test-matrix has it)", module_path!());
            return None;
        }
        let network = Network::new(&scratch, GIGABIT).unwrap();
        let registry = registry(&scratch, &network).unwrap();
        println!("Docker {version}");
        Some(Self { binaries: Binaries::find().unwrap(), registry, network, scratch })
    }

    fn converted(&self) -> Pushed {
        let pushed = self.pushed("fixture");
        self.binaries.convert(&self.scratch, &pushed.reference).unwrap();
        pushed
    }

    fn pushed(&self, repository: &str) -> Pushed {
        let data = layer([dir("data", 0o755), file("data/noise", noise(5, 2 << 20))]);
        let image = Image::new()
            .layer(layer(runnable()))
            .layer(data)
            .layer(layer([file("data/zstd", "zstd\n")]).zstd())
            .command(&["/bin/sh", "-ec", "sha256sum /data/*"]);
        image.build().unwrap().push(&self.registry, repository, "v1").unwrap()
    }

    fn node(&self) -> Node<'_> {
        self.node_with("")
    }

    fn node_with(&self, config: &str) -> Node<'_> {
        // What nobody reads stays away, so that what is missing is known.
        let config = format!("{config}[completion]\nenabled = false\n");
        Node::configured(&self.scratch, &self.binaries, &[self.registry.host()], &config).unwrap()
    }

    fn docker(&self, node: &Node<'_>) -> Docker<'_> {
        let store = Store::Snapshotter("jaunt", node.containerd.socket());
        Docker::start(&self.scratch, &self.network, store).unwrap()
    }

    fn materialise(&self, node: &Node<'_>, reference: &str) -> String {
        let words = ["materialise", "--namespace", "moby", "--address"];
        let mut command = self.binaries.snapshotter(&self.scratch, &words);
        command.arg(node.containerd.socket()).arg("--socket").arg(node.jaunt.as_ref().unwrap().socket());
        run(command.arg(reference)).unwrap()
    }

    fn status(&self, node: &Node<'_>) -> serde_json::Value {
        let mut command = self.binaries.snapshotter(&self.scratch, &["status", "--json", "--socket"]);
        let status = run(command.arg(node.jaunt.as_ref().unwrap().socket())).unwrap();
        serde_json::from_str(&status).unwrap()
    }

    fn lazy(&self, node: &Node<'_>) -> usize {
        let status = self.status(node);
        status["snapshots"].as_array().unwrap().iter().filter(|s| s["backing"] == "lazy").count()
    }
}

/// What the image's own command prints.
fn shown() -> String {
    let line = |content: &[u8], name: &str| format!("{}  /data/{name}\n", Digest::of(content).hex());
    line(&noise(5, 2 << 20), "noise") + &line(b"zstd\n", "zstd")
}

/// An image's blobs, with their digests checked, as `docker save` writes them.
fn saved(bed: &Bed, docker: &Docker<'_>, reference: &str) -> Vec<Digest> {
    let file = bed.scratch.path().join("saved.tar");
    run(docker.docker(&["save", "--output"]).arg(&file).arg(reference)).unwrap();
    let unpacked = bed.scratch.dir("saved").unwrap();
    run(bed.scratch.command("tar").arg("-xf").arg(&file).arg("-C").arg(&unpacked)).unwrap();
    let blobs = fs::read_dir(unpacked.join("blobs/sha256")).unwrap().flatten();
    let digests = blobs.map(|blob| {
        let digest = Digest::of(&fs::read(blob.path()).unwrap());
        assert_eq!(digest.hex(), blob.file_name().to_str().unwrap());
        digest
    });
    let digests = digests.collect();
    fs::remove_dir_all(&unpacked).unwrap();
    digests
}

fn layers(registry: &Registry, repository: &str, tag: &str) -> Vec<Digest> {
    let (manifest, _) = registry.manifest(repository, tag).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_lazy_image_is_run_saved_loaded_and_pushed_elsewhere() {
    needs_root!();
    needs_programs!("dockerd", "docker", "nsenter");
    let Some(bed) = Bed::new() else { return };
    let pushed = bed.converted();
    let wanted = layers(&bed.registry, "fixture", "v1");
    let node = bed.node();
    let docker = bed.docker(&node);
    docker.pull(&pushed.reference).unwrap();
    assert_eq!(bed.lazy(&node), 3);
    assert_eq!(docker.run(&pushed.reference).unwrap(), shown());

    let said = bed.materialise(&node, &pushed.reference);
    assert!(said.contains("brought 3 original layers"), "{said}");
    let blobs = saved(&bed, &docker, &pushed.reference);
    assert!(wanted.iter().chain([&pushed.digest]).all(|digest| blobs.contains(digest)), "{blobs:?}");

    let elsewhere = format!("{}/moved/app:v1", bed.registry.host());
    run(&mut docker.docker(&["tag", &pushed.reference, &elsewhere])).unwrap();
    run(&mut docker.docker(&["push", "--quiet", &elsewhere])).unwrap();
    assert_eq!(bed.registry.manifest("moved/app", "v1").unwrap().1, pushed.digest);
    for digest in &wanted {
        assert_eq!(Digest::of(&bed.registry.blob("moved/app", digest).unwrap()), *digest);
    }

    // Loaded where there is nothing of it, it is unpacked from what was saved.
    run(&mut docker.docker(&["image", "rm", "--force", &pushed.reference, &elsewhere])).unwrap();
    run(docker.docker(&["load", "--input"]).arg(bed.scratch.path().join("saved.tar"))).unwrap();
    assert_eq!(docker.run(&pushed.reference).unwrap(), shown());
}

#[test]
fn what_is_committed_on_a_lazy_image_runs_and_is_pushed() {
    needs_root!();
    needs_programs!("dockerd", "docker", "nsenter");
    let Some(bed) = Bed::new() else { return };
    let pushed = bed.converted();
    let node = bed.node();
    let docker = bed.docker(&node);
    docker.pull(&pushed.reference).unwrap();
    let change = "echo committed > /data/committed; rm /data/zstd";
    let words = ["run", "--name", "changed", "--pull", "never", "--network", "none", &pushed.reference];
    run(docker.docker(&words).args(["/bin/sh", "-ec", change])).unwrap();
    let committed = format!("{}/committed/app:v1", bed.registry.host());
    let command = r#"CMD ["/bin/sh", "-ec", "sha256sum /data/*"]"#;
    run(&mut docker.docker(&["commit", "--change", command, "changed", &committed])).unwrap();
    run(&mut docker.docker(&["rm", "changed"])).unwrap();
    let said = docker.run(&committed).unwrap();
    assert!(said.contains("/data/committed") && !said.contains("/data/zstd"), "{said}");
    pushes_on_top(&bed, &node, &docker, &committed, "committed/app");
}

#[test]
fn what_is_built_from_a_lazy_image_runs_and_is_pushed() {
    needs_root!();
    needs_programs!("dockerd", "docker", "nsenter");
    let Some(bed) = Bed::new() else { return };
    let pushed = bed.converted();
    let node = bed.node();
    let docker = bed.docker(&node);
    docker.pull(&pushed.reference).unwrap();
    let context = bed.scratch.dir("context").unwrap();
    let recipe = format!("FROM {}\nRUN echo built > /data/built && rm /data/zstd\n", pushed.reference);
    fs::write(context.join("Dockerfile"), recipe).unwrap();
    let built = format!("{}/built/app:v1", bed.registry.host());
    // BuildKit where its client is there, else what Docker has built with before.
    let buildkit = Path::new("/usr/libexec/docker/cli-plugins/docker-buildx").exists();
    let build = |docker: &Docker<'_>| -> Command {
        let mut command = docker.docker(&["build", "--network", "none", "--pull=false", "--tag", &built]);
        command.env("DOCKER_BUILDKIT", if buildkit { "1" } else { "0" }).arg(&context);
        command
    };
    println!("BuildKit: {buildkit}");
    run(&mut build(&docker)).unwrap();
    let said = docker.run(&built).unwrap();
    assert!(said.contains("/data/built") && !said.contains("/data/zstd"), "{said}");
    pushes_on_top(&bed, &node, &docker, &built, "built/app");
}

/// An image on top of the fixture has its layers as they were, and one of its own.
fn pushes_on_top(bed: &Bed, node: &Node<'_>, docker: &Docker<'_>, reference: &str, repository: &str) {
    let below = layers(&bed.registry, "fixture", "v1");
    println!("{}", bed.materialise(node, reference));
    run(&mut docker.docker(&["push", "--quiet", reference])).unwrap();
    let (manifest, _) = bed.registry.manifest(repository, "v1").unwrap();
    let image = match manifest["manifests"][0]["digest"].as_str() {
        Some(digest) => digest.to_owned(),
        None => "v1".to_owned(),
    };
    let all = layers(&bed.registry, repository, &image);
    assert_eq!(all.len(), below.len() + 1);
    assert_eq!(all[..below.len()], below);
    for digest in &all {
        assert_eq!(Digest::of(&bed.registry.blob(repository, digest).unwrap()), *digest);
    }
    // Whoever pulls it anew gets what was run here.
    let here = docker.run(reference).unwrap();
    run(&mut docker.docker(&["image", "rm", "--force", reference])).unwrap();
    docker.pull(reference).unwrap();
    assert_eq!(docker.run(reference).unwrap(), here);
}

/// Docker's login reaches no snapshotter: the daemon needs the file that `docker login` writes.
#[test]
fn a_private_image_is_unpacked_and_with_dockers_login_in_the_daemons_file_it_is_lazy() {
    needs_root!();
    needs_programs!("dockerd", "docker", "nsenter");
    let Some(bed) = Bed::with(Registry::guarded_remote) else { return };
    // A refusal is remembered for a while, of the repository that it came from.
    let [pushed, other] = ["fixture", "other"].map(|repository| bed.pushed(repository));
    let daemons = bed.scratch.path().join("daemons.json");
    let node = bed.node_with(&format!("docker_config = {daemons:?}\n"));
    let docker = bed.docker(&node);
    let host = bed.registry.host();
    run(&mut docker.docker(&["login", "--username", USER, "--password", PASSWORD, &host])).unwrap();
    let dockers = bed.scratch.path().join("config.json");
    for image in [&pushed, &other] {
        let words = ["convert", "--plain-http", &host, &image.reference];
        run(bed.binaries.proxy(&bed.scratch, &words).env("DOCKER_CONFIG", bed.scratch.path())).unwrap();
    }

    docker.pull(&pushed.reference).unwrap();
    let told = bed.status(&node);
    assert_eq!((bed.lazy(&node), &told["fallbacks"][0]["code"]), (0, &"registry-refused".into()), "{told:#}");
    assert_eq!(docker.run(&pushed.reference).unwrap(), shown());
    run(&mut docker.docker(&["image", "rm", "--force", &pushed.reference])).unwrap();
    let is_gone = || bed.status(&node)["snapshots"].as_array().unwrap().is_empty();
    wait_until("the removal of what was unpacked", LIMIT, is_gone).unwrap();

    fs::copy(&dockers, &daemons).unwrap();
    docker.pull(&other.reference).unwrap();
    assert_eq!(bed.lazy(&node), 3, "{:#}", bed.status(&node));
    assert_eq!(docker.run(&other.reference).unwrap(), shown());
}
