//! Pushing: blobs from memory, mounts, manifests; and deleting manifests.
//!
//! Spec: OCI distribution-spec 1.1, "Push". A blob goes up as POST and one PUT. An upload session may
//! keep what a broken PUT left in it, so a retry starts with a new session.

use bytes::Bytes;
use jaunt_formats::Digest;
use jaunt_formats::media_type::{IMAGE_INDEXES, IMAGE_MANIFESTS};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode, Url};

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::failover::Need;
use crate::http::{Answer, Backoff, drain, location};
use crate::limits;
use crate::manifest::{ManifestName, ManifestState, stated_digest, verify};
use crate::repository::Repository;
use crate::request::Call;
use crate::target::Target;
use crate::turn::Turn;

/// What a registry said to a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    /// The manifest's digest.
    pub digest: Digest,
    /// The `OCI-Subject` header. Absent, the registry does not list the manifest among its subject's
    /// referrers, and the pusher keeps the fallback tag.
    pub subject: Option<Digest>,
}

/// What must still hold when a manifest is pushed. Registries that know no conditions push it in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// There is no such manifest.
    Absent,
    /// It is in the state with this mark. See [`ManifestState::etag`](crate::ManifestState::etag).
    Unchanged(HeaderValue),
}

/// What became of the wish to move a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagMove {
    /// It names what it should.
    Done,
    /// It names something else than expected, or nothing.
    Stale(Option<Digest>),
}

/// An upload session: where its next request goes. Some registries move it to another host, which then
/// gets no authorization.
#[derive(Clone)]
pub(crate) struct Session {
    url: Url,
    elsewhere: bool,
}

const UPLOADS: &str = "blobs/uploads/";
pub(crate) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Client {
    /// Uploads a blob held in memory.
    pub async fn push_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let target = Target::blob(repository, digest);
        verify(&target, *digest, Digest::of(&bytes))?;
        let turn = self.own(&target, Need::Push).await?;
        turn.bounded(&target, self.push_blob_until_done(&turn, repository, digest, bytes)).await
    }

    async fn push_blob_until_done(
        &self,
        turn: &Turn,
        repository: &Repository,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.attempts(turn));
        loop {
            let error = match self.try_push_blob(turn, repository, digest, bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            let Some(pause) = backoff.after_failure() else { return Err(error) };
            tracing::debug!(%error, ?pause, "will push again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_push_blob(
        &self,
        turn: &Turn,
        repository: &Repository,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let session = self.open_session(turn, repository).await?;
        self.put_blob(turn, repository, session, digest, bytes, 0).await
    }

    /// Makes a blob of another repository of the same registry known in this one, without moving its
    /// bytes. `false` when the registry will not: then upload it.
    pub async fn mount_blob(
        &self,
        to: &Repository,
        from: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        if to.host() != from.host() {
            return Ok(false);
        }
        let target = Target::blob(to, digest);
        let turn = self.own(&target, Need::Push).await?;
        let mut url = turn.route.url(to, UPLOADS);
        let from_name = turn.route.name_of(from);
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", &from_name);
        let call = self.call(&turn, Method::POST, url, target.clone(), Access::mount(&turn.route, to, from));
        let call = call.header(CONTENT_LENGTH, HeaderValue::from(0));
        let answer = match turn.bounded(&target, self.succeed(call)).await {
            Ok(answer) => answer,
            // Whether the blob may be pushed at all is for the upload to find out.
            Err(Error::Unauthorized { .. } | Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if answer.status() == StatusCode::CREATED {
            drain(answer.response).await;
            return Ok(true);
        }
        // The registry has opened an upload session instead.
        if let Ok(session) = Session::of(answer, &target, None).await {
            self.cancel_session(&turn, to, session).await;
        }
        Ok(false)
    }

    /// Uploads a manifest under a tag or its digest.
    pub async fn push_manifest(
        &self,
        repository: &Repository,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
        self.push_manifest_if(repository, name, media_type, bytes, Precondition::None).await
    }

    /// The same, unless the registry says that a condition does not hold: [`Error::is_stale`].
    pub async fn push_manifest_if(
        &self,
        repository: &Repository,
        name: &str,
        media_type: &str,
        bytes: Bytes,
        condition: Precondition,
    ) -> Result<PushedManifest, Error> {
        let target = Target::manifest(repository, name);
        let digest = Digest::of(&bytes);
        if let Some(asked) = ManifestName::parse(name, &target)?.digest() {
            verify(&target, asked, digest)?;
        }
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limits::MANIFEST_BYTES) {
            return Err(Error::TooLarge { target: Box::new(target), limit: limits::MANIFEST_BYTES });
        }
        let media_type = HeaderValue::try_from(media_type)
            .map_err(|_| Error::malformed(&target, "the media type is not valid in a header"))?;
        let turn = self.own(&target, Need::Push).await?;
        let url = turn.route.url(repository, &format!("manifests/{name}"));
        let call = self.call(&turn, Method::PUT, url, target.clone(), Access::push(&turn.route, repository));
        let call = match condition {
            Precondition::None => call,
            Precondition::Absent => call.header(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Precondition::Unchanged(etag) => call.header(IF_MATCH, etag),
        };
        let call = call.header(CONTENT_TYPE, media_type).body(bytes).commits(0);
        let answer = turn.bounded(&target, self.succeed(call)).await?;
        if let Some(stated) = stated_digest(answer.response.headers(), &target)? {
            verify(&target, digest, stated)?;
        }
        let subject = answer.response.headers().get(HeaderName::from_static("oci-subject"));
        let subject = subject.and_then(|value| value.to_str().ok()?.parse().ok());
        drain(answer.response).await;
        Ok(PushedManifest { digest, subject })
    }

    /// Has a tag name another manifest, if it still names `expected`, or nothing if that is `None`. Few registries
    /// can do this on condition: at the others, somebody has a moment to come in between.
    pub async fn move_tag(
        &self,
        repository: &Repository,
        tag: &str,
        expected: Option<Digest>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<TagMove, Error> {
        let accept = [IMAGE_MANIFESTS, IMAGE_INDEXES].concat();
        let state = async || match self.manifest_state(repository, tag, &accept).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        };
        let digest = |state: Option<ManifestState>| state.map(|state| state.digest);
        let now = state().await?;
        if now.as_ref().map(|now| now.digest) != expected {
            return Ok(TagMove::Stale(digest(now)));
        }
        let condition = match now {
            None => Precondition::Absent,
            Some(ManifestState { etag, .. }) => etag.map_or(Precondition::None, Precondition::Unchanged),
        };
        match self.push_manifest_if(repository, tag, media_type, bytes, condition).await {
            Ok(_) => Ok(TagMove::Done),
            Err(error) if error.is_stale() => Ok(TagMove::Stale(digest(state().await?))),
            Err(error) => Err(error),
        }
    }

    /// Deletes a manifest, and with it every tag that names it. Many registries do not allow it.
    pub async fn delete_manifest(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        let name = digest.to_string();
        let target = Target::manifest(repository, &name);
        let turn = self.own(&target, Need::Push).await?;
        let url = turn.route.url(repository, &format!("manifests/{name}"));
        let call =
            self.call(&turn, Method::DELETE, url, target.clone(), Access::delete(&turn.route, repository));
        let answer = turn.bounded(&target, self.succeed(call)).await?;
        drain(answer.response).await;
        Ok(())
    }

    /// Opens an upload session.
    pub(crate) async fn open_session(&self, turn: &Turn, repository: &Repository) -> Result<Session, Error> {
        let target = Target::upload(repository);
        let url = turn.route.url(repository, UPLOADS);
        let call = self.call(turn, Method::POST, url, target.clone(), Access::push(&turn.route, repository));
        let answer = self.succeed(call.header(CONTENT_LENGTH, HeaderValue::from(0))).await?;
        Session::of(answer, &target, None).await
    }

    /// Ends a session with its last bytes, or with none; `stored` bytes are there already.
    pub(crate) async fn put_blob(
        &self,
        turn: &Turn,
        repository: &Repository,
        mut session: Session,
        digest: &Digest,
        bytes: Bytes,
        stored: u64,
    ) -> Result<(), Error> {
        session.url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let target = Target::blob(repository, digest);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let call = self.session_call(turn, Method::PUT, session, target.clone());
        let call = call
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_LENGTH, HeaderValue::from(length))
            .body(bytes)
            .commits(stored.saturating_add(length))
            .once();
        let answer = self.succeed(call).await.map_err(Error::of_session)?;
        if let Some(stated) = stated_digest(answer.response.headers(), &target)? {
            verify(&target, *digest, stated)?;
        }
        drain(answer.response).await;
        Ok(())
    }

    /// A call to a session.
    pub(crate) fn session_call(&self, turn: &Turn, method: Method, session: Session, target: Target) -> Call {
        let access = Access::push(&turn.route, &target.repository);
        if session.elsewhere {
            self.call(turn, method, turn.route.api().clone(), target, access).elsewhere(session.url)
        } else {
            self.call(turn, method, session.url, target, access)
        }
    }

    /// Ends a session for nothing. Best effort: registries expire what is left over.
    pub(crate) async fn cancel_session(&self, turn: &Turn, repository: &Repository, session: Session) {
        let call = self.session_call(turn, Method::DELETE, session, Target::upload(repository));
        match self.succeed(call.once()).await {
            Ok(answer) => drain(answer.response).await,
            Err(error) => tracing::debug!(%error, "upload session not cancelled"),
        }
    }
}

impl Session {
    /// The session that an answer opened, or moved `from` where it was.
    pub(crate) async fn of(answer: Answer, target: &Target, from: Option<&Self>) -> Result<Self, Error> {
        let here = answer.response.url().clone();
        let url = location(&answer.response).map_err(|failure| Error::from_failure(target, failure));
        drain(answer.response).await;
        let url = kept_secure(url?, &here);
        let elsewhere = from.is_some_and(|from| from.elsewhere) || url.origin() != here.origin();
        Ok(Self { url, elsewhere })
    }
}

/// A registry behind a proxy that ends TLS often does not know of it, and names itself with `http`.
fn kept_secure(mut url: Url, here: &Url) -> Url {
    let downgraded = here.scheme() == "https" && url.scheme() == "http" && url.host_str() == here.host_str();
    if downgraded && url.set_scheme("https").is_ok() {
        // Neither fails for a URL with a host.
        let _ = url.set_port(here.port());
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_never_leaves_tls_on_its_own_host() {
        let here = "https://r.example:8443/v2/a/blobs/uploads/".parse().unwrap();
        for (url, want) in [
            ("http://r.example/u?x", "https://r.example:8443/u?x"),
            ("https://r.example/u", "https://r.example/u"),
            ("http://other.example/u", "http://other.example/u"),
        ] {
            assert_eq!(kept_secure(url.parse().unwrap(), &here).as_str(), want);
        }
    }
}
