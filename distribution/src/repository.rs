//! A repository of a registry: what every request is addressed to.

use std::fmt;
use std::str::FromStr;

use jaunt_formats::{Reference, ReferenceError};

/// A registry's host and the name of a repository there, both valid by construction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    host: String,
    name: String,
}

impl Repository {
    /// The registry, as written: `host` or `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name within the registry.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<&Reference> for Repository {
    fn from(reference: &Reference) -> Self {
        Self { host: reference.host().to_owned(), name: reference.repository().to_owned() }
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    /// Reads `host/name`, with Docker's short names normalised; a tag or digest is refused.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        // With a tag appended, a tag or digest already there breaks the grammar of references.
        format!("{text}:latest").parse::<Reference>().map(|reference| Self::from(&reference))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_host_and_name() {
        for (text, want) in [
            ("localhost:5000/a/b", "localhost:5000/a/b"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("alpine", "docker.io/library/alpine"),
        ] {
            assert_eq!(text.parse::<Repository>().map(|r| r.to_string()).as_deref(), Ok(want));
        }
    }

    #[test]
    fn refuses_tags_digests_and_bare_hosts() {
        let digest = format!("h.example/a@sha256:{}", "a".repeat(64));
        for bad in ["h.example/a:tag", &digest, "", "localhost:5000", "h.example/../a", "h.example/a?b"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?} was accepted");
        }
    }
}
