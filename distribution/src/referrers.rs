//! Referrers: which artifacts name a manifest as their subject.
//!
//! Spec: OCI distribution-spec 1.1, "Listing Referrers". Registries without the API answer 404, or
//! whatever they answer to an unknown path; there the pushers keep an index under the tag
//! `sha256-<hex>` instead.

use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_INDEX;
use oci_spec::image::Descriptor;
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::failover::Need;
use crate::http::{Answer, drain, read_whole};
use crate::limits;
use crate::manifest::content_type;
use crate::page::next_page;
use crate::repository::Repository;
use crate::target::Target;
use crate::turn::Turn;

/// The tag under which referrers are kept where the registry has no API for them.
pub fn referrers_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Client {
    /// The artifacts whose subject is `subject`, of one type or of all; empty when there are none.
    /// The order is the registry's. Descriptors that make no sense are left out.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let target = &Target::referrers(repository, subject);
        self.ask_any(target, Need::Referrers, |turn| async move {
            let listed = match self.referrers_by_api(&turn, target, subject, artifact_type).await? {
                Some(referrers) => referrers,
                None => self.referrers_by_tag(&turn, repository, subject, artifact_type).await?,
            };
            // A mirror that lists none may just not know of any.
            if listed.is_empty() && !turn.last {
                return Err(Error::NotFound { target: Box::new(target.clone()) });
            }
            Ok(listed)
        })
        .await
    }

    /// `None` when the host does not know the API.
    async fn referrers_by_api(
        &self,
        turn: &Turn,
        target: &Target,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let mut url = turn.route.url(&target.repository, &format!("referrers/{subject}"));
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let access = Access::pull(&turn.route, &target.repository);
        let mut referrers = Vec::new();
        for number in 0..limits::REFERRERS_PAGES {
            let call = self.call(turn, Method::GET, url, target.clone(), access.clone());
            let call = call.header(ACCEPT, HeaderValue::from_static(OCI_INDEX));
            let answer = self.transport().send(call).await?;
            if number == 0 && !knows_referrers(&answer) {
                drain(answer.response).await;
                return Ok(None);
            }
            let answer = self.transport().succeeded(target, answer).await?;
            let filtered = is_filtered(answer.response.headers());
            let next = next_page(&answer, &turn.route, target)?;
            let found = self.read_page(target, answer).await?;
            referrers.extend(found.into_iter().filter(|found| filtered || is_type(found, artifact_type)));
            match next {
                Some(next) => url = next,
                None => return Ok(Some(referrers)),
            }
        }
        Err(Error::malformed(target, format!("more than {} pages", limits::REFERRERS_PAGES)))
    }

    async fn referrers_by_tag(
        &self,
        turn: &Turn,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let tag = referrers_tag(subject);
        let target = Target::manifest(repository, &tag);
        let index = match self.manifest_at(turn, &target, &tag, OCI_INDEX).await {
            Ok(index) => index,
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut referrers = descriptors(&target, &index.bytes)?;
        referrers.retain(|found| is_type(found, artifact_type));
        Ok(referrers)
    }

    async fn read_page(&self, target: &Target, answer: Answer) -> Result<Vec<Descriptor>, Error> {
        let patience = self.transport().http.patience;
        let body = read_whole(answer.response, limits::REFERRERS_PAGE_BYTES, patience)
            .await
            .map_err(|error| Error::from_body(target, error))?;
        descriptors(target, &body)
    }
}

/// Anything but an index means that the path led to no API; refusals and troubles are what they are.
fn knows_referrers(answer: &Answer) -> bool {
    match answer.status().as_u16() {
        200 => content_type(&answer.response) == OCI_INDEX,
        400 | 404 | 405 | 406 | 501 => false,
        _ => true,
    }
}

/// Whether the registry has applied our filter.
fn is_filtered(headers: &HeaderMap) -> bool {
    let values = headers.get_all("oci-filters-applied").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|filter| filter.trim() == "artifactType")
}

fn is_type(found: &Descriptor, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| found.artifact_type().as_ref().is_some_and(|found| found.as_ref() == wanted))
}

/// The descriptors of an index.
fn descriptors(target: &Target, index: &[u8]) -> Result<Vec<Descriptor>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Option<Vec<serde_json::Value>>,
    }
    let index: Index = serde_json::from_slice(index)
        .map_err(|error| Error::malformed(target, format!("is not an index: {error}")))?;
    let read = |value| match serde_json::from_value::<Descriptor>(value) {
        Ok(descriptor) => Some(descriptor),
        Err(error) => {
            tracing::debug!(%target, %error, "left out a malformed descriptor");
            None
        }
    };
    Ok(index.manifests.unwrap_or_default().into_iter().filter_map(read).collect())
}
