//! A route: one host that serves a registry's content, and how it is asked.

use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::hosts::dial::Dial;
use crate::hosts::name::host_of;
use crate::hosts::settings::Capabilities;
use crate::hosts::standing::Standing;
use crate::repository::Repository;

/// The host that serves the API for images of `docker.io`.
pub(crate) const DOCKER_API: &str = "registry-1.docker.io";

/// One host of a registry.
#[derive(Debug)]
pub(crate) struct Route {
    api: Url,
    /// The host whose credentials are sent: the registry as references name it, or the mirror.
    host: String,
    /// For a host that serves others' content: which registry is meant, as containerd tells its mirrors.
    namespace: Option<String>,
    pub(crate) capabilities: Capabilities,
    /// Sent to this host only.
    pub(crate) headers: HeaderMap,
    pub(crate) dial: Dial,
    pub(crate) standing: Standing,
}

impl Route {
    pub(crate) fn new(
        registry: &str,
        api: Url,
        capabilities: Capabilities,
        headers: HeaderMap,
        dial: Dial,
        standing: Standing,
    ) -> Self {
        let at = host_of(&api);
        let is_own = at == registry || is_docker(registry) && at == DOCKER_API;
        let (host, namespace) =
            if is_own { (registry.to_owned(), None) } else { (at, Some(registry.to_owned())) };
        Self { api, host, namespace, capabilities, headers, dial, standing }
    }

    /// The host as a person knows it, and as credentials are filed.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn api(&self) -> &Url {
        &self.api
    }

    /// The URL of something in a repository. `path` must hold nothing but what repositories, tags and
    /// digests may: it is not escaped.
    pub(crate) fn url(&self, repository: &Repository, path: &str) -> Url {
        let mut url = self.api.clone();
        let root = url.path().trim_end_matches('/');
        let whole = format!("{root}/{}/{path}", repository.name());
        url.set_path(&whole);
        self.named(url)
    }

    /// A URL that the host itself gave out, such as a listing's next page.
    pub(crate) fn named(&self, mut url: Url) -> Url {
        if let Some(namespace) = &self.namespace
            && !url.query_pairs().any(|(name, _)| name == "ns")
        {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// A repository's name as this host knows it: what its path has behind `/v2/` belongs to it.
    pub(crate) fn name_of(&self, repository: &Repository) -> String {
        let prefix =
            self.api.path().split_once("/v2/").map_or("", |(_, prefix)| prefix.trim_end_matches('/'));
        match prefix {
            "" => repository.name().to_owned(),
            prefix => format!("{prefix}/{}", repository.name()),
        }
    }
}

/// The names that images of Docker Hub go by.
pub(crate) fn is_docker(registry: &str) -> bool {
    matches!(registry, "docker.io" | "index.docker.io")
}
