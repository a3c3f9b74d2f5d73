//! Who else can read what a conversion leaves behind: zstd, both readers of its seekable format, containerd
//! without our snapshotter, skopeo and buildah.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{Bed, await_ready, everything, noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::buildah::Buildah;
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::process::run;
use jaunt_tests::{Node, needs_programs, needs_root, skopeo};
use serde_json::Value;
use zeekstd::{BytesWrapper, DecodeOptions};

/// Two gzip layers, the upper one of several spans, whose content a container shows.
fn gzipped() -> Image {
    let data = [dir("data", 0o755), file("data/noise", noise(3, 3 << 20)), file("data/small", "small\n")];
    Image::new().layer(layer(runnable())).layer(layer(data)).command(&[
        "/bin/sh",
        "-ec",
        "sha256sum /data/noise; cat /data/small; echo ready; exec sleep 600",
    ])
}

fn replace(bed: &Bed, pushed: &Pushed) {
    run(&mut bed.binaries.proxy(&bed.scratch, &["convert", "--mode", "replace", &pushed.reference])).unwrap();
}

/// The converted layers of an image that was attached to, each with the diffID it stands for.
fn converted(bed: &Bed, pushed: &Pushed) -> Vec<(Vec<u8>, Digest)> {
    let artifact = bed.artifact(pushed);
    let layers = artifact["layers"].as_array().unwrap().iter();
    let layers = layers.filter(|layer| layer["annotations"]["dev.jaunt.diff-id"].is_string());
    let parse = |value: &Value| value.as_str().unwrap().parse::<Digest>().unwrap();
    layers
        .map(|layer| {
            let blob = bed.registry.blob(&pushed.repository, &parse(&layer["digest"])).unwrap();
            (blob, parse(&layer["annotations"]["dev.jaunt.diff-id"]))
        })
        .collect()
}

fn zstd_d(blob: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("zstd").arg("-dcq").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, blob) = (child.stdin.take().unwrap(), blob.to_vec());
    let feeder = std::thread::spawn(move || stdin.write_all(&blob));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn manifest_digest(bed: &Bed, repository: &str, name: &str) -> Digest {
    bed.registry.manifest(repository, name).unwrap().1
}

#[test]
fn zstd_d_gives_every_tar_bit_for_bit() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(everything());
    let layers = converted(&bed, &pushed);
    assert_eq!(layers.len(), image.layers.len());
    for ((blob, stated), built) in layers.iter().zip(&image.layers) {
        assert_eq!(*stated, built.diff_id.0);
        assert_eq!(Digest::of(&zstd_d(blob)), built.diff_id.0);
    }
}

#[test]
fn readers_of_the_seekable_format_read_at_random() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(everything());
    for (blob, _) in converted(&bed, &pushed) {
        let tar = zstd_d(&blob);
        let mut libzstd = zstd_safe::seekable::Seekable::create();
        libzstd.init_buff(&blob).unwrap();
        let mut zeekstd = DecodeOptions::new(BytesWrapper::new(&blob)).into_decoder().unwrap();
        assert_eq!(zeekstd.seek_table().size_decomp(), tar.len() as u64);
        // Anywhere, in any order, over the edges of frames.
        for step in 1..40_u64 {
            let start = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % tar.len() as u64;
            let len = (step * 20_011).min(tar.len() as u64 - start);
            let expected = &tar[usize::try_from(start).unwrap()..][..usize::try_from(len).unwrap()];
            let mut part = vec![0; expected.len()];
            let mut done = 0;
            while done < part.len() {
                done += libzstd.decompress(&mut part[done..], start + done as u64).unwrap();
            }
            assert!(part == expected, "libzstd at {start}");
            part.fill(0);
            zeekstd.reset();
            zeekstd.set_offset(start).unwrap();
            zeekstd.set_offset_limit(start + len).unwrap();
            let mut done = 0;
            while done < part.len() {
                done += zeekstd.decompress(&mut part[done..]).unwrap();
            }
            assert!(part == expected, "zeekstd at {start}");
        }
    }
}

/// As it was before: the same manifest under the tag, its own blobs, and nothing of ours.
#[test]
fn a_reader_that_knows_gzip_alone_still_pulls_the_original() {
    needs_root!();
    let bed = Bed::new();
    let (image, pushed) = bed.converted(gzipped());
    assert_eq!(manifest_digest(&bed, "fixture", "v1"), pushed.digest);
    let node = Node::overlayfs(&bed.scratch, &[bed.registry.host()]).unwrap();
    node.pull(&pushed.reference).unwrap();
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
    let fetched = run(&mut node.containerd.ctr(&["content", "ls", "--quiet"])).unwrap();
    for layer in &image.layers {
        assert!(layer.media_type.ends_with("+gzip"), "{}", layer.media_type);
        assert!(fetched.contains(&Digest::of(&layer.bytes).to_string()), "{fetched}");
    }
    for (blob, _) in converted(&bed, &pushed) {
        assert!(!fetched.contains(&Digest::of(&blob).to_string()), "{fetched}");
    }
}

/// With whatever containerd is there; with 1.7 and 2.1 in `make test-matrix`.
#[test]
fn containerd_unpacks_and_runs_a_replaced_image() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(gzipped());
    replace(&bed, &pushed);
    assert_ne!(manifest_digest(&bed, "fixture", "v1"), pushed.digest);
    let node = Node::overlayfs(&bed.scratch, &[bed.registry.host()]).unwrap();
    node.pull(&pushed.reference).unwrap();
    let mut container = node.containerd.run(&pushed.reference).unwrap();
    await_ready(&mut container);
    assert!(container.said().starts_with(&Digest::of(&noise(3, 3 << 20)).hex()), "{}", container.said());
}

#[test]
fn skopeo_inspects_and_copies_an_image_and_its_artifact() {
    needs_root!();
    needs_programs!("skopeo");
    let bed = Bed::new();
    let (_, pushed) = bed.converted(gzipped());
    let said: Value =
        serde_json::from_str(&skopeo::inspect(&bed.scratch, &pushed.reference).unwrap()).unwrap();
    assert_eq!(said["Digest"], pushed.digest.to_string());
    assert!(said["RepoTags"].as_array().unwrap().contains(&"v1".into()), "{said}");
    for tag in ["v1".to_owned(), format!("sha256-{}.jaunt", pushed.digest.hex())] {
        let reference = |repository: &str| format!("{}/{repository}:{tag}", bed.registry.host());
        skopeo::copy_image(&bed.scratch, &reference("fixture"), &reference("copy")).unwrap();
        assert_eq!(manifest_digest(&bed, "copy", &tag), manifest_digest(&bed, "fixture", &tag), "{tag}");
    }
    let verified =
        bed.binaries.proxy(&bed.scratch, &["verify", &format!("{}/copy:v1", bed.registry.host())]).output();
    assert!(verified.unwrap().status.success(), "the copy is as lazily readable as the original");
}

#[test]
fn skopeo_unpacks_a_replaced_image() {
    needs_root!();
    needs_programs!("skopeo");
    let bed = Bed::new();
    let (image, pushed) = bed.pushed(gzipped());
    replace(&bed, &pushed);
    // Recompressed on the way: skopeo has read every byte.
    let layout = bed.scratch.path().join("unpacked");
    let source = format!("docker://{}", pushed.reference);
    let target = format!("dir:{}", layout.display());
    let words = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-decompress"];
    run(bed.scratch.command("skopeo").args(words).args([&source, &target])).unwrap();
    for layer in &image.layers {
        let tar = layout.join(layer.diff_id.0.hex());
        assert_eq!(Digest::of(&std::fs::read(&tar).unwrap()), layer.diff_id.0, "{}", tar.display());
    }
}

#[test]
fn buildah_builds_on_a_replaced_image() {
    needs_root!();
    needs_programs!("buildah");
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(gzipped());
    replace(&bed, &pushed);
    let buildah = Buildah::new(&bed.scratch).unwrap();
    let container = buildah.run_trusting(&["from", "--tls-verify=false", &pushed.reference]).unwrap();
    let container = container.trim();
    let root = buildah.run(&["mount", container]).unwrap();
    assert!(std::fs::read(format!("{}/data/noise", root.trim())).unwrap() == noise(3, 3 << 20));
    buildah.run(&["umount", container]).unwrap();
    buildah.run(&["rm", container]).unwrap();
}
