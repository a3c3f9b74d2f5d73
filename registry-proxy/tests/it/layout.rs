//! OCI layouts on disk: converted where they are, filled from registries, read and written by skopeo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, noise, run, tar};

/// A layout made by hand, and removed at the end.
struct Layout {
    directory: tempfile::TempDir,
}

impl Layout {
    /// One with an image `v1`.
    fn with_image(layers: &[Layer]) -> Self {
        let layout = Self::empty();
        let manifest = layout.image(layers);
        layout.list(&manifest, json!({ "org.opencontainers.image.ref.name": "v1" }));
        layout
    }

    fn empty() -> Self {
        let layout = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(layout.path("blobs/sha256")).unwrap();
        fs::write(layout.path("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        layout
    }

    /// A directory that is no layout yet.
    fn missing() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("sub").join(name)
    }

    fn name(&self, rest: &str) -> String {
        format!("oci:{}{rest}", self.directory.path().join("sub").display())
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.blob(&digest), bytes).unwrap();
        digest
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    fn image(&self, layers: &[Layer]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let describe = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": self.put(bytes), "size": bytes.len() });
        let layers: Vec<_> = layers.iter().map(|layer| describe(layer.media_type, &layer.blob)).collect();
        let config =
            describe("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config).unwrap());
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers })
    }

    fn list(&self, manifest: &Value, annotations: Value) -> Digest {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = self.put(&bytes);
        let mut index = self.index();
        let entry = json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(), "annotations": annotations });
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(self.path("index.json"), index.to_string()).unwrap();
        digest
    }

    fn index(&self) -> Value {
        match fs::read(self.path("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }),
        }
    }

    fn tags(&self) -> Vec<String> {
        let index = self.index();
        let names = index["manifests"].as_array().unwrap().iter();
        let names = names.map(|entry| {
            entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or("").to_owned()
        });
        names.collect()
    }

    /// The files that are no part of a layout.
    fn litter(&self) -> Vec<String> {
        let names = fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| {
                !["oci-layout", "index.json", "blobs", ".jaunt-lock", ".jaunt-writers"]
                    .contains(&name.as_str())
            })
            .collect()
    }
}

fn layers() -> Vec<Layer> {
    let base = tar(&[("usr/", b""), ("usr/big", &noise(1_500_000, 1)), ("usr/old", b"old")]);
    let top = tar(&[("usr/", b""), ("usr/.wh.old", b""), ("usr/new", &b"new ".repeat(9_000))]);
    vec![Layer::gzip(&base), Layer::zstd(&top), Layer::plain(&base)]
}

/// Runs skopeo, if it is installed.
fn skopeo(arguments: &[&str]) -> Option<Value> {
    if !Path::new("/usr/bin/skopeo").exists() {
        eprintln!("skipped: skopeo is not installed");
        return None;
    }
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[test]
fn an_image_is_converted_where_it_lies() {
    let layout = Layout::with_image(&layers());
    for name in [layout.name(":v1"), layout.name("")] {
        let converted = run(&["convert", "--json", &name]).json();
        assert_eq!(converted["reference"], name);
        run(&["verify", &name]).succeeded();
        assert!(run(&["inspect", &name]).succeeded().stdout.contains("zstd:chunked"));
        assert!(run(&["convert", &name]).succeeded().stdout.contains("already converted"));
    }
    let subject = layout.index()["manifests"][0]["digest"].as_str().unwrap().replace(':', "-");
    assert_eq!(layout.tags(), ["v1", &format!("{subject}.jaunt")], "no fallback tag: the list is the index");
    assert_eq!(layout.index()["manifests"][1]["artifactType"], "application/vnd.jaunt.launch.v1");
    assert!(layout.litter().is_empty(), "{:?}", layout.litter());
    // Without our own tag it is found by its subject, and verify says so.
    let mut index = layout.index();
    index["manifests"][1].as_object_mut().unwrap().remove("annotations");
    fs::write(layout.path("index.json"), index.to_string()).unwrap();
    let untagged = run(&["verify", &layout.name(":v1")]);
    assert!(untagged.failed().contains(".jaunt does not name it") && untagged.stderr.contains("1 finding"));
    assert!(run(&["convert", &layout.name(":v1")]).succeeded().stdout.contains("already converted"));
    run(&["verify", &layout.name(":v1")]).succeeded();
    assert_eq!(layout.tags(), ["v1", &format!("{subject}.jaunt")]);
}

#[test]
fn an_image_is_replaced_where_it_lies_and_skopeo_reads_it() {
    let layout = Layout::with_image(&layers());
    let subject = layout.index()["manifests"][0]["digest"].as_str().unwrap().replace(':', "-");
    run(&["convert", "--mode", "replace", &layout.name("")]).succeeded();
    run(&["verify", &layout.name(":v1")]).succeeded();
    let tags = layout.tags();
    assert_eq!((tags[0].as_str(), tags.len()), ("v1", 4), "{tags:?}");
    assert!(tags.contains(&format!("{subject}.original")));
    let target = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", target.path().display());
    // Decompressing, skopeo checks every layer against its digest and its diffID.
    for tag in ["v1".to_owned(), format!("{subject}.original")] {
        skopeo(&["copy", "--dest-decompress", &layout.name(&format!(":{tag}")), &target]);
    }
}

#[test]
fn images_go_from_a_registry_to_a_layout_and_back() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("team/app", "v1", &layers());
    let (from, layout, back) =
        (registry.reference("team/app:v1"), Layout::missing(), registry.reference("back/app:v1"));
    for mode in ["attach", "replace"] {
        run(&["convert", "--mode", mode, "--to", &layout.name(&format!(":{mode}")), &from]).succeeded();
        run(&["verify", &layout.name(&format!(":{mode}"))]).succeeded();
    }
    assert!(layout.litter().is_empty(), "{:?}", layout.litter());
    run(&["convert", "--to", &back, &layout.name(":attach")]).succeeded();
    run(&["verify", &back]).succeeded();
    assert_eq!(registry.manifest("back/app", "v1"), registry.manifest("team/app", "v1"));
    // From layout to layout, named by digest.
    let digest = layout.index()["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let other = Layout::missing();
    run(&["convert", "--to", &other.name(""), &layout.name(&format!("@{digest}"))]).succeeded();
    assert!(other.tags().contains(&"latest".to_owned()));
    run(&["verify", &other.name("")]).succeeded();
}

#[test]
fn skopeo_reads_what_was_written_and_its_layouts_are_read() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("team/app", "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let source = format!("docker://{reference}");
    let (ours, theirs, named) = (Layout::missing(), Layout::missing(), Layout::missing());
    run(&["convert", "--to", &ours.name(":v1"), &reference]).succeeded();
    let Some(inspected) = skopeo(&["inspect", "--raw", &ours.name(":v1")]) else { return };
    assert_eq!(Some(inspected), registry.manifest("team/app", "v1"));
    let target = format!("docker://{}", registry.reference("skopeo/app:v1"));
    skopeo(&["copy", "--preserve-digests", "--dest-tls-verify=false", &ours.name(":v1"), &target]);
    assert_eq!(registry.manifest("skopeo/app", "v1"), registry.manifest("team/app", "v1"));

    skopeo(&["copy", "--src-tls-verify=false", &source, &theirs.name("")]);
    skopeo(&["copy", "--src-tls-verify=false", &source, &named.name(":registry.example/team/app:v1")]);
    for name in [theirs.name(""), named.name(""), named.name(":registry.example/team/app:v1")] {
        run(&["convert", &name]).succeeded();
        run(&["verify", &name]).succeeded();
    }
    // An image that had no name has one now: without, skopeo could not tell it from the artifact.
    assert_eq!(theirs.tags()[0], "latest");
    skopeo(&["inspect", "--raw", &theirs.name(":latest")]);
    // What skopeo adds stays, what is there stays.
    skopeo(&["copy", "--src-tls-verify=false", &source, &ours.name(":v2")]);
    assert_eq!(ours.tags().len(), 3);
    run(&["verify", &ours.name(":v1")]).succeeded();
    run(&["verify", &ours.name(":v2")]).succeeded();
}

#[test]
fn runs_at_the_same_time_lose_nothing_of_each_other() {
    let layout = Layout::empty();
    let tags: Vec<_> = (0..6).map(|number| format!("v{number}")).collect();
    for tag in &tags {
        let manifest = layout.image(&[Layer::gzip(&tar(&[(tag, tag.as_bytes())]))]);
        layout.list(&manifest, json!({ "org.opencontainers.image.ref.name": tag }));
    }
    let names: Vec<_> = tags.iter().map(|tag| layout.name(&format!(":{tag}"))).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| run(&["convert", "--mode", "replace", name]).succeeded().code);
        }
    });
    names.iter().for_each(|name| assert!(run(&["verify", name]).code == Some(0), "{name}"));
    assert_eq!(layout.tags().len(), 4 * tags.len(), "image, original and the artifacts of both");
    assert!(layout.litter().is_empty(), "{:?}", layout.litter());
}

#[test]
fn what_is_wrong_with_a_layout_is_said_and_nothing_is_lost() {
    let layout = Layout::with_image(&layers());
    let (v1, index) = (layout.name(":v1"), layout.index().to_string());
    for (broken, complaint) in [
        ("{", "index.json"),
        ("[]", "no object"),
        (r#"{"manifests": 3}"#, "no list"),
        ("{}", "has no manifest v1"),
    ] {
        fs::write(layout.path("index.json"), broken).unwrap();
        let failed = run(&["convert", &v1]);
        assert!(failed.failed().contains(complaint), "{broken}: {failed:?}");
        assert_eq!(fs::read_to_string(layout.path("index.json")).unwrap(), broken);
    }
    fs::write(layout.path("index.json"), &index).unwrap();
    assert!(run(&["convert", &layout.name(":v2")]).failed().contains("it has no manifest v2"));
    assert!(run(&["inspect", "oci:/nowhere/at/all"]).failed().contains("no OCI layout"));

    // A blob that was tampered with, under a name that is not its digest.
    let layer = Digest::of(&layers()[2].blob);
    fs::write(layout.blob(&layer), layers()[0].blob.clone()).unwrap();
    assert!(run(&["convert", &v1]).failed().contains(&format!("layer {layer}: the blob has digest")));
    fs::remove_file(layout.blob(&layer)).unwrap();
    assert!(run(&["convert", &v1]).failed().contains(&format!("has no blob {layer}")));
    assert!(layout.litter().is_empty(), "{:?}", layout.litter());
    let (names, kept) = (layout.tags(), |tag: &String| tag.ends_with(".jaunt-partial"));
    assert_eq!(names.iter().filter(|tag| !kept(tag)).collect::<Vec<_>>(), ["v1"], "{names:?}");

    let precious = tempfile::tempdir().unwrap();
    fs::write(precious.path().join("thesis"), "x").unwrap();
    fs::write(layout.blob(&layer), layers()[2].blob.clone()).unwrap();
    let target = format!("oci:{}", precious.path().display());
    assert!(run(&["convert", "--to", &target, &v1]).failed().contains("not empty"));
    assert_eq!(fs::read_dir(precious.path()).unwrap().count(), 1);
}

#[test]
fn a_full_disk_ends_a_run_and_breaks_nothing() {
    let layout = Layout::with_image(&layers());
    let mount = tempfile::tempdir().unwrap();
    let small = mount.path().display();
    // A file system of 1 MB, visible to this command alone.
    let script = format!(
        "mount -t tmpfs -o size=1m jaunt {small} && mkdir {small}/l && \
         {program} convert --to oci:{small}/l:v1 {from}; echo code $?; find {small}/l -type f",
        program = env!("CARGO_BIN_EXE_jaunt-proxy"),
        from = layout.name(":v1"),
    );
    let output =
        Command::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", &script]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !stdout.contains("code ") {
        eprintln!("skipped: no file system can be mounted here: {stderr}");
        return;
    }
    assert!(stdout.contains("code 1") && stderr.contains("No space left"), "{stdout}{stderr}");
    assert!(!stdout.contains(".jaunt-upload") && !stdout.contains("index.json"), "{stdout}");
}

#[test]
fn a_manifest_that_does_not_say_what_it_is_shows_it() {
    let layout = Layout::empty();
    let named = |name: &str| json!({ "org.opencontainers.image.ref.name": name });
    let mut image = layout.image(&layers());
    image.as_object_mut().unwrap().remove("mediaType");
    let digest = layout.list(&image, named("image"));
    let size = serde_json::to_vec(&image).unwrap().len();
    let index = json!({ "schemaVersion": 2, "manifests": [{ "digest": digest, "size": size }] });
    layout.list(&index, named("index"));
    let mut both = image.clone();
    both["manifests"] = index["manifests"].clone();
    layout.list(&both, named("both"));
    let schema1 = json!({ "schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [] });
    layout.list(&schema1, named("schema1"));
    layout.list(&json!([1]), named("list"));
    let mut listed = layout.index();
    for entry in listed["manifests"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().remove("mediaType");
    }
    fs::write(layout.path("index.json"), listed.to_string()).unwrap();
    for tag in ["image", "index"] {
        let name = layout.name(&format!(":{tag}"));
        run(&["convert", "--mode", "replace", &name]).succeeded();
        run(&["verify", &name]).succeeded();
    }
    for (tag, complaint) in
        [("both", "is no image"), ("schema1", "Docker's schema 1"), ("list", "is no image")]
    {
        let failed = run(&["convert", &layout.name(&format!(":{tag}"))]);
        assert!(failed.failed().contains(complaint), "{tag}: {failed:?}");
    }
}

#[test]
fn in_a_layout_too_what_was_done_is_undone() {
    let layout = Layout::with_image(&layers());
    let name = layout.name(":v1");
    let files = || {
        let entries = fs::read_dir(layout.path("blobs/sha256")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        files
    };
    let (index, blobs) = (layout.index(), files());
    run(&["convert", &name]).succeeded();
    let once = files().len();
    run(&["convert", "--level", "9", &name]).succeeded();
    assert!(once > blobs.len() && files().len() == once, "the conversion before is gone");
    let detached = run(&["detach", "--json", &name]).json();
    assert!(detached["freed_bytes"].as_u64().unwrap() > 1_000_000, "{detached}");
    assert_eq!((layout.index(), files()), (index.clone(), blobs), "as if nothing had been");
    assert!(run(&["detach", &name]).succeeded().stdout.contains("not converted"));

    run(&["convert", "--mode", "replace", &name]).succeeded();
    assert!(run(&["detach", &name]).failed().contains("replaced in place"));
    run(&["revert", &name]).succeeded();
    assert!(run(&["revert", &name]).succeeded().stdout.contains("already reverted"));
    assert_eq!(layout.index()["manifests"][0], index["manifests"][0]);
    // The replacement's artifact still names the converted layers: they stay.
    let kept = files();
    run(&["detach", &name]).succeeded();
    assert_eq!(files().len(), kept.len() - 1, "the artifact's manifest alone");
}

#[test]
fn nothing_is_removed_from_a_layout_that_others_write_to() {
    let layout = Layout::with_image(&layers());
    let name = layout.name(":v1");
    run(&["convert", &name]).succeeded();
    let writer = fs::OpenOptions::new().append(true).open(layout.path(".jaunt-writers")).unwrap();
    writer.lock_shared().unwrap();
    let blobs = || fs::read_dir(layout.path("blobs/sha256")).unwrap().count();
    let before = blobs();
    let detached = run(&["detach", "--json", &name]).json();
    assert_eq!((&detached["freed_bytes"], blobs()), (&Value::Null, before));
    assert_eq!(layout.tags(), ["v1"]);
}

#[test]
fn a_killed_run_leaves_a_layout_that_is_whole() {
    let layout = Layout::with_image(&layers());
    let name = layout.name(":v1");
    let original = layout.index()["manifests"][0]["digest"].clone();
    for pause in (0..600).step_by(20) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"))
            .args(["convert", "--mode", "replace", &name])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = layout.index()["manifests"][0]["digest"].clone();
        if now != original {
            break;
        }
    }
    run(&["convert", "--mode", "replace", &name]).succeeded();
    run(&["verify", &name]).succeeded();
    run(&["revert", &name]).succeeded();
    assert_eq!(layout.index()["manifests"][0]["digest"], original);
    run(&["verify", &name]).succeeded();
    assert!(layout.litter().is_empty(), "{:?}", layout.litter());
}
