//! Images that keep their digest: pulled by it, signed, and converted when nodes know them already.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Bed, await_ready, backings, noise, runnable, status};
use jaunt_formats::Digest;
use jaunt_formats::cosign::{self, Payload, SigningKey, VerifyingKey, manifest};
use jaunt_formats::media_type::OCI_MANIFEST;
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::needs_root;
use jaunt_tests::process::{run, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

fn image() -> Image {
    let data = layer([dir("data", 0o755), file("data/unread", noise(7, 1 << 20))]);
    let command = ["/bin/sh", "-c", "echo ready; exec sleep 600"];
    Image::new().layer(layer(runnable())).layer(data).command(&command)
}

/// The digests that containerd shows for images whose name begins so.
fn shown(node: &jaunt_tests::Node<'_>, name: &str) -> Vec<String> {
    let table = run(&mut node.containerd.ctr(&["images", "ls"])).unwrap();
    let lines = table.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("sha256:")))
        .map(str::to_owned)
        .collect()
}

/// Signs an image as `cosign sign` does.
fn sign(bed: &Bed, pushed: &Pushed) -> Digest {
    let private = include_bytes!("../../formats/src/cosign/testdata/pkcs8.pem");
    let key = SigningKey::from_pem(private, None).unwrap();
    let payload = Payload::new(&pushed.reference.parse().unwrap(), pushed.digest);
    let added = manifest::add(None, &payload, &key.sign(&payload), &key.verifying_key()).unwrap().unwrap();
    for blob in [&added.payload, &added.config] {
        bed.registry.push_blob(&pushed.repository, blob).unwrap();
    }
    let tag = cosign::tag(&pushed.digest);
    bed.registry.push_manifest(&pushed.repository, &tag, OCI_MANIFEST, &added.manifest).unwrap()
}

/// Whether the image's signature is there, and good for what its tag names now.
fn verify(bed: &Bed, pushed: &Pushed) {
    let public = include_bytes!("../../formats/src/cosign/testdata/public.pem");
    let key = VerifyingKey::from_pem(public).unwrap();
    let (_, now) = bed.registry.manifest(&pushed.repository, "v1").unwrap();
    let (list, _) = bed.registry.manifest(&pushed.repository, &cosign::tag(&now)).unwrap();
    let [listed] = manifest::list(&serde_json::to_vec(&list).unwrap()).unwrap().try_into().unwrap();
    let payload = bed.registry.blob(&pushed.repository, &listed.payload).unwrap();
    cosign::verify(&[key], &now, &payload, &listed.signature).unwrap();
}

#[test]
fn an_image_pulled_by_digest_streams_and_keeps_it() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let node = bed.node();
    let by_digest = format!("{}/{}@{}", bed.registry.host(), pushed.repository, pushed.digest);
    node.pull(&by_digest).unwrap();
    assert_eq!(backings(&bed, &node), ["lazy", "lazy"]);
    assert_eq!(shown(&node, &by_digest), [pushed.digest.to_string()]);
    await_ready(&mut node.containerd.run(&by_digest).unwrap());
}

#[test]
fn a_signed_image_streams_with_digest_and_signature_as_they_were() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(image());
    let signature = sign(&bed, &pushed);
    verify(&bed, &pushed);
    bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
    verify(&bed, &pushed);
    let tag = cosign::tag(&pushed.digest);
    assert_eq!(bed.registry.manifest(&pushed.repository, &tag).unwrap().1, signature);
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &node), ["lazy", "lazy"]);
    let digests = shown(&node, &format!("{}/{}", bed.registry.host(), pushed.repository));
    assert!(
        !digests.is_empty() && digests.iter().all(|shown| *shown == pushed.digest.to_string()),
        "{digests:?}"
    );
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
}

/// Converted when a node has unpacked it already: the next pull there, without those layers, is lazy.
#[test]
fn an_artifact_that_appears_later_is_used_by_the_next_pull() {
    needs_root!();
    let bed = Bed::new();
    let (_, pushed) = bed.pushed(image());
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &node), ["eager", "eager"]);
    assert_eq!(status(&bed, &node)["fallback_counts"]["no-launch-artifact"], 2);
    bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap();
    // What is there stays as it is.
    node.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &node), ["eager", "eager"]);
    // That there was none is remembered for seconds.
    wait_until("a lazy pull", LIMIT, || {
        node.containerd.remove_images().unwrap();
        node.pull(&pushed.reference).unwrap();
        backings(&bed, &node) == ["lazy", "lazy"]
    })
    .unwrap();
    await_ready(&mut node.containerd.run(&pushed.reference).unwrap());
}
