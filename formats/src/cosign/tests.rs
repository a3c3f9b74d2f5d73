//! Against files that cosign 2.5 and OpenSSL 3 wrote (testdata): keys, a signature, where it is kept.

use proptest::prelude::*;

use super::manifest::{Existing, MAX_SIGNATURES, add, config, list};
use super::*;
use crate::Reference;

const COSIGN_KEY: &[u8] = include_bytes!("testdata/cosign.key");
const COSIGN_PUB: &[u8] = include_bytes!("testdata/cosign.pub");
const SEC1: &[u8] = include_bytes!("testdata/sec1.pem");
const PKCS8: &[u8] = include_bytes!("testdata/pkcs8.pem");
const PUBLIC: &[u8] = include_bytes!("testdata/public.pem");
const MANIFEST: &[u8] = include_bytes!("testdata/manifest.json");
const CONFIG: &[u8] = include_bytes!("testdata/config.json");
const PAYLOAD: &[u8] = include_bytes!("testdata/payload.json");
const PASSWORD: &[u8] = b"not a secret";

fn signed() -> Digest {
    "sha256:83d4ff66bb2225af3e05195ca23df4b9cd151030f7bb9eb9302e436636e16b41".parse().unwrap()
}

fn payload() -> Payload {
    let reference: Reference = "127.0.0.1:5999/team/app:v1".parse().unwrap();
    Payload::new(&reference, signed())
}

#[test]
fn keys_are_read_as_openssl_and_cosign_write_them() {
    let public = VerifyingKey::from_pem(PUBLIC).unwrap();
    assert_eq!(SigningKey::from_pem(SEC1, None).unwrap().verifying_key(), public);
    assert_eq!(SigningKey::from_pem(PKCS8, None).unwrap().verifying_key(), public);
    let cosign = VerifyingKey::from_pem(COSIGN_PUB).unwrap();
    assert_eq!(SigningKey::from_pem(COSIGN_KEY, Some(PASSWORD)).unwrap().verifying_key(), cosign);
    let old = String::from_utf8(COSIGN_KEY.to_vec()).unwrap().replace("SIGSTORE", "COSIGN");
    assert_eq!(SigningKey::from_pem(old.as_bytes(), Some(PASSWORD)).unwrap().verifying_key(), cosign);
    assert_ne!(public.fingerprint(), cosign.fingerprint());
    assert_eq!(VerifyingKey::from_pem(public.to_pem().as_bytes()).unwrap(), public);
}

#[test]
fn keys_that_cannot_be_read_say_why_and_nothing_of_themselves() {
    let refused = |text: &[u8], password| SigningKey::from_pem(text, password).unwrap_err();
    assert_eq!(refused(COSIGN_KEY, None), KeyError::PasswordNeeded);
    assert_eq!(refused(COSIGN_KEY, Some(b"wrong")), KeyError::Password);
    assert_eq!(refused(b"", None).to_string(), "no private key in PEM; what there is: no PEM block");
    assert_eq!(refused(PUBLIC, None).to_string(), "no private key in PEM; what there is: PUBLIC KEY");
    assert!(matches!(VerifyingKey::from_pem(PKCS8), Err(KeyError::Missing { .. })));
    assert!(matches!(refused(&vec![b'x'; 1 << 20], None), KeyError::TooLarge(_)));
    let text = String::from_utf8(PKCS8.to_vec()).unwrap();
    assert!(matches!(refused(text.replace('M', "N").as_bytes(), None), KeyError::Malformed(_)));
    assert!(matches!(refused(text.replace("-----END", "").as_bytes(), None), KeyError::Malformed(_)));

    let key = SigningKey::from_pem(PKCS8, None).unwrap();
    let shown = format!("{key:?}");
    assert_eq!(shown, format!("SigningKey({:?})", key.verifying_key()));
    assert!(shown.contains(&key.verifying_key().fingerprint().hex()));
}

#[test]
fn encryption_that_is_not_cosigns_is_refused_before_it_costs_anything() {
    use base64::Engine as _;
    let json = |n: u64, cipher: &str, nonce: &str| {
        format!(
            "{{\"kdf\":{{\"name\":\"scrypt\",\"params\":{{\"N\":{n},\"r\":8,\"p\":1}},\"salt\":\"AA==\"}},\
             \"cipher\":{{\"name\":\"{cipher}\",\"nonce\":\"{nonce}\"}},\"ciphertext\":\"AA==\"}}"
        )
    };
    let refused = |json: &str| {
        let body = base64::engine::general_purpose::STANDARD.encode(json);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
        let label = "ENCRYPTED SIGSTORE PRIVATE KEY";
        let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
        SigningKey::from_pem(text.as_bytes(), Some(b"")).unwrap_err().to_string()
    };
    let nonce = "A".repeat(32);
    assert!(refused(&json(1 << 40, "nacl/secretbox", &nonce)).contains("N = 1099511627776"));
    assert!(refused(&json(1 << 16, "aes", &nonce)).contains("secret box"));
    assert!(refused(&json(1 << 16, "nacl/secretbox", "AA==")).contains("nonce"));
    assert!(refused("{\"kdf\":\"secret\"}").contains("malformed JSON in line 1"));
    assert!(refused(&json(1 << 15, "nacl/secretbox", &nonce)).contains("wrong password"));
}

#[test]
fn a_signature_by_cosign_is_accepted_and_only_for_what_it_signs() {
    let [listed] = list(MANIFEST).unwrap().try_into().unwrap();
    assert_eq!((listed.payload, listed.size), (Digest::of(PAYLOAD), PAYLOAD.len() as u64));
    let keys = [VerifyingKey::from_pem(PUBLIC).unwrap(), VerifyingKey::from_pem(COSIGN_PUB).unwrap()];
    assert_eq!(verify(&keys, &signed(), PAYLOAD, &listed.signature).unwrap(), &keys[1]);
    let refused = |keys: &[VerifyingKey], digest: &Digest, payload: &[u8], signature: &str| {
        verify(keys, digest, payload, signature).unwrap_err()
    };
    let other = Digest::of(b"other");
    assert!(matches!(refused(&keys[..1], &signed(), PAYLOAD, &listed.signature), VerifyError::Key));
    assert!(matches!(refused(&[], &signed(), PAYLOAD, &listed.signature), VerifyError::Key));
    assert!(matches!(refused(&keys, &other, PAYLOAD, &listed.signature), VerifyError::Digest { .. }));
    let changed = String::from_utf8(PAYLOAD.to_vec()).unwrap().replace("83d4", "83d5");
    assert!(matches!(refused(&keys, &signed(), changed.as_bytes(), &listed.signature), VerifyError::Key));
    assert!(matches!(refused(&keys, &signed(), PAYLOAD, "AAAA"), VerifyError::Malformed));
    assert!(matches!(refused(&keys, &signed(), PAYLOAD, "no base64"), VerifyError::Malformed));
}

#[test]
fn what_is_written_is_byte_for_byte_what_cosign_writes() {
    assert_eq!(payload().to_bytes(), PAYLOAD);
    let cosigns = Signature::parse(&list(MANIFEST).unwrap()[0].signature).unwrap();
    let key = VerifyingKey::from_pem(COSIGN_PUB).unwrap();
    let added = add(None, &payload(), &cosigns, &key).unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&added.manifest), String::from_utf8_lossy(MANIFEST));
    assert_eq!(String::from_utf8_lossy(&added.config), String::from_utf8_lossy(CONFIG));
    assert_eq!(added.payload, PAYLOAD);
    assert_eq!(tag(&signed()), format!("sha256-{}.sig", signed().hex()));
    assert_eq!(
        Payload::new(&"alpine".parse().unwrap(), signed()).identity(),
        "index.docker.io/library/alpine"
    );
}

#[test]
fn further_signatures_are_added_and_none_twice() {
    let key = SigningKey::from_pem(PKCS8, None).unwrap();
    let signature = key.sign(&payload());
    assert_eq!(signature.to_base64(), key.sign(&payload()).to_base64(), "deterministic");
    let existing = Existing { manifest: MANIFEST, config: CONFIG };
    let added = add(Some(existing), &payload(), &signature, &key.verifying_key()).unwrap().unwrap();
    assert_eq!(config(&added.manifest).unwrap(), Digest::of(&added.config));
    let listed = list(&added.manifest).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0], list(MANIFEST).unwrap()[0]);
    let keys = [key.verifying_key()];
    assert!(verify(&keys, &signed(), &added.payload, &listed[1].signature).is_ok());
    let rootfs = serde_json::from_slice::<serde_json::Value>(&added.config).unwrap();
    assert_eq!(rootfs["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    assert_eq!(rootfs["history"].as_array().unwrap().len(), 2);

    let again = Existing { manifest: &added.manifest, config: &added.config };
    assert_eq!(add(Some(again), &payload(), &signature, &keys[0]).unwrap(), None);
    let cosign = SigningKey::from_pem(COSIGN_KEY, Some(PASSWORD)).unwrap();
    let another = cosign.sign(&payload());
    assert_eq!(
        add(Some(again), &payload(), &another, &cosign.verifying_key()).unwrap(),
        None,
        "another nonce"
    );
}

#[test]
fn what_others_put_into_the_manifest_stays() {
    let text = String::from_utf8(MANIFEST.to_vec()).unwrap();
    let text = text.replacen(
        "\"annotations\":{",
        "\"urls\":[\"u\"],\"annotations\":{\"dev.sigstore.cosign/bundle\":\"b\",",
        1,
    );
    let text = format!("{},\"annotations\":{{\"a\":\"b\"}}}}", text.strip_suffix('}').unwrap());
    let key = SigningKey::from_pem(PKCS8, None).unwrap();
    let existing = Existing { manifest: text.as_bytes(), config: CONFIG };
    let added =
        add(Some(existing), &payload(), &key.sign(&payload()), &key.verifying_key()).unwrap().unwrap();
    let added: serde_json::Value = serde_json::from_slice(&added.manifest).unwrap();
    assert_eq!(added["annotations"]["a"], "b");
    assert_eq!(added["layers"][0]["urls"][0], "u");
    assert_eq!(added["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"], "b");
}

#[test]
fn manifests_that_are_none_are_refused() {
    assert!(list(b"{}").is_err() && list(b"junk").is_err() && config(b"[]").is_err());
    let manifest: serde_json::Value = serde_json::from_slice(MANIFEST).unwrap();
    let mut many = manifest.clone();
    many["layers"] = vec![manifest["layers"][0].clone(); MAX_SIGNATURES + 1].into();
    let many = serde_json::to_vec(&many).unwrap();
    assert!(list(&many).unwrap_err().to_string().contains("1001 signatures"));
    let mut others = manifest.clone();
    others["layers"][0]["mediaType"] = "application/vnd.dsse.envelope.v1+json".into();
    assert_eq!(list(&serde_json::to_vec(&others).unwrap()).unwrap(), []);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[ -~\n]{0,300}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            let _ = (Payload::parse(bytes), list(bytes), SigningKey::from_pem(bytes, Some(b"")), VerifyingKey::from_pem(bytes));
        }
        let _ = Signature::parse(&text);
    }
}
