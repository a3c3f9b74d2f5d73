//! Artifacts that must be signed by a key that is trusted: every way not to be.

use jaunt_formats::Digest;
use jaunt_formats::cosign::manifest::{self, Existing};
use jaunt_formats::cosign::{self, Payload, SigningKey, VerifyingKey};
use jaunt_snapshotter::fallback::FallbackCode;
use jaunt_snapshotter::trust::{Trust, Trusted};
use serde_json::{Value, json};

use crate::Node;
use crate::registry::{Image, Registry};

macro_rules! key {
    ($name:literal) => {
        include_bytes!(concat!("../../../formats/src/cosign/testdata/", $name))
    };
}

fn private() -> SigningKey {
    SigningKey::from_pem(key!("pkcs8.pem"), None).unwrap()
}

fn other() -> SigningKey {
    SigningKey::from_pem(key!("cosign.key"), Some(b"not a secret")).unwrap()
}

fn keys(of: &[&SigningKey]) -> Trusted {
    Trusted::Keys(of.iter().map(|key| key.verifying_key()).collect::<Vec<VerifyingKey>>())
}

/// A node that trusts the one key.
fn strict() -> Node {
    Node::trusting(Trust::new(keys(&[&private()]), Vec::new()))
}

fn digest_of(artifact: &Value) -> Digest {
    Digest::of(artifact.to_string().as_bytes())
}

/// What is pushed when `signer` signs `document` and says that it is a signature of `artifact`.
async fn put_signature(registry: &Registry, artifact: Digest, signer: &SigningKey, document: Digest) {
    let payload = Payload::with_identity("r.example/team/app", document);
    let none: Option<Existing<'_>> = None;
    let added = manifest::add(none, &payload, &signer.sign(&payload), &signer.verifying_key());
    let added = added.unwrap().unwrap();
    registry.put_blob(&added.payload).await;
    let list: Value = serde_json::from_slice(&added.manifest).unwrap();
    registry.put_manifest(&cosign::tag(&artifact), &list).await;
}

#[tokio::test]
async fn a_signed_artifact_is_believed_and_known_after_a_restart_without_its_signature() {
    let registry = Registry::start().await;
    let image = Image::new(2);
    registry.put_tagged(&image).await;
    let artifact = digest_of(&image.artifact);
    put_signature(&registry, artifact, &private(), artifact).await;
    let mut node = strict();
    let layer = image.layer(&registry, 2);
    let found = node.layer(&layer).await.map_err(|fallback| fallback.detail).unwrap();
    assert_eq!((found.index, found.prefix), (image.index, 2));
    // What was learnt stays, though the signature, or all of it, is deleted.
    registry.clear().await;
    node.forget_what_is_in_memory();
    assert!(node.layer(&layer).await.is_ok());
    assert_eq!(registry.requests_for("").await, 0);
}

#[tokio::test]
async fn what_is_not_signed_by_a_trusted_key_is_refused() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    let layer = image.layer(&registry, 1);
    let refused = strict().layer(&layer).await.err().unwrap();
    assert_eq!(refused.code, FallbackCode::UntrustedArtifact);
    let artifact = digest_of(&image.artifact);
    for word in [&artifact.to_string(), &registry.repository(), "there is no tag"] {
        assert!(refused.detail.contains(word), "{}", refused.detail);
    }
    put_signature(&registry, artifact, &other(), artifact).await;
    let refused = strict().layer(&layer).await.err().unwrap();
    assert_eq!(refused.code, FallbackCode::UntrustedArtifact);
    assert!(refused.detail.contains("none of the trusted keys"), "{}", refused.detail);
    let both = Node::trusting(Trust::new(keys(&[&private(), &other()]), Vec::new()));
    assert!(both.layer(&layer).await.is_ok());
}

#[tokio::test]
async fn a_signature_of_another_artifact_is_refused() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    put_signature(&registry, digest_of(&image.artifact), &private(), Digest::of(b"another")).await;
    let refused = strict().layer(&image.layer(&registry, 1)).await.err().unwrap();
    assert_eq!(refused.code, FallbackCode::UntrustedArtifact);
    assert!(refused.detail.contains("not for"), "{}", refused.detail);
}

#[tokio::test]
async fn signatures_that_are_garbage_or_too_long_are_refused() {
    let list = |bytes: usize| {
        json!({"schemaVersion": 2, "config": {"mediaType": "a", "digest": Digest::of(b"x"), "size": 1},
            "layers": [], "padding": "x".repeat(bytes)})
    };
    for (garbage, words) in [
        (json!(["no manifest"]), "malformed"),
        (json!({"layers": {}}), "malformed"),
        (list(1), "lists no signature"),
        (list(5 << 20), "limit"),
    ] {
        let registry = Registry::start().await;
        let image = Image::new(1);
        registry.put_tagged(&image).await;
        registry.put_manifest(&cosign::tag(&digest_of(&image.artifact)), &garbage).await;
        let refused = strict().layer(&image.layer(&registry, 1)).await.err().unwrap();
        assert_eq!(refused.code, FallbackCode::UntrustedArtifact, "{}", refused.detail);
        assert!(refused.detail.contains(words), "{words}: {}", refused.detail);
    }
}

#[tokio::test]
async fn a_signed_document_that_is_gone_or_damaged_is_refused() {
    for damage in ["", "{\"critical\": {}}"] {
        let registry = Registry::start().await;
        let image = Image::new(1);
        registry.put_tagged(&image).await;
        let artifact = digest_of(&image.artifact);
        let payload = Payload::with_identity("r.example/a", artifact);
        let none: Option<Existing<'_>> = None;
        let added = manifest::add(none, &payload, &private().sign(&payload), &private().verifying_key());
        let added = added.unwrap().unwrap();
        if !damage.is_empty() {
            registry.put_blob_as(&Digest::of(&added.payload), damage.as_bytes()).await;
        }
        let list: Value = serde_json::from_slice(&added.manifest).unwrap();
        registry.put_manifest(&cosign::tag(&artifact), &list).await;
        let code = strict().code(&image.layer(&registry, 1)).await;
        assert_eq!(code, FallbackCode::UntrustedArtifact, "{damage:?}");
    }
}

/// Converted several times, the last by somebody else.
#[tokio::test]
async fn the_newest_artifact_that_is_signed_wins() {
    let registry = Registry::start().await;
    let (image, newer, newest) =
        (Image::made_on("2026-01-01"), Image::made_on("2026-02-02"), Image::made_on("2026-03-03"));
    // Ours has the tag no more; of the signed ones the later counts.
    let unsigned = Image::made_on("2026-04-04");
    registry.put_tagged(&unsigned).await;
    registry.put_referrers(&[&image, &newer, &newest, &unsigned]).await;
    for signed in [&image, &newer, &newest] {
        let artifact = digest_of(&signed.artifact);
        put_signature(&registry, artifact, &private(), artifact).await;
    }
    let node = strict();
    let found = node.layer(&image.layer(&registry, 1)).await.map_err(|fallback| fallback.detail).unwrap();
    assert_eq!(found.index, newest.index);
    assert_ne!(newest.index, newer.index);
    // Who trusts the registry takes what has the tag.
    let found = Node::new().layer(&image.layer(&registry, 1)).await.map_err(|f| f.detail).unwrap();
    assert_eq!(found.index, unsigned.index);
}

#[tokio::test]
async fn a_stricter_policy_forgets_what_was_learnt_without_a_signature() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    let layer = image.layer(&registry, 1);
    let mut node = Node::new();
    assert!(node.layer(&layer).await.is_ok());
    node.trust = Trust::new(keys(&[&private()]), Vec::new());
    node.forget_what_is_in_memory();
    assert_eq!(node.code(&layer).await, FallbackCode::UntrustedArtifact);
    let artifact = digest_of(&image.artifact);
    put_signature(&registry, artifact, &private(), artifact).await;
    node.forget_what_is_in_memory();
    assert!(node.layer(&layer).await.is_ok());
    // And a key that is withdrawn takes with it what was believed on its word.
    node.trust = Trust::new(keys(&[&other()]), Vec::new());
    node.forget_what_is_in_memory();
    assert_eq!(node.code(&layer).await, FallbackCode::UntrustedArtifact);
}

#[tokio::test]
async fn a_policy_holds_for_its_repositories_alone() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    let layer = image.layer(&registry, 1);
    let rule = |prefix: String| vec![(prefix, keys(&[&private()]))];
    let elsewhere = Trust::new(Trusted::Registry, rule("other.example".to_owned()));
    assert!(Node::trusting(elsewhere).layer(&layer).await.is_ok());
    let here = Trust::new(Trusted::Registry, rule(registry.repository()));
    assert_eq!(Node::trusting(here).code(&layer).await, FallbackCode::UntrustedArtifact);
}

#[tokio::test]
async fn a_registry_that_keeps_the_signature_to_itself_is_said_to_be_at_fault() {
    let registry = Registry::start().await;
    let image = Image::new(1);
    registry.put_tagged(&image).await;
    registry.refuse_manifest(&cosign::tag(&digest_of(&image.artifact)), 500).await;
    assert_eq!(strict().code(&image.layer(&registry, 1)).await, FallbackCode::RegistryError);
}

/// Nobody but the image's own manifest has a say in it: what it covers needs no further signature.
#[tokio::test]
async fn an_image_that_is_lazy_as_it_is_needs_no_signature() {
    let registry = Registry::start().await;
    let mut node = strict();
    let layers = crate::foreign::Chunked::new().put(&registry).await;
    let layer = &layers[1];
    let found = node.layer(layer).await.map_err(|fallback| fallback.detail).unwrap();
    registry.clear().await;
    node.forget_what_is_in_memory();
    assert_eq!(node.layer(layer).await.map_err(|fallback| fallback.detail).unwrap().index, found.index);
    assert_eq!(registry.requests_for("").await, 0);
}
