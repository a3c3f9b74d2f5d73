//! Signing launch artifacts, and asking for signatures.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Layer, Registry, noise, tar};

const REPOSITORY: &str = "team/app";
const PASSWORD: &str = "not a secret";

/// A key of the tests of formats; `cosign.key` is encrypted.
fn key(name: &str) -> String {
    let testdata = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../formats/src/cosign/testdata");
    testdata.join(name).display().to_string()
}

fn pushed() -> Option<(Registry, String)> {
    let registry = Registry::start()?;
    let layer = tar(&[("usr/", b""), ("usr/big", &noise(700_000, 1)), ("usr/new", b"new")]);
    registry.push_image(REPOSITORY, "v1", &[Layer::gzip(&layer)]);
    let reference = registry.reference("team/app:v1");
    Some((registry, reference))
}

/// The signatures of an artifact.
fn signatures(registry: &Registry, artifact: &Value) -> Vec<Value> {
    let tag = format!("sha256-{}.sig", artifact.as_str().unwrap().strip_prefix("sha256:").unwrap());
    registry
        .manifest(REPOSITORY, &tag)
        .map_or_else(Vec::new, |found| found["layers"].as_array().unwrap().clone())
}

#[test]
fn a_conversion_is_signed_and_asked_for() {
    let Some((registry, reference)) = pushed() else { return };
    let (private, public) = (key("pkcs8.pem"), key("public.pem"));
    let convert = ["convert", "--json", "--sign-key", &private, &reference];
    let document = registry.run(&convert).json();
    let artifact = &document["images"][0]["artifact"];
    let [signature] = signatures(&registry, artifact).try_into().unwrap();
    let payload = registry.blob(REPOSITORY, signature["digest"].as_str().unwrap());
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    let host = registry.address();
    assert_eq!(payload["critical"]["identity"]["docker-reference"], format!("{host}/{REPOSITORY}"));
    assert_eq!(payload["critical"]["image"]["docker-manifest-digest"], *artifact);

    let verified = registry.run(&["verify", "--json", "--key", &public, &reference]).json();
    assert!(verified["images"][0]["signed_by"].as_str().unwrap().starts_with("sha256:"));
    let other = key("cosign.pub");
    let refused = registry.run(&["verify", "--key", &other, &reference]);
    assert!(refused.failed().contains("is by none of the trusted keys"), "{refused:?}");
    registry.run(&["verify", "--key", &other, "--key", &public, &reference]).succeeded();

    // Again, what there is is read back, and is not signed a second time.
    let again = registry.run(&["convert", "--sign-key", &private, &reference]);
    let said = &again.succeeded().stdout;
    assert!(said.contains("verified: ") && said.contains("signed already"), "{said}");
    assert_eq!(signatures(&registry, artifact).len(), 1);
}

#[test]
fn an_artifact_is_signed_later_and_by_another_key_too() {
    let Some((registry, reference)) = pushed() else { return };
    let document = registry.run(&["convert", "--json", &reference]).json();
    let artifact = &document["images"][0]["artifact"];
    let unsigned = registry.run(&["verify", "--key", &key("public.pem"), &reference]);
    assert!(unsigned.failed().contains("there is no tag sha256-"), "{unsigned:?}");
    let sec1 = key("sec1.pem");
    let signed = registry.run(&["sign", "--json", "--sign-key", &sec1, &reference]).json();
    assert_eq!(signed["images"][0]["artifact"], *artifact);

    let encrypted = key("cosign.key");
    let arguments = ["sign", "--sign-key", &encrypted, &reference];
    let refused = |password: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"));
        command.args(arguments).env_remove("COSIGN_PASSWORD").stdin(Stdio::null());
        if let Some(text) = password {
            command.env("COSIGN_PASSWORD", text);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(None);
    assert!(code == Some(1) && said.contains("no password was given: set COSIGN_PASSWORD"), "{said}");
    let (code, said) = refused(Some("wrong"));
    assert!(code == Some(1) && said.contains("wrong password") && !said.contains("wrong\n"), "{said}");
    assert_eq!(refused(Some(PASSWORD)).0, Some(0));
    assert_eq!(signatures(&registry, artifact).len(), 2);
    for public in ["public.pem", "cosign.pub"] {
        registry.run(&["verify", "--key", &key(public), &reference]).succeeded();
    }
}

#[test]
fn nothing_is_signed_that_does_not_verify() {
    let Some((registry, reference)) = pushed() else { return };
    let document = registry.run(&["convert", "--json", &reference]).json();
    let blob = registry.blob_file(document["images"][0]["layers"][0]["converted"].as_str().unwrap());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let private = key("pkcs8.pem");
    for command in ["sign", "convert"] {
        registry.run(&[command, "--sign-key", &private, &reference]).failed();
    }
    assert_eq!(signatures(&registry, &document["images"][0]["artifact"]).len(), 0);
}

#[test]
fn a_replaced_image_has_a_signed_artifact() {
    let Some((registry, reference)) = pushed() else { return };
    let (private, public) = (key("pkcs8.pem"), key("public.pem"));
    registry.run(&["convert", "--mode", "replace", "--sign-key", &private, &reference]).succeeded();
    let verified = registry.run(&["verify", "--json", "--key", &public, &reference]).json();
    assert!(verified["images"][0]["signed_by"].is_string());
}

#[test]
fn keys_that_are_none_are_said_so_before_any_work() {
    let Some((registry, reference)) = pushed() else { return };
    let public = key("public.pem");
    let refused = registry.run(&["convert", "--sign-key", &public, &reference]);
    assert!(refused.failed().contains("public.pem: no private key in PEM"), "{refused:?}");
    let missing = registry.run(&["sign", "--sign-key", "/no/such.key", &reference]);
    assert!(missing.failed().contains("/no/such.key: No such file"), "{missing:?}");
    assert!(registry.tags(REPOSITORY).iter().all(|tag| tag == "v1"));
}
