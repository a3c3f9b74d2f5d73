//! From a registry's name to the URLs of its API.
//!
//! HTTPS unless the registry is on loopback or was named in `plain_http`; there is no falling back
//! from one to the other. `docker.io` is a name of images, its API lives on another host.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use jaunt_formats::Digest;
use reqwest::Url;

use crate::repository::Repository;

/// The host that serves the API for images of `docker.io`.
const DOCKER_API: &str = "registry-1.docker.io";

/// Builds URLs, knowing which registries speak plain HTTP.
#[derive(Debug)]
pub(crate) struct Endpoints {
    plain_http: BTreeSet<String>,
}

/// A registry's host that no URL can be made of, such as `1.2.3.999`.
#[derive(Debug)]
pub(crate) struct InvalidHost;

impl Endpoints {
    pub(crate) fn new(plain_http: BTreeSet<String>) -> Self {
        Self { plain_http }
    }

    pub(crate) fn manifest(&self, repository: &Repository, name: &str) -> Result<Url, InvalidHost> {
        self.url(repository, &format!("manifests/{name}"))
    }

    pub(crate) fn blob(&self, repository: &Repository, digest: &Digest) -> Result<Url, InvalidHost> {
        self.url(repository, &format!("blobs/{digest}"))
    }

    pub(crate) fn referrers(&self, repository: &Repository, digest: &Digest) -> Result<Url, InvalidHost> {
        self.url(repository, &format!("referrers/{digest}"))
    }

    pub(crate) fn tags(&self, repository: &Repository, count: &str) -> Result<Url, InvalidHost> {
        self.url(repository, &format!("tags/list?n={count}"))
    }

    pub(crate) fn uploads(&self, repository: &Repository) -> Result<Url, InvalidHost> {
        self.url(repository, "blobs/uploads/")
    }

    /// `path` must hold nothing but what repositories, tags and digests may: it is not escaped.
    fn url(&self, repository: &Repository, path: &str) -> Result<Url, InvalidHost> {
        let scheme = if self.is_plain(repository.host()) { "http" } else { "https" };
        let host = match repository.host() {
            "docker.io" | "index.docker.io" => DOCKER_API,
            host => host,
        };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{path}", repository.name())).map_err(|_| InvalidHost)
    }

    fn is_plain(&self, host: &str) -> bool {
        let name = without_port(host);
        is_loopback(name) || self.plain_http.contains(host) || self.plain_http.contains(name)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// Whether a host without its port is this machine: no proxy serves it, no TLS protects it.
pub(crate) fn is_loopback(name: &str) -> bool {
    name == "localhost"
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .and_then(|name| name.parse::<Ipv6Addr>().ok())
            .is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_scheme_and_host() {
        let plain = ["10.0.0.1:5000", "plain.example"].map(str::to_owned);
        let endpoints = Endpoints::new(BTreeSet::from(plain));
        for (repository, want) in [
            ("docker.io/library/alpine", "https://registry-1.docker.io/v2/library/alpine/manifests/t"),
            ("r.example/a/b", "https://r.example/v2/a/b/manifests/t"),
            ("r.example:8443/a", "https://r.example:8443/v2/a/manifests/t"),
            ("localhost:5000/a", "http://localhost:5000/v2/a/manifests/t"),
            ("127.9.9.9:5000/a", "http://127.9.9.9:5000/v2/a/manifests/t"),
            ("[::1]:5000/a", "http://[::1]:5000/v2/a/manifests/t"),
            ("10.0.0.1:5000/a", "http://10.0.0.1:5000/v2/a/manifests/t"),
            ("10.0.0.1:5001/a", "https://10.0.0.1:5001/v2/a/manifests/t"),
            ("plain.example:81/a", "http://plain.example:81/v2/a/manifests/t"),
            ("localhost.example/a", "https://localhost.example/v2/a/manifests/t"),
        ] {
            let url = endpoints.manifest(&repository.parse().unwrap(), "t").unwrap();
            assert_eq!(url.as_str(), want);
        }
    }

    #[test]
    fn refuses_hosts_no_url_can_name() {
        let endpoints = Endpoints::new(BTreeSet::new());
        assert!(endpoints.uploads(&"1.2.3.999/a".parse().unwrap()).is_err());
    }
}
