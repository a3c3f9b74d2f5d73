//! Whether a manifest is signed: every way not to be, and what cannot hide that it is.

use std::collections::HashMap;

use base64::Engine as _;
use bytes::Bytes;
use jaunt_distribution::signatures::{KeyFileError, SignatureError, SignatureSource, read_key, signer};
use jaunt_formats::Digest;
use jaunt_formats::cosign::manifest::{self, SIGNATURE, SIMPLE_SIGNING};
use jaunt_formats::cosign::{self, Payload, SigningKey, VerifyError, VerifyingKey};
use serde_json::{Value, json};

macro_rules! key {
    ($name:literal) => {
        include_bytes!(concat!("../../../formats/src/cosign/testdata/", $name))
    };
}

fn private() -> SigningKey {
    SigningKey::from_pem(key!("pkcs8.pem"), None).unwrap()
}

fn public() -> [VerifyingKey; 1] {
    [VerifyingKey::from_pem(key!("public.pem")).unwrap()]
}

fn other() -> VerifyingKey {
    VerifyingKey::from_pem(key!("cosign.pub")).unwrap()
}

/// What a place holds, and whether it answers.
#[derive(Default)]
struct Held {
    tags: HashMap<String, Bytes>,
    blobs: HashMap<Digest, Bytes>,
    down: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
enum Missing {
    #[error("gone")]
    Gone,
    #[error("no answer")]
    Down,
}

impl SignatureSource for Held {
    type Error = Missing;

    async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, Missing> {
        Ok(self.tags.get(tag).cloned())
    }

    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, Missing> {
        let blob = self.blobs.get(digest).filter(|blob| blob.len() as u64 <= limit && !self.down).cloned();
        blob.ok_or(if self.down { Missing::Down } else { Missing::Gone })
    }

    fn is_damage(error: &Missing) -> bool {
        *error == Missing::Gone
    }
}

impl Held {
    /// Lists signatures of `artifact`, each with its document.
    fn listing(artifact: Digest, signatures: &[Listed]) -> Self {
        let mut held = Self::default();
        let layer = |(document, signature): &Listed| {
            held.blobs.insert(Digest::of(document), document.clone().into());
            json!({
                "mediaType": SIMPLE_SIGNING, "digest": Digest::of(document), "size": document.len(),
                "annotations": {SIGNATURE: signature},
            })
        };
        let layers: Vec<Value> = signatures.iter().map(layer).collect();
        let config = json!({"mediaType": "application/x", "digest": artifact, "size": 2});
        let list = json!({"schemaVersion": 2, "config": config, "layers": layers});
        held.tags.insert(cosign::tag(&artifact), list.to_string().into());
        held
    }

    async fn refusal(&self, artifact: Digest) -> SignatureError<Missing> {
        signer(self, artifact, &public()).await.unwrap_err()
    }
}

/// A document and its signature.
type Listed = (Vec<u8>, String);
type Expected = fn(&SignatureError<Missing>) -> bool;

fn good(artifact: Digest) -> Listed {
    let payload = Payload::with_identity("r.example/a", artifact);
    (payload.to_bytes(), private().sign(&payload).to_base64())
}

#[tokio::test]
async fn a_signature_by_one_of_the_keys_counts() {
    let artifact = Digest::of(b"artifact");
    let payload = Payload::with_identity("r.example/a", artifact);
    let added = manifest::add(None, &payload, &private().sign(&payload), &private().verifying_key())
        .unwrap()
        .unwrap();
    let mut held = Held::default();
    held.tags.insert(cosign::tag(&artifact), added.manifest.into());
    held.blobs.insert(Digest::of(&added.payload), added.payload.into());
    let keys = [vec![other()], public().to_vec()].concat();
    assert_eq!(*signer(&held, artifact, &keys).await.unwrap(), public()[0]);
    let refused = signer(&held, artifact, &keys[..1]).await.unwrap_err();
    assert!(matches!(refused, SignatureError::Refused(VerifyError::Key)), "{refused}");
    let refused = signer(&held, artifact, &[]).await.unwrap_err();
    assert!(matches!(refused, SignatureError::Refused(VerifyError::Key)), "{refused}");
}

#[tokio::test]
async fn what_is_no_signature_of_the_manifest_is_told_apart() {
    let (artifact, elsewhere) = (Digest::of(b"artifact"), Digest::of(b"other"));
    let refused = Held::default().refusal(artifact).await;
    assert!(matches!(refused, SignatureError::None(ref tag) if *tag == cosign::tag(&artifact)), "{refused}");
    let refused = Held::listing(artifact, &[]).refusal(artifact).await;
    assert!(matches!(refused, SignatureError::Empty(_)), "{refused}");
    for garbage in ["", "[]", "{\"layers\": 3}", "\0\0"] {
        let mut held = Held::default();
        held.tags.insert(cosign::tag(&artifact), garbage.into());
        let refused = held.refusal(artifact).await;
        assert!(matches!(refused, SignatureError::List { .. }), "{garbage}: {refused}");
    }

    let (document, signature) = good(artifact);
    // The key is the trusted one, what it signs is not what it should be.
    let sign = |document: &[u8]| {
        use p256::ecdsa::signature::Signer as _;
        use p256::pkcs8::DecodePrivateKey as _;
        let pem = std::str::from_utf8(key!("pkcs8.pem")).unwrap();
        let key = p256::ecdsa::SigningKey::from_pkcs8_pem(pem).unwrap();
        let signature: p256::ecdsa::DerSignature = key.sign(document);
        base64::engine::general_purpose::STANDARD.encode(signature.as_bytes())
    };
    let text = String::from_utf8(document.clone()).unwrap();
    let of_type = text.replace("cosign container image signature", "another").into_bytes();
    let of_no_digest = text.replace(&artifact.to_string(), "sha256:12").into_bytes();
    let long = [document.clone(), vec![b' '; 64 << 10]].concat();
    let cases: [(&str, Listed, Expected); 7] = [
        ("of another artifact", good(elsewhere), |e| {
            matches!(e, SignatureError::Refused(VerifyError::Digest { .. }))
        }),
        ("damaged document", ([&document[..], b" "].concat(), signature.clone()), |e| {
            matches!(e, SignatureError::Refused(VerifyError::Key))
        }),
        ("garbled signature", (document.clone(), "!".to_owned()), |e| {
            matches!(e, SignatureError::Refused(VerifyError::Malformed))
        }),
        ("of another type", (of_type.clone(), sign(&of_type)), |e| {
            matches!(e, SignatureError::Refused(VerifyError::Payload(_)))
        }),
        ("without a digest", (of_no_digest.clone(), sign(&of_no_digest)), |e| {
            matches!(e, SignatureError::Refused(VerifyError::Payload(_)))
        }),
        ("no document", (b"{}".to_vec(), sign(b"{}")), |e| {
            matches!(e, SignatureError::Refused(VerifyError::Payload(_)))
        }),
        ("too long", (long.clone(), sign(&long)), |e| matches!(e, SignatureError::Read(Missing::Gone))),
    ];
    for (what, listed, expected) in cases {
        let refused = Held::listing(artifact, std::slice::from_ref(&listed)).refusal(artifact).await;
        assert!(expected(&refused), "{what}: {refused:?}");
        // Whoever adds it hides nothing.
        let beside = Held::listing(artifact, &[listed, good(artifact)]);
        assert!(signer(&beside, artifact, &public()).await.is_ok(), "{what} hides a good signature");
    }
}

#[tokio::test]
async fn a_place_that_does_not_answer_is_not_taken_for_one_without_signatures() {
    let artifact = Digest::of(b"artifact");
    let down = Held { down: true, ..Held::listing(artifact, &[good(artifact)]) };
    let refused = down.refusal(artifact).await;
    assert!(matches!(refused, SignatureError::Read(Missing::Down)), "{refused:?}");
}

#[test]
fn a_key_file_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    assert_eq!(read_key(&file("good", key!("public.pem"))).unwrap(), public()[0]);
    for (path, words) in [
        (dir.path().join("absent"), "No such file"),
        (dir.path().to_owned(), "is not a file"),
        (file("empty", b""), "no PEM block"),
        (file("private", key!("pkcs8.pem")), "no public key in PEM"),
    ] {
        let error = read_key(&path).unwrap_err();
        let named = error.to_string();
        assert!(named.contains(&path.display().to_string()) && named.contains(words), "{named}");
        assert!(matches!(error, KeyFileError::Read { .. } | KeyFileError::Key { .. }));
    }
}
