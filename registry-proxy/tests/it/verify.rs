//! `verify` on conversions that somebody tampered with: what is wrong is told, all of it, and where.

use std::collections::HashMap;

use jaunt_formats::launch::{self, Blob, LaunchIndex, LaunchLayer};
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::zstd_chunked::Annotations;
use jaunt_formats::{BlobOffset, Digest, Entry};
use serde_json::{Value, json};

use crate::support::{Layer, OCI_GZIP, Registry, noise, tar};

const REPOSITORY: &str = "team/app";

/// A converted image of one layer, and what is needed to publish something else in its place.
struct Converted {
    registry: Registry,
    reference: String,
    subject: Digest,
    tar: Vec<u8>,
    layers: Vec<LaunchLayer>,
    /// The artifact's manifest.
    artifact: Value,
}

fn files() -> Vec<u8> {
    tar(&[
        ("bin/", b""),
        ("bin/big", &noise(3_000_000, 1)),
        ("bin/su", b"su"),
        ("etc/", b""),
        ("etc/x", b"x"),
    ])
}

fn converted() -> Option<Converted> {
    let registry = Registry::start()?;
    let tar = files();
    let subject = registry.push_image(REPOSITORY, "v1", &[Layer::gzip(&tar)]);
    let reference = registry.reference("team/app:v1");
    registry.run(&["convert", &reference]).succeeded();
    let artifact = registry.manifest(REPOSITORY, &tag(&subject)).unwrap();
    let packed = registry.blob(REPOSITORY, artifact["layers"][0]["digest"].as_str().unwrap());
    let layers = LaunchIndex::open(launch::unpack(&packed).unwrap()).unwrap().layers().to_vec();
    Some(Converted { registry, reference, subject, tar, layers, artifact })
}

fn tag(subject: &Digest) -> String {
    format!("sha256-{}.jaunt", subject.hex())
}

fn entries(tar: &[u8]) -> Vec<Entry> {
    let (mut scanner, mut entries) = (Scanner::new(), Vec::new());
    let mut take = |event: Event<'_>| {
        if let Event::Member(member) = event {
            entries.push(member.entry);
        }
    };
    scanner.push(tar, &mut take).unwrap();
    scanner.finish().unwrap();
    entries
}

impl Converted {
    /// Publishes an index of these layers and entries.
    fn publish(&mut self, layers: &[LaunchLayer], entries: Vec<Entry>) {
        let mut builder = TreeBuilder::new();
        builder.push_layer(entries).unwrap();
        let index = launch::pack(&launch::write(layers, builder.finish()).unwrap()).unwrap();
        self.artifact["layers"][0]["size"] = index.len().into();
        self.artifact["layers"][0]["digest"] = self.registry.push_blob(REPOSITORY, index).to_string().into();
        self.registry.push_manifest(REPOSITORY, &tag(&self.subject), &self.artifact);
    }

    fn entries_with_mode(&self, modes: &[(&str, u32)]) -> Vec<Entry> {
        let mut entries = entries(&self.tar);
        for (path, mode) in modes {
            let entry = entries.iter_mut().find(|entry| entry.path.as_bytes() == path.as_bytes());
            entry.unwrap().mode = *mode;
        }
        entries
    }

    fn flip(&self, offset: u64) {
        let file = self.registry.blob_file(&self.layers[0].converted.digest.to_string());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[usize::try_from(offset).unwrap()] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }

    /// The findings of `verify`, which must fail with them.
    fn findings(&self, arguments: &[&str]) -> Vec<Value> {
        let run = self.registry.run(&[&["verify", "--json", &self.reference], arguments].concat());
        assert!(run.failed().contains("does not verify"), "{run:?}");
        let document: Value = serde_json::from_str(&run.stdout).unwrap();
        let image = &document["images"][0];
        assert_eq!((&image["verified"], &image["more_findings"]), (&json!(false), &json!(0)), "{run:?}");
        let findings = image["findings"].as_array().unwrap().clone();
        assert!(findings.iter().all(|finding| finding["image"] == json!(self.subject)), "{run:?}");
        findings
    }
}

fn checks(findings: &[Value]) -> Vec<&str> {
    findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect()
}

#[test]
fn a_clean_image_gives_no_finding() {
    let Some(clean) = converted() else { return };
    for arguments in [&[][..], &["--originals"], &["--concurrency", "1"]] {
        let verify = ["verify", "--json", &clean.reference];
        let document = clean.registry.run(&[&verify, arguments].concat()).json();
        assert_eq!(document["images"][0]["verified"], true);
        assert_eq!(document["images"][0]["findings"], json!([]));
    }
}

#[test]
fn a_flipped_byte_is_told_with_its_span_and_offset() {
    let Some(tampered) = converted() else { return };
    let span = tampered.layers[0].spans[2];
    tampered.flip(span.blob_offset.0 + 10);
    let findings = tampered.findings(&[]);
    assert_eq!(checks(&findings), ["span", "blob"], "{findings:#?}");
    assert_eq!(findings[0]["span"], 2);
    assert_eq!(findings[0]["offset"], span.blob_offset.0);
    assert_eq!(findings[0]["layer"], json!(tampered.layers[0].converted.digest));
    assert_eq!(findings[0]["expected"], format!("{:?}", span.digest));
}

#[test]
fn a_setuid_bit_that_no_tar_has_is_told_with_its_path() {
    let Some(mut tampered) = converted() else { return };
    tampered.publish(&tampered.layers.clone(), tampered.entries_with_mode(&[("bin/su", 0o4755)]));
    let findings = tampered.findings(&[]);
    assert_eq!(checks(&findings), ["tree"], "{findings:#?}");
    assert_eq!((&findings[0]["path"], &findings[0]["field"]), (&json!("/bin/su"), &json!("mode")));
    assert_eq!((&findings[0]["expected"], &findings[0]["actual"]), (&json!("0755"), &json!("04755")));
}

#[test]
fn two_faults_give_two_findings() {
    let Some(mut tampered) = converted() else { return };
    let modes = [("bin/su", 0o4755), ("etc/x", 0o777)];
    tampered.publish(&tampered.layers.clone(), tampered.entries_with_mode(&modes));
    let findings = tampered.findings(&[]);
    let mut paths: Vec<_> = findings.iter().map(|finding| finding["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/bin/su", "/etc/x"], "{findings:#?}");
    // The tar is not to be had any more, and the tree is compared with the TOC's entries.
    tampered.flip(tampered.layers[0].spans[0].blob_offset.0 + 10);
    assert_eq!(checks(&tampered.findings(&[])), ["span", "blob", "tree", "tree"]);
}

#[test]
fn paths_that_are_missing_or_too_many_are_told() {
    let Some(mut tampered) = converted() else { return };
    let mut entries = entries(&tampered.tar);
    entries.retain(|entry| entry.path.as_bytes() != b"etc/x");
    let mut added = entries.last().unwrap().clone();
    added.path = jaunt_formats::EntryPath::parse(b"bin/added").unwrap();
    entries.push(Entry { kind: jaunt_formats::EntryKind::Fifo, ..added });
    tampered.publish(&tampered.layers.clone(), entries);
    let findings = tampered.findings(&[]);
    let found = |path: &str| findings.iter().find(|finding| finding["path"] == path).unwrap()["what"].clone();
    assert_eq!(found("/etc/x"), "it is missing in the launch index");
    assert_eq!(found("/bin/added"), "it is in the launch index, and in no tar");
    assert_eq!(findings.len(), 2, "{findings:#?}");
}

#[test]
fn a_span_out_of_place_is_told() {
    let Some(mut tampered) = converted() else { return };
    let mut layers = tampered.layers.clone();
    let span = &mut layers[0].spans[1];
    let expected = span.blob_offset.0;
    span.blob_offset.0 += 1;
    span.compressed_len -= 1;
    tampered.publish(&layers, entries(&tampered.tar));
    let findings = tampered.findings(&[]);
    assert_eq!(checks(&findings), ["span", "span"], "place and digest: {findings:#?}");
    assert_eq!((&findings[0]["span"], &findings[0]["offset"]), (&json!(1), &json!(expected + 1)));
    assert_eq!(findings[0]["expected"], expected.to_string());
}

#[test]
fn a_toc_that_disagrees_with_the_tar_is_told_by_path() {
    let Some(mut tampered) = converted() else { return };
    // The same files, but one: its header is in the TOC and the tar-split of another blob.
    let mut changed = files();
    let header = changed.windows(6).position(|window| window == b"bin/su").unwrap();
    let mut edited = tar::Header::from_byte_slice(&changed[header..header + 512]).clone();
    edited.set_mode(0o4755);
    edited.set_cksum();
    changed[header..header + 512].copy_from_slice(edited.as_bytes());
    tampered.registry.push_image(REPOSITORY, "v2", &[Layer::gzip(&changed)]);
    let other = tampered.registry.digest(REPOSITORY, "v2");
    tampered.registry.run(&["convert", &tampered.registry.reference("team/app:v2")]).succeeded();
    let other = tampered.registry.manifest(REPOSITORY, &tag(&other)).unwrap()["layers"][1].clone();

    let blob_of = |digest: &str| tampered.registry.blob(REPOSITORY, digest);
    let ours = blob_of(&tampered.layers[0].converted.digest.to_string());
    let theirs = blob_of(other["digest"].as_str().unwrap());
    let map: HashMap<String, String> = serde_json::from_value(other["annotations"].clone()).unwrap();
    let mut annotations = Annotations::parse(&map).unwrap().unwrap();
    let ours_end = tampered.layers[0].spans.last().unwrap().blob_range().end;
    let theirs_end = annotations.toc.offset.0 - 8;
    let moved = |at: BlobOffset| BlobOffset(at.0 - theirs_end + ours_end);
    annotations.toc.offset = moved(annotations.toc.offset);
    let tar_split = annotations.tar_split.as_mut().unwrap();
    tar_split.offset = moved(tar_split.offset);
    let split = |at: u64| usize::try_from(at).unwrap();
    let blob = [&ours[..split(ours_end)], &theirs[split(theirs_end)..]].concat();

    let mut layers = tampered.layers.clone();
    layers[0].converted = Blob { len: blob.len() as u64, digest: Digest::of(&blob), ..layers[0].converted };
    let descriptor = &mut tampered.artifact["layers"][1];
    descriptor["size"] = blob.len().into();
    descriptor["digest"] = Digest::of(&blob).to_string().into();
    for (key, value) in annotations.to_map() {
        descriptor["annotations"][key] = value.into();
    }
    tampered.registry.push_blob(REPOSITORY, blob);
    tampered.publish(&layers, entries(&tampered.tar));
    let findings = tampered.findings(&[]);
    let toc = findings.iter().find(|finding| finding["check"] == "toc" && !finding["path"].is_null());
    let toc = toc.unwrap_or_else(|| panic!("{findings:#?}"));
    assert_eq!((&toc["path"], &toc["field"]), (&json!("/bin/su"), &json!("mode")));
    assert_eq!((&toc["expected"], &toc["actual"]), (&json!("0755"), &json!("04755")));
}

#[test]
fn a_seek_table_that_disagrees_with_the_frames_is_told() {
    let Some(tampered) = converted() else { return };
    let blob = tampered.layers[0].converted;
    let bytes = tampered.registry.blob(REPOSITORY, &blob.digest.to_string());
    let frames = jaunt_formats::seekable::footer(&bytes).unwrap().table_len();
    // The decompressed length of the first frame.
    tampered.flip(blob.len - frames + 8 + 4);
    let findings = tampered.findings(&[]);
    assert_eq!(checks(&findings), ["seek-table", "seek-table", "blob"], "{findings:#?}");
    assert_eq!(findings[1]["offset"], 0);
}

#[test]
fn an_artifact_for_another_image_is_told() {
    let Some(mut tampered) = converted() else { return };
    let registry = &tampered.registry;
    registry.push_image(REPOSITORY, "v2", &[Layer::gzip(&tar(&[("other", b"other")]))]);
    let other = registry.digest(REPOSITORY, "v2");
    registry.push_manifest(REPOSITORY, &tag(&other), &tampered.artifact);
    let refused = registry.run(&["verify", &registry.reference("team/app:v2")]);
    assert!(refused.failed().contains("its subject is another image"), "{refused:?}");

    // The subject is right, and all else is of the first image.
    let subject = registry.manifest(REPOSITORY, "v2").unwrap();
    tampered.artifact["subject"]["digest"] = other.to_string().into();
    tampered.artifact["subject"]["size"] = serde_json::to_vec(&subject).unwrap().len().into();
    tampered.registry.push_manifest(REPOSITORY, &tag(&other), &tampered.artifact);
    (tampered.subject, tampered.reference) = (other, tampered.registry.reference("team/app:v2"));
    let findings = tampered.findings(&[]);
    assert_eq!(checks(&findings), ["artifact"; 3], "{findings:#?}");
    assert_eq!(findings[0]["actual"], json!(tampered.layers[0].diff_id.0));
}

#[test]
fn an_artifact_that_our_tag_does_not_name_is_told() {
    let Some(tampered) = converted() else { return };
    tampered.registry.delete_tag(REPOSITORY, &tag(&tampered.subject));
    let findings = tampered.findings(&[]);
    assert_eq!(checks(&findings), ["artifact"], "{findings:#?}");
    assert!(findings[0]["what"].as_str().unwrap().contains("does not name it"));
}

#[test]
fn a_damaged_original_is_found_when_originals_are_read() {
    let Some(tampered) = converted() else { return };
    let original = tampered.registry.blob_file(&tampered.layers[0].original.digest.to_string());
    std::fs::write(original, Layer::gzip(&tar(&[("other", b"other")])).blob).unwrap();
    tampered.registry.run(&["verify", &tampered.reference]).succeeded();
    let findings = tampered.findings(&["--originals"]);
    assert_eq!(checks(&findings), ["original"; 2], "{findings:#?}");
    assert!(findings[1]["expected"].as_str().unwrap().contains(&tampered.layers[0].diff_id.to_string()));
}

#[test]
fn an_original_that_is_not_compressed_as_it_says_is_told() {
    let Some(registry) = Registry::start() else { return };
    let plain = Layer::plain(&tar(&[("f", b"not compressed")]));
    let mislabelled = Layer { media_type: OCI_GZIP, ..plain.clone() };
    let nothing = Layer { blob: Vec::new(), ..Layer::gzip(&[]) };
    let good = [plain, nothing, Layer::gzip(&tar(&[("g", b"g")])), Layer::zstd(&tar(&[("z", b"z")]))];
    for (tag, layers, findings) in [("good", good.to_vec(), 0), ("bad", vec![mislabelled], 1)] {
        registry.push_image(REPOSITORY, tag, &layers);
        let reference = registry.reference(&format!("{REPOSITORY}:{tag}"));
        registry.run(&["convert", &reference]).succeeded();
        registry.run(&["verify", &reference]).succeeded();
        let run = registry.run(&["verify", "--json", "--originals", &reference]);
        let document: Value = serde_json::from_str(&run.stdout).unwrap();
        let found = document["images"][0]["findings"].as_array().unwrap();
        assert_eq!(found.len(), findings, "{found:#?}");
        for finding in found {
            assert_eq!((&finding["expected"], &finding["actual"]), (&json!("gzip"), &json!("none")));
            assert!(finding["what"].as_str().unwrap().contains("by its media type"), "{finding}");
        }
    }
}
