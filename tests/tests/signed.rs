//! Signatures of launch artifacts, as OpenSSL, cosign and nodes see them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use common::{Bed, await_ready, backings, runnable, status};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, layer};
use jaunt_tests::process::run;
use jaunt_tests::{Node, needs_programs, needs_root};

fn key(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../formats/src/cosign/testdata").join(name)
}

/// Converts and signs an image; the reference of its artifact.
fn signed(bed: &Bed) -> (String, Digest) {
    let (_, pushed) = bed.pushed(Image::new().layer(layer(runnable())));
    let private = key("pkcs8.pem").display().to_string();
    let convert = ["convert", "--json", "--sign-key", &private, &pushed.reference];
    let document = run(&mut bed.binaries.proxy(&bed.scratch, &convert)).unwrap();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let artifact = document["images"][0]["artifact"].as_str().unwrap();
    (format!("{}/{}@{artifact}", bed.registry.host(), pushed.repository), artifact.parse().unwrap())
}

#[test]
fn openssl_takes_the_signature() {
    needs_root!();
    needs_programs!("openssl");
    let bed = Bed::new();
    let (_, artifact) = signed(&bed);
    let (manifest, _) = bed.registry.manifest("fixture", &format!("sha256-{}.sig", artifact.hex())).unwrap();
    let layer = &manifest["layers"][0];
    let payload: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
    let signature = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap();
    let dir = bed.scratch.dir("signature").unwrap();
    fs::write(dir.join("payload"), bed.registry.blob("fixture", &payload).unwrap()).unwrap();
    fs::write(dir.join("sig"), base64::engine::general_purpose::STANDARD.decode(signature).unwrap()).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-verify"]).arg(key("public.pem"));
    openssl.arg("-signature").arg(dir.join("sig")).arg(dir.join("payload"));
    assert!(run(&mut openssl).unwrap().contains("Verified OK"));
}

#[test]
fn cosign_verifies_the_artifact() {
    needs_root!();
    needs_programs!("cosign");
    let bed = Bed::new();
    let (reference, artifact) = signed(&bed);
    let verify = |public: &str| {
        let mut cosign = Command::new("cosign");
        // No transparency log knows of a test's signature. The rest of its state is kept in the scratch.
        cosign.env("HOME", bed.scratch.path()).args(["verify", "--insecure-ignore-tlog=true"]);
        cosign
            .args(["--allow-http-registry", "--allow-insecure-registry", "--key"])
            .arg(key(public))
            .arg(&reference)
            .output()
            .unwrap()
    };
    let accepted = verify("public.pem");
    let said = String::from_utf8_lossy(&accepted.stdout).into_owned();
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    assert!(said.contains(&artifact.to_string()), "{said}");
    assert!(!verify("cosign.pub").status.success(), "accepted by another key");
}

/// A configuration by which only what `public` has signed counts.
fn trusting(public: &str) -> String {
    format!("trust = \"keys\"\ntrust_keys = [{:?}]\n", key(public).display().to_string())
}

/// K5: With `trust = "keys"` no layer is called present on the word of an artifact that no trusted key has signed.
#[test]
fn a_node_that_trusts_keys_mounts_what_they_signed_and_unpacks_the_rest() {
    needs_root!();
    let bed = Bed::new();
    let image =
        Image::new().layer(layer(runnable())).command(&["/bin/sh", "-c", "echo ready; exec sleep 600"]);
    let (_, pushed) = bed.converted(image);
    let node =
        || Node::configured(&bed.scratch, &bed.binaries, &[bed.registry.host()], &trusting("public.pem"));

    let unsigned = node().unwrap();
    unsigned.pull(&pushed.reference).unwrap();
    await_ready(&mut unsigned.containerd.run(&pushed.reference).unwrap());
    assert_eq!(backings(&bed, &unsigned), ["eager"]);
    let told = status(&bed, &unsigned);
    assert_eq!(told["fallbacks"][0]["code"], "untrusted-artifact", "{told:#}");
    assert_eq!(told["fallback_counts"]["untrusted-artifact"], 1, "{told:#}");
    let log = unsigned.jaunt.as_ref().unwrap().log();
    assert!(log.contains("launch artifact is refused") && log.contains(&pushed.repository), "{log}");
    unsigned.wipe().unwrap();

    // Signed by somebody else first, by the trusted key then.
    let (other, password) = (key("cosign.key").display().to_string(), "not a secret");
    let sign = |key: &str| {
        let mut command = bed.binaries.proxy(&bed.scratch, &["sign", "--sign-key", key, &pushed.reference]);
        run(command.env("COSIGN_PASSWORD", password)).unwrap();
    };
    sign(&other);
    let strange = node().unwrap();
    strange.pull(&pushed.reference).unwrap();
    assert_eq!(backings(&bed, &strange), ["eager"]);
    strange.wipe().unwrap();
    sign(&key("pkcs8.pem").display().to_string());
    let signed = node().unwrap();
    signed.pull(&pushed.reference).unwrap();
    await_ready(&mut signed.containerd.run(&pushed.reference).unwrap());
    assert_eq!(backings(&bed, &signed), ["lazy"]);
}

#[test]
fn a_key_file_that_is_missing_or_none_is_said_so_when_the_daemon_begins() {
    needs_root!();
    let bed = Bed::new();
    let dir = bed.scratch.dir("refused").unwrap();
    for (key, words) in [("/no/such.pub", "No such file"), ("/etc/hostname", "no public key")] {
        let config = dir.join("snapshotter.toml");
        fs::write(&config, format!("trust = \"keys\"\ntrust_keys = [{key:?}]\n")).unwrap();
        let mut serve = bed.binaries.snapshotter(&bed.scratch, &["serve", "--config"]);
        serve.arg(&config).arg("--root").arg(dir.join("root")).arg("--run-dir").arg(dir.join("run"));
        let output = serve.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(key) && said.contains(words), "{said}");
        assert!(!dir.join("root").exists(), "something was begun");
    }
}
