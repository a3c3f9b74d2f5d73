//! Signatures and keys in cosign's format.

use crate::cosign::manifest::{Existing, add, config, list};
use crate::cosign::{Payload, Signature, SigningKey, VerifyingKey, verify};
use crate::{Digest, Reference};

/// Signed documents, signatures and the manifests that list them. A manifest that is read is added to.
pub fn cosign_manifest(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(signature) = Signature::parse(&text) {
        assert!(Signature::parse(&signature.to_base64()).is_some());
    }
    if let Ok(payload) = Payload::parse(data) {
        let again = Payload::parse(&payload.to_bytes()).expect("our own");
        assert_eq!(again, payload);
    }
    assert!(verify(&[], &Digest::of(b""), data, &text).is_err(), "no key, no trust");
    let Ok(listed) = list(data) else { return };
    assert!(config(data).is_ok());
    let key = SigningKey::from_pem(KEY, None).expect("a key");
    let reference: Reference = "r.example/a:t".parse().expect("a reference");
    let payload = Payload::new(&reference, Digest::of(data));
    let signature = key.sign(&payload);
    let existing = Existing { manifest: data, config: CONFIG };
    if let Ok(Some(added)) = add(Some(existing), &payload, &signature, &key.verifying_key()) {
        let now = list(&added.manifest).expect("our own");
        assert_eq!(now.len(), listed.len() + 1);
        assert_eq!(now[..listed.len()], listed);
    }
}

/// Private and public keys in PEM; no password is tried, which would cost a tenth of a second.
pub fn cosign_key(data: &[u8]) {
    if let Ok(key) = SigningKey::from_pem(data, None) {
        let payload = Payload::parse(PAYLOAD).expect("a document");
        assert!(key.verifying_key().verify(&payload.to_bytes(), &key.sign(&payload)));
    }
    if let Ok(key) = VerifyingKey::from_pem(data) {
        assert_eq!(key.fingerprint(), key.clone().fingerprint());
    }
}

const KEY: &[u8] = include_bytes!("../cosign/testdata/pkcs8.pem");
const CONFIG: &[u8] = include_bytes!("../cosign/testdata/config.json");
const PAYLOAD: &[u8] = include_bytes!("../cosign/testdata/payload.json");
