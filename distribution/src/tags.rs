//! The tags of a repository.
//!
//! Spec: OCI distribution-spec 1.1, "Listing Tags" and "Deleting tags".

use reqwest::Method;

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::failover::Need;
use crate::http::{Answer, drain, read_whole};
use crate::limits;
use crate::manifest::ManifestName;
use crate::page::next_page;
use crate::repository::Repository;
use crate::target::Target;
use crate::turn::Turn;

/// Tags asked for at a time. A registry may send fewer.
const PAGE: &str = "1000";

impl Client {
    /// Every tag of a repository, in the registry's order; none when there is no such repository.
    /// What is no valid tag is left out.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<String>, Error> {
        let target = Target::tags(repository);
        let turn = self.own(&target, Need::Resolve).await?;
        match turn.bounded(&target, self.every_tag(&turn, &target)).await {
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Mirrors list what they happen to have: the registry itself is asked.
    async fn every_tag(&self, turn: &Turn, target: &Target) -> Result<Vec<String>, Error> {
        let mut url = turn.route.url(&target.repository, "tags/list");
        url.query_pairs_mut().append_pair("n", PAGE);
        let access = Access::pull(&turn.route, &target.repository);
        let mut tags = Vec::new();
        for _ in 0..limits::TAGS_PAGES {
            let answer =
                self.succeed(self.call(turn, Method::GET, url, target.clone(), access.clone())).await?;
            let next = next_page(&answer, &turn.route, target)?;
            tags.extend(self.read_tags(target, answer).await?);
            match next {
                Some(next) => url = next,
                None => return Ok(tags),
            }
        }
        Err(Error::malformed(target, format!("more than {} pages", limits::TAGS_PAGES)))
    }

    async fn read_tags(&self, target: &Target, answer: Answer) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Listing {
            tags: Option<Vec<String>>,
        }
        let body = read_whole(answer.response, limits::TAGS_PAGE_BYTES, self.transport().http.patience)
            .await
            .map_err(|error| Error::from_body(target, error))?;
        let listing: Listing = serde_json::from_slice(&body)
            .map_err(|error| Error::malformed(target, format!("is not a list of tags: {error}")))?;
        let mut tags = listing.tags.unwrap_or_default();
        tags.retain(|tag| matches!(ManifestName::parse(tag, target), Ok(ManifestName::Tag)));
        Ok(tags)
    }

    /// Deletes a tag and leaves its manifest. `false` when the registry cannot do that: many know only
    /// the deletion of a manifest with all its tags.
    pub async fn delete_tag(&self, repository: &Repository, tag: &str) -> Result<bool, Error> {
        let target = Target::manifest(repository, tag);
        if ManifestName::parse(tag, &target)?.digest().is_some() {
            return Err(Error::InvalidName { target: Box::new(target), reason: "a digest is no tag" });
        }
        let turn = self.own(&target, Need::Push).await?;
        let url = turn.route.url(repository, &format!("manifests/{tag}"));
        let call =
            self.call(&turn, Method::DELETE, url, target.clone(), Access::delete(&turn.route, repository));
        match turn.bounded(&target, self.succeed(call)).await {
            Ok(answer) => {
                drain(answer.response).await;
                Ok(true)
            }
            // How registries that take digests only say so.
            Err(Error::Status { status, .. }) if matches!(status.as_u16(), 400 | 405 | 501) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
