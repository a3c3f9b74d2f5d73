//! Signatures of launch artifacts, as OpenSSL and cosign see them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use common::{Bed, runnable};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, layer};
use jaunt_tests::process::run;
use jaunt_tests::{needs_programs, needs_root};

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
