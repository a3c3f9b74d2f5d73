//! Image references: `host[:port]/name[:tag][@digest]`, with Docker's short names normalised.
//!
//! Grammar: the distribution project's reference package. A name without a host belongs to
//! `docker.io`, a single-component name there to `library/`, as every container tool reads them.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError};

/// A parsed reference. At least one of tag and digest is set: the tag defaults to `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No repository name.
    #[error("reference {0:?} names no repository")]
    Empty(String),
    /// A URL, or the name of a transport with a reference behind it.
    #[error("reference {reference:?}: write it without {scheme:?}")]
    Scheme {
        /// The whole reference.
        reference: String,
        /// What it starts with.
        scheme: String,
    },
    /// A repository component breaks the grammar.
    #[error("reference {reference:?}: {component:?} is not a valid repository name component")]
    Repository {
        /// The whole reference.
        reference: String,
        /// The offending part.
        component: String,
    },
    /// The host is not `name`, `name:port`, an IPv4 address or a bracketed IPv6 address.
    #[error("reference {reference:?}: {host:?} is not a valid registry host")]
    Host {
        /// The whole reference.
        reference: String,
        /// The offending part.
        host: String,
    },
    /// The tag breaks the grammar.
    #[error("reference {reference:?}: {tag:?} is not a valid tag")]
    Tag {
        /// The whole reference.
        reference: String,
        /// The offending part.
        tag: String,
    },
    /// The digest cannot be verified.
    #[error("reference {reference:?}: {source}")]
    Digest {
        /// The whole reference.
        reference: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// Longer than the 255 bytes a repository name may have.
    #[error("reference {0:?}: repository name is longer than 255 bytes")]
    TooLong(String),
}

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

impl Reference {
    /// The registry, as written: `host` or `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to put in a manifest URL: the digest where there is one, else the tag.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The same repository, another tag.
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// The same repository, pinned to `digest`.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference = || text.to_owned();
        if let Some((scheme, _)) = text.split_once("://") {
            let scheme = format!("{scheme}://");
            return Err(ReferenceError::Scheme { reference: reference(), scheme });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|source| ReferenceError::Digest { reference: reference(), source })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (host, rest) = split_host(rest);
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(ReferenceError::Empty(reference()));
        }
        if name.len() > 255 {
            return Err(ReferenceError::TooLong(reference()));
        }
        if let Some(bad) = name.split('/').find(|component| !is_component(component)) {
            return Err(ReferenceError::Repository { reference: reference(), component: bad.to_owned() });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag { reference: reference(), tag: tag.to_owned() });
        }
        if !is_host(host) {
            return Err(ReferenceError::Host { reference: reference(), host: host.to_owned() });
        }
        let short = host == DEFAULT_HOST && !name.contains('/');
        Ok(Self {
            host: host.to_owned(),
            repository: if short { format!("library/{name}") } else { name.to_owned() },
            tag: match (tag, digest) {
                (None, None) => Some(DEFAULT_TAG.to_owned()),
                (tag, _) => tag.map(str::to_owned),
            },
            digest,
        })
    }
}

/// The first component is a host when it has a dot, a port or capitals, or is `localhost`.
fn split_host(rest: &str) -> (&str, &str) {
    match rest.split_once('/') {
        Some(("index.docker.io", name)) => (DEFAULT_HOST, name),
        Some((first, name))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, name)
        }
        _ => (DEFAULT_HOST, rest),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name_ok = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.split('.').all(is_host_label),
    };
    name_ok && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_host_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// Lower-case alphanumerics joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges_ok =
        matches!((bytes.first(), bytes.last()), (Some(&a), Some(&z)) if alphanumeric(a) && alphanumeric(z));
    edges_ok
        && component
            .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_what_container_tools_normalise() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("[::1]:5000/a@{digest}");
        let both = format!("localhost/a:t@{digest}");
        for (text, want) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("user/app:v1", "docker.io/user/app:v1"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/a/b__c:1.0-x", "127.0.0.1:5000/a/b__c:1.0-x"),
            (&pinned, &pinned),
            (&both, &both),
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()).as_deref(), Ok(want));
        }
    }

    #[test]
    fn refuses_what_no_registry_would_take() {
        for bad in [
            "",
            "a/",
            "A",
            "a:",
            "a:-x",
            "a.b/",
            "x..y",
            "-a/b",
            "h.o:99999/a",
            "-h.o/a",
            "a@sha256:00",
            "a b",
            "é",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was accepted");
        }
        let error = "docker://h.io/a".parse::<Reference>().map_err(|error| error.to_string());
        assert_eq!(error, Err(r#"reference "docker://h.io/a": write it without "docker://""#.to_owned()));
    }
}
