//! The settings themselves, as values.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

/// What a client knows of registries. The default knows nothing: each is reached by its own name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSettings {
    /// By registry, as references name it. What is here is not looked for in `directories`.
    pub registries: BTreeMap<String, RegistryHosts>,
    /// Directories with one directory a registry, in containerd's layout (`hosts.toml`) or Docker's
    /// (`*.crt`, `*.cert` with `*.key`). The first that knows a registry counts; a missing one is empty.
    pub directories: Vec<PathBuf>,
    /// For every registry besides: more trusted authorities, and a client certificate for those that
    /// have none of their own. `skip_verify` here counts for all.
    pub tls: TlsSettings,
}

/// The hosts that serve one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryHosts {
    /// Asked first, in this order, for what they are capable of.
    pub mirrors: Vec<Host>,
    /// Asked last, and for all that is written.
    pub server: Host,
}

/// One host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Where its API is; `None` is where the registry's name leads.
    pub api: Option<ApiRoot>,
    /// What it is asked for.
    pub capabilities: Capabilities,
    /// How it is trusted, and how it can trust us.
    pub tls: TlsSettings,
    /// Sent with every request to this host, and to no other. Mark secrets as sensitive.
    pub headers: HeaderMap,
    /// Instead of [`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout).
    pub connect_timeout: Option<Duration>,
    /// A proxy, instead of the environment's.
    pub proxy: Option<Url>,
}

/// What a host may be asked for. All, by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by digest, which is verified: no trust is needed.
    pub pull: bool,
    /// Tags, which nothing verifies.
    pub resolve: bool,
    /// Listing referrers, which nothing verifies.
    pub referrers: bool,
    /// Writing.
    pub push: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { pull: true, resolve: true, referrers: true, push: true }
    }
}

/// TLS, beyond the system's trusted authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM files of authorities that are trusted besides the system's.
    pub authorities: Vec<PathBuf>,
    /// Client certificates. The first is used.
    pub client: Vec<ClientCertificate>,
    /// Takes any certificate for good.
    pub skip_verify: bool,
}

impl TlsSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A client certificate with its chain, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// A PEM file with the certificate and those between it and its authority.
    pub certificate: PathBuf,
    /// A PEM file with the key; `None` when the certificate's holds it as well.
    pub key: Option<PathBuf>,
}

/// The URL of a host's API: what `/<repository>/manifests/<name>` is appended to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRoot(Url);

impl ApiRoot {
    /// Reads `[http[s]://]host[:port][/path]`. The path gets a `/v2` at its end unless it has one, or
    /// `override_path` says that it is the root as it stands.
    pub fn parse(text: &str, override_path: bool) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url: Url = with_scheme.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        let plain = url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
            return Err(format!("{text:?} is not the URL of a host, with a path at most"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a login in it: credentials belong in a credentials file".to_owned());
        }
        let mut path = url.path().trim_end_matches('/').to_owned();
        if !override_path && !path.ends_with("/v2") {
            path += "/v2";
        }
        url.set_path(&path);
        Ok(Self(url))
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ApiRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_below_v2_unless_told_otherwise() {
        for (text, override_path, want) in [
            ("https://m.example", false, "https://m.example/v2"),
            ("m.example:5000", false, "https://m.example:5000/v2"),
            ("http://m.example/", false, "http://m.example/v2"),
            ("https://m.example/v2/", false, "https://m.example/v2"),
            ("https://m.example/api/docker", false, "https://m.example/api/docker/v2"),
            ("https://m.example/v2/proxy/", true, "https://m.example/v2/proxy"),
            ("https://m.example", true, "https://m.example/"),
        ] {
            assert_eq!(ApiRoot::parse(text, override_path).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for bad in ["", "https://", "httpx://m.example", "https://m.example?x", "https://m.example/#x", "a b"]
        {
            assert!(ApiRoot::parse(bad, false).is_err(), "{bad:?}");
        }
        let error = ApiRoot::parse("https://user:hunter2@m.example", false).unwrap_err();
        assert!(error.contains("credentials file") && !error.contains("hunter2"), "{error}");
    }
}
