//! Whether a manifest is signed by a trusted key: cosign's signatures, looked up where the manifest is.
//!
//! Formats knows what a signature is; here is where one is found, and in which order it is believed: a signature
//! counts once a key that the caller trusts has made it, whatever stands beside it. So others, who may push as
//! well, can add what is damaged or by strangers, and hide nothing.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jaunt_formats::Digest;
use jaunt_formats::cosign::manifest::{self, Listed, MAX_PAYLOAD_LEN, ManifestError};
use jaunt_formats::cosign::{self, KeyError, VerifyError, VerifyingKey};
use jaunt_formats::media_type::OCI_MANIFEST;

use crate::error::Error;
use crate::files::read_small;
use crate::in_repository::InRepository;

/// Where manifests and their signatures are kept together.
pub trait SignatureSource: Sync {
    /// Why something cannot be had from there.
    type Error: std::error::Error + Send + 'static;

    /// The manifest of that tag, if there is one.
    fn tagged(&self, tag: &str) -> impl Future<Output = Result<Option<Bytes>, Self::Error>> + Send;

    /// A whole blob, verified, of at most `limit` bytes.
    fn blob(&self, digest: &Digest, limit: u64) -> impl Future<Output = Result<Bytes, Self::Error>> + Send;

    /// Whether an error speaks against what was asked for (gone, too long, with another digest) and not against
    /// this place.
    fn is_damage(error: &Self::Error) -> bool;
}

impl SignatureSource for InRepository<'_> {
    type Error = Error;

    async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, Error> {
        let found = self.client.manifest_if_exists(self.repository, tag, &[OCI_MANIFEST]).await?;
        Ok(found.map(|found| found.bytes))
    }

    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, Error> {
        self.client.blob(self.repository, digest, limit).await
    }

    fn is_damage(error: &Error) -> bool {
        matches!(error, Error::NotFound { .. } | Error::TooLarge { .. } | Error::DigestMismatch { .. })
    }
}

/// Why a manifest does not count as signed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError<E: std::error::Error + 'static> {
    /// A signature, or the list of them, cannot be read; no other one would do.
    #[error("its signatures cannot be read")]
    Read(#[source] E),
    /// There is no list of signatures.
    #[error("there is no tag {0}")]
    None(String),
    /// The list is none.
    #[error("tag {tag}")]
    List {
        /// Its tag.
        tag: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The list is empty.
    #[error("tag {0} lists no signature")]
    Empty(String),
    /// None of the signatures counts: why the last one does not.
    #[error(transparent)]
    Refused(VerifyError),
}

/// Which of `keys` has signed a manifest.
///
/// # Errors
/// None of them, or that cannot be told.
pub async fn signer<'k, S: SignatureSource>(
    source: &S,
    manifest: Digest,
    keys: &'k [VerifyingKey],
) -> Result<&'k VerifyingKey, SignatureError<S::Error>> {
    let tag = cosign::tag(&manifest);
    let Some(list) = source.tagged(&tag).await.map_err(SignatureError::Read)? else {
        return Err(SignatureError::None(tag));
    };
    let listed = match manifest::list(&list) {
        Ok(listed) => listed,
        Err(source) => return Err(SignatureError::List { tag, source }),
    };
    let mut refusal = SignatureError::Empty(tag);
    // Several keys sign the same document.
    let mut payloads: HashMap<Digest, Bytes> = HashMap::new();
    for Listed { payload: digest, signature, .. } in listed {
        let payload = match payloads.get(&digest) {
            Some(payload) => payload.clone(),
            None => match source.blob(&digest, MAX_PAYLOAD_LEN).await {
                Ok(payload) => payload,
                Err(error) if S::is_damage(&error) => {
                    refusal = SignatureError::Read(error);
                    continue;
                }
                Err(error) => return Err(SignatureError::Read(error)),
            },
        };
        match cosign::verify(keys, &manifest, &payload, &signature) {
            Ok(key) => return Ok(key),
            // What is damaged might have counted, which says more than a stranger's signature does.
            Err(_) if matches!(refusal, SignatureError::Read(_)) => {}
            Err(error) => refusal = SignatureError::Refused(error),
        }
        payloads.insert(digest, payload);
    }
    Err(refusal)
}

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
}

/// Reads a public key from a PEM file.
///
/// # Errors
/// The file cannot be read, or is no such key.
pub fn read_key(path: &Path) -> Result<VerifyingKey, KeyFileError> {
    let text = read_small(path).map_err(|source| KeyFileError::Read { path: path.to_owned(), source })?;
    VerifyingKey::from_pem(&text).map_err(|source| KeyFileError::Key { path: path.to_owned(), source })
}
