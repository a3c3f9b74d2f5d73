//! What `sign`, `convert --sign-key` and `verify --key` need: signatures of launch artifacts, as cosign keeps
//! them.
//!
//! Nobody signs what he has not seen: an artifact that this very run did not make from the original layers
//! is read back whole first, as `verify` does.

use std::path::Path;

use bytes::Bytes;
use jaunt_distribution::InRepository;
use jaunt_distribution::signatures::{SignatureError, SignatureSource, read_key, signer};
use jaunt_formats::cosign::manifest::{self as signatures, Existing};
use jaunt_formats::cosign::{self, KeyError, Payload, SigningKey, VerifyingKey};
use jaunt_formats::media_type::OCI_MANIFEST;
use jaunt_formats::{Digest, Reference, error_chain};

use crate::console::Console;
use crate::error::Error;
use crate::place::{ImageName, Place, PlaceError, TagMove};

/// Where cosign, too, looks for the password of an encrypted key.
const PASSWORD: &str = "COSIGN_PASSWORD";
/// Bytes of a key file, and of the config that signatures have.
const KEY_LIMIT: u64 = 64 << 10;
const CONFIG_LIMIT: u64 = 1 << 20;
/// Others may sign at the same time: the last to write starts anew.
const TRIES: usize = 5;

/// A private key at work.
#[derive(Debug)]
pub struct Signer {
    key: SigningKey,
}

impl Signer {
    /// What names the key to those who check.
    pub fn fingerprint(&self) -> Digest {
        self.key.verifying_key().fingerprint()
    }

    /// Reads a key file; the password of an encrypted one is taken from the environment.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = zeroize::Zeroizing::new(read(path)?);
        let password = std::env::var_os(PASSWORD)
            .map(|password| zeroize::Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(password)));
        let key = SigningKey::from_pem(&text, password.as_ref().map(|password| password.as_slice()));
        key.map(|key| Self { key }).map_err(|source| Error::Key { path: path.to_owned(), source })
    }

    /// Signs an artifact, unless it has a signature by this key.
    pub async fn sign(
        &self,
        place: &Place,
        name: &ImageName,
        artifact: Digest,
        console: &Console,
    ) -> Result<(), Error> {
        let payload = payload(name, artifact);
        let signature = self.key.sign(&payload);
        let (tag, key) = (cosign::tag(&artifact), self.key.verifying_key());
        let refused = |source| Error::Signatures { artifact, source };
        for _ in 0..TRIES {
            let found = place.manifest_if_exists(&tag, &[OCI_MANIFEST]).await?;
            let config = match &found {
                Some(found) => {
                    let digest = signatures::config(&found.bytes).map_err(refused)?;
                    Some(place.blob(&digest, CONFIG_LIMIT).await?)
                }
                None => None,
            };
            let existing = found.as_ref().zip(config.as_ref());
            let existing = existing.map(|(found, config)| Existing { manifest: &found.bytes, config });
            let Some(new) = signatures::add(existing, &payload, &signature, &key).map_err(refused)? else {
                console.line(&format!("signed already: artifact {artifact}"));
                return Ok(());
            };
            for blob in [new.payload, new.config] {
                place.push_blob(&Digest::of(&blob), blob.into()).await?;
            }
            let expected = found.map(|found| found.digest);
            if place.move_tag(&tag, expected, OCI_MANIFEST, new.manifest.into()).await? == TagMove::Done {
                console.line(&format!("signed artifact {artifact}: tag {tag}"));
                return Ok(());
            }
        }
        Err(Error::SignatureTag(tag))
    }
}

/// Reads public keys.
pub fn keys(paths: &[impl AsRef<Path>]) -> Result<Vec<VerifyingKey>, Error> {
    Ok(paths.iter().map(|path| read_key(path.as_ref())).collect::<Result<_, _>>()?)
}

/// Which of some keys has signed an artifact; an error if none has.
pub async fn check(place: &Place, artifact: Digest, keys: &[VerifyingKey]) -> Result<Digest, Error> {
    match signer(place, artifact, keys).await {
        Ok(key) => Ok(key.fingerprint()),
        Err(SignatureError::Read(error)) => Err(error.into()),
        Err(error) => Err(Error::NotSigned { artifact, what: error_chain(&error) }),
    }
}

impl SignatureSource for Place {
    type Error = PlaceError;

    async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, PlaceError> {
        Ok(self.manifest_if_exists(tag, &[OCI_MANIFEST]).await?.map(|found| found.bytes))
    }

    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, PlaceError> {
        Self::blob(self, digest, limit).await
    }

    fn is_damage(error: &PlaceError) -> bool {
        match error {
            PlaceError::Registry(error) => InRepository::is_damage(error),
            PlaceError::Layout(_) => true,
        }
    }
}

/// What is signed. A layout has no name by which others find it: its tag may be one, as skopeo writes it.
fn payload(name: &ImageName, artifact: Digest) -> Payload {
    let reference = match name {
        ImageName::Registry(reference) => Some(reference.clone()),
        ImageName::Layout(_) => name.manifest_name().parse::<Reference>().ok(),
    };
    match reference {
        Some(reference) => Payload::new(&reference, artifact),
        None => Payload::with_identity("oci", artifact),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let failed = |source| Error::KeyFile { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(KEY_LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > KEY_LIMIT {
        return Err(Error::Key { path: path.to_owned(), source: KeyError::TooLarge(text.len()) });
    }
    Ok(text)
}
