//! Keys: read from PEM, never printed, wiped from memory when they are dropped.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{self, DerSignature};
use p256::pkcs8::der::pem;
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _};
use p256::{PublicKey, SecretKey};
use zeroize::Zeroizing;

use super::Payload;
use super::encrypted::Encrypted;
use crate::Digest;

/// What private keys are called in PEM.
const PKCS8: &str = "PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";
const ENCRYPTED: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
/// And public ones.
const SPKI: &str = "PUBLIC KEY";
/// Bytes of a key file: an honest one has less than a KiB.
const MAX_PEM_LEN: usize = 64 << 10;

/// Why a key cannot be read. No message repeats anything of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block of the kind that is wanted.
    #[error("no {wanted} in PEM; what there is: {found}")]
    Missing {
        /// What would do.
        wanted: &'static str,
        /// Labels of the blocks there are.
        found: String,
    },
    /// The file is larger than any key.
    #[error("{0} bytes are too many for a key")]
    TooLarge(usize),
    /// A block of a kind that fits, which holds something else.
    #[error("{0} is malformed, or is no ECDSA P-256 key, the only kind that this program signs with")]
    Malformed(&'static str),
    /// The way it is encrypted is not cosign's.
    #[error("encrypted private key: {0}")]
    Encryption(String),
    /// It is encrypted, and no password was given.
    #[error("the private key is encrypted, and no password was given")]
    PasswordNeeded,
    /// The password is not this key's.
    #[error("the private key does not open: wrong password, or a damaged file")]
    Password,
}

/// A private key. Its debug output names the public key alone.
pub struct SigningKey(ecdsa::SigningKey);

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(ecdsa::VerifyingKey);

/// A signature, and what it signs.
#[derive(Clone, Debug)]
pub struct Signature {
    der: DerSignature,
}

impl SigningKey {
    /// Reads a private key from PEM: PKCS#8, SEC 1, or encrypted by cosign, for which there must be a password.
    ///
    /// # Errors
    /// There is no such key in it, or the password is missing or wrong.
    pub fn from_pem(text: &[u8], password: Option<&[u8]>) -> Result<Self, KeyError> {
        let (label, der) = block(text, &[PKCS8, SEC1, ENCRYPTED[0], ENCRYPTED[1]], "private key")?;
        let key = match label {
            SEC1 => SecretKey::from_sec1_der(&der).ok(),
            PKCS8 => SecretKey::from_pkcs8_der(&der).ok(),
            _ => {
                let encrypted = Encrypted::parse(&der)?;
                let opened = encrypted.open(password.ok_or(KeyError::PasswordNeeded)?)?;
                SecretKey::from_pkcs8_der(&opened).ok()
            }
        };
        key.map(|key| Self(key.into())).ok_or(KeyError::Malformed("the private key"))
    }

    /// The public key that belongs to it.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(*self.0.verifying_key())
    }

    /// Signs a statement. The same key and statement give the same signature (RFC 6979).
    pub fn sign(&self, payload: &Payload) -> Signature {
        Signature { der: self.0.sign(&payload.to_bytes()) }
    }
}

impl VerifyingKey {
    /// Reads a public key from PEM.
    ///
    /// # Errors
    /// There is none in it, or one of another kind.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let (_, der) = block(text, &[SPKI], "public key")?;
        let key = PublicKey::from_public_key_der(&der).map_err(|_| KeyError::Malformed("the public key"))?;
        Ok(Self(key.into()))
    }

    /// The key as [`from_pem`](Self::from_pem) reads it.
    pub fn to_pem(&self) -> String {
        PublicKey::from(self.0).to_public_key_pem(pem::LineEnding::LF).unwrap_or_default()
    }

    /// SHA-256 of the key in DER: a name for it in logs.
    pub fn fingerprint(&self) -> Digest {
        let der = PublicKey::from(self.0).to_public_key_der();
        der.map_or_else(|_| Digest::of(b""), |der| Digest::of(der.as_bytes()))
    }

    /// Whether this key made a signature of these bytes.
    pub fn verify(&self, payload: &[u8], signature: &Signature) -> bool {
        self.0.verify(payload, &signature.der).is_ok()
    }
}

impl Signature {
    /// Reads a signature as an annotation has it: DER in base64.
    pub fn parse(base64: &str) -> Option<Self> {
        let der = STANDARD.decode(base64).ok()?;
        DerSignature::try_from(der.as_slice()).ok().map(|der| Self { der })
    }

    /// As an annotation has it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.der.as_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.verifying_key()).finish()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyingKey").field(&self.fingerprint()).finish()
    }
}

/// The first PEM block with one of these labels: other blocks, such as a curve's parameters, may be in front.
fn block(
    text: &[u8],
    labels: &[&'static str],
    wanted: &'static str,
) -> Result<(&'static str, Zeroizing<Vec<u8>>), KeyError> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    if text.len() > MAX_PEM_LEN {
        return Err(KeyError::TooLarge(text.len()));
    }
    let mut found = Vec::new();
    let starts = (0..text.len()).filter(|&at| text[at..].starts_with(BEGIN));
    for start in starts {
        let rest = &text[start + BEGIN.len()..];
        let Some(end) = rest.windows(5).position(|dashes| dashes == b"-----") else { continue };
        let label = String::from_utf8_lossy(&rest[..end.min(64)]).into_owned();
        if let Some(known) = labels.iter().find(|known| **known == label) {
            let close = format!("-----END {label}-----");
            let len = rest.windows(close.len()).position(|window| window == close.as_bytes());
            let block = len.map(|len| &text[start..start + BEGIN.len() + len + close.len()]);
            let decoded = block.and_then(|block| pem::decode_vec(block).ok());
            let (_, der) = decoded.ok_or(KeyError::Malformed("the PEM block of the key"))?;
            return Ok((known, Zeroizing::new(der)));
        }
        found.push(label);
    }
    let found = if found.is_empty() { "no PEM block".to_owned() } else { found.join(", ") };
    Err(KeyError::Missing { wanted, found })
}
