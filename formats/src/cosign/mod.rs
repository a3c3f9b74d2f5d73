//! Signatures in cosign's format: ECDSA P-256 over a small JSON document that names a manifest's digest.
//!
//! What is signed is the [`Payload`]; it is kept as a layer of an image manifest under the tag [`tag`],
//! with the signature in the layer's annotation ([`manifest`]). Keys are PEM: PKCS#8, SEC 1, or
//! encrypted as cosign does it. Certificates and transparency logs are not read: a signature counts if a key
//! that is configured made it.
//!
//! Format: sigstore/cosign, specs/SIGNATURE_SPEC.md; the bytes are those that cosign 2 writes.

mod encrypted;
mod key;
pub mod manifest;
mod payload;

#[cfg(test)]
mod tests;

pub use key::{KeyError, Signature, SigningKey, VerifyingKey};
pub use payload::{Payload, PayloadError};

use crate::Digest;

/// Why a signature is not one of a manifest by a trusted key.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The signature is not base64 of a DER-encoded ECDSA signature.
    #[error("the signature is malformed")]
    Malformed,
    /// None of the keys made it.
    #[error("the signature is by none of the trusted keys")]
    Key,
    /// The payload is none.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// It signs something else.
    #[error("the signature is for {signed}, not for {wanted}")]
    Digest {
        /// What is signed.
        signed: Digest,
        /// What should be.
        wanted: Digest,
    },
}

/// The tag that the signatures of a manifest are kept under.
pub fn tag(manifest: &Digest) -> String {
    format!("sha256-{}.sig", manifest.hex())
}

/// Checks one signature of a manifest: `payload` is the layer's blob, `signature` its annotation. Which of the
/// keys made it.
///
/// # Errors
/// None of them did, or it signs another manifest.
pub fn verify<'k>(
    keys: &'k [VerifyingKey],
    manifest: &Digest,
    payload: &[u8],
    signature: &str,
) -> Result<&'k VerifyingKey, VerifyError> {
    let signature = Signature::parse(signature).ok_or(VerifyError::Malformed)?;
    let key = keys.iter().find(|key| key.verify(payload, &signature)).ok_or(VerifyError::Key)?;
    // Only now is it worth to be read.
    let signed = Payload::parse(payload)?.digest();
    if signed == *manifest { Ok(key) } else { Err(VerifyError::Digest { signed, wanted: *manifest }) }
}
