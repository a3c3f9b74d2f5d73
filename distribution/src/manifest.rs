//! Manifests: fetched whole, under a limit, and verified.

use bytes::Bytes;
use jaunt_formats::Digest;
use reqwest::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use reqwest::{Method, Response};

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::failover::Need;
use crate::http::{drain, read_whole};
use crate::limits;
use crate::repository::Repository;
use crate::request::Call;
use crate::target::Target;
use crate::turn::Turn;

/// A manifest as the registry holds it, bit for bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The `mediaType` the bytes state, else the `Content-Type` they came with: a digest covers the
    /// former only.
    pub media_type: String,
    /// The digest of the bytes, always computed from them.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a manifest's name stands for, in the registry's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestState {
    /// The manifest's digest. Unverified.
    pub digest: Digest,
    /// The registry's own mark of this state, if it gives a strong one: a push can be made to depend on it.
    pub etag: Option<HeaderValue>,
}

impl Client {
    /// Fetches a manifest by tag or digest. Its bytes agree with the digest asked for, and with the
    /// one the registry states, if it does.
    pub async fn manifest(
        &self,
        repository: &Repository,
        name: &str,
        accept: &[&str],
    ) -> Result<Manifest, Error> {
        let target = &Target::manifest(repository, name);
        let asked = ManifestName::parse(name, target)?;
        let (asked, accept) = (&asked, accepted(accept, target)?);
        self.ask_any(target, asked.need(), |turn| {
            let call = self.manifest_call(&turn, Method::GET, target, name, &accept);
            self.verified_manifest(target, asked, call)
        })
        .await
    }

    /// A tagged manifest at one host.
    pub(crate) async fn manifest_at(
        &self,
        turn: &Turn,
        target: &Target,
        tag: &str,
        accept: &'static str,
    ) -> Result<Manifest, Error> {
        let call = self.manifest_call(turn, Method::GET, target, tag, &HeaderValue::from_static(accept));
        self.verified_manifest(target, &ManifestName::Tag, call).await
    }

    async fn verified_manifest(
        &self,
        target: &Target,
        asked: &ManifestName,
        call: Call,
    ) -> Result<Manifest, Error> {
        let answer = self.succeed(call).await?;
        let stated = stated_digest(answer.response.headers(), target)?;
        let content_type = content_type(&answer.response);
        let bytes = read_whole(answer.response, limits::MANIFEST_BYTES, self.transport().http.patience)
            .await
            .map_err(|error| Error::from_body(target, error))?;
        let digest = Digest::of(&bytes);
        for expected in [asked.digest(), stated].into_iter().flatten() {
            verify(target, expected, digest)?;
        }
        Ok(Manifest { media_type: media_type(&bytes).unwrap_or(content_type), digest, bytes })
    }

    /// The same, with `None` when the registry has no such manifest or repository.
    pub async fn manifest_if_exists(
        &self,
        repository: &Repository,
        name: &str,
        accept: &[&str],
    ) -> Result<Option<Manifest>, Error> {
        match self.manifest(repository, name, accept).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The digest of a manifest, without fetching it where the registry states it. Unverified: it is
    /// the registry's word.
    pub async fn manifest_digest(
        &self,
        repository: &Repository,
        name: &str,
        accept: &[&str],
    ) -> Result<Digest, Error> {
        Ok(self.manifest_state(repository, name, accept).await?.digest)
    }

    /// The same with the registry's mark of it, where it states both.
    pub async fn manifest_state(
        &self,
        repository: &Repository,
        name: &str,
        accept: &[&str],
    ) -> Result<ManifestState, Error> {
        let target = &Target::manifest(repository, name);
        let asked = ManifestName::parse(name, target)?;
        let (asked, accept) = (&asked, &accepted(accept, target)?);
        self.ask_any(target, asked.need(), |turn| async move {
            let answer = self.succeed(self.manifest_call(&turn, Method::HEAD, target, name, accept)).await?;
            if let Some(digest) = stated_digest(answer.response.headers(), target)? {
                let etag = strong_etag(answer.response.headers());
                drain(answer.response).await;
                return Ok(ManifestState { digest, etag });
            }
            let call = self.manifest_call(&turn, Method::GET, target, name, accept);
            let manifest = self.verified_manifest(target, asked, call).await?;
            Ok(ManifestState { digest: manifest.digest, etag: None })
        })
        .await
    }

    fn manifest_call(
        &self,
        turn: &Turn,
        method: Method,
        target: &Target,
        name: &str,
        accept: &HeaderValue,
    ) -> Call {
        let url = turn.route.url(&target.repository, &format!("manifests/{name}"));
        let access = Access::pull(&turn.route, &target.repository);
        self.call(turn, method, url, target.clone(), access).header(ACCEPT, accept.clone())
    }
}

fn accepted(media_types: &[&str], target: &Target) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(media_types.join(", "))
        .map_err(|_| Error::malformed(target, "an accepted media type is not valid in a header"))
}

/// A tag or digest, which is all that may go into a manifest's URL.
pub(crate) enum ManifestName {
    Tag,
    Digest(Digest),
}

impl ManifestName {
    pub(crate) fn parse(name: &str, target: &Target) -> Result<Self, Error> {
        if let Ok(digest) = name.parse() {
            return Ok(Self::Digest(digest));
        }
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_tag = (1..=128).contains(&name.len())
            && name.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
            && name.bytes().next().is_some_and(word);
        if is_tag {
            return Ok(Self::Tag);
        }
        let reason = "the name is neither a tag nor a sha256 digest";
        Err(Error::InvalidName { target: Box::new(target.clone()), reason })
    }

    /// What a host must be capable of to be asked for it.
    fn need(&self) -> Need {
        match self {
            Self::Tag => Need::Resolve,
            Self::Digest(_) => Need::Pull,
        }
    }

    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) => Some(*digest),
            Self::Tag => None,
        }
    }
}

/// The `Docker-Content-Digest` header. One in an algorithm we cannot check is as good as none.
pub(crate) fn stated_digest(headers: &HeaderMap, target: &Target) -> Result<Option<Digest>, Error> {
    use jaunt_formats::DigestError;
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    match value.to_str().unwrap_or_default().parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(DigestError::UnsupportedAlgorithm(_)) => Ok(None),
        Err(error) => Err(Error::malformed(target, format!("in Docker-Content-Digest: {error}"))),
    }
}

/// An `ETag` that `If-Match` can be asked with: weak ones, which proxies make, never match.
fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
}

pub(crate) fn verify(target: &Target, expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::DigestMismatch { target: Box::new(target.clone()), expected, actual })
}

/// The `Content-Type` without its parameters.
pub(crate) fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_owned()
}

/// The `mediaType` of a manifest's JSON.
fn media_type(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    serde_json::from_slice::<Typed>(bytes).ok().map(|typed| typed.media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_tag_or_a_digest_and_nothing_else() {
        let target = Target::manifest(&"r.example/a".parse().unwrap(), "x");
        let digest = Digest::of(b"x").to_string();
        for good in ["latest", "_1.0-x", &digest, &format!("sha256-{}.jaunt", Digest::of(b"x").hex())] {
            assert!(ManifestName::parse(good, &target).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", "..", "a/b", "a?b", "a#b", "-a", "sha256:12", "sha512:12", "ä", " ", &long] {
            assert!(ManifestName::parse(bad, &target).is_err(), "{bad}");
        }
    }
}
