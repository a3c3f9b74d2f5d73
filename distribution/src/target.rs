//! What a request is about. Every error names it.

use std::fmt;

use jaunt_formats::Digest;

use crate::repository::Repository;

/// One object of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub repository: Repository,
    /// What.
    pub object: Object,
}

/// The kinds of object a registry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A manifest, by tag or digest.
    Manifest(String),
    /// A blob.
    Blob(Digest),
    /// The list of a manifest's referrers.
    Referrers(Digest),
    /// The list of a repository's tags.
    Tags,
    /// A blob on its way to the registry.
    Upload,
}

impl Target {
    pub(crate) fn manifest(repository: &Repository, name: &str) -> Self {
        Self { repository: repository.clone(), object: Object::Manifest(name.to_owned()) }
    }

    pub(crate) fn blob(repository: &Repository, digest: &Digest) -> Self {
        Self { repository: repository.clone(), object: Object::Blob(*digest) }
    }

    pub(crate) fn referrers(repository: &Repository, digest: &Digest) -> Self {
        Self { repository: repository.clone(), object: Object::Referrers(*digest) }
    }

    pub(crate) fn tags(repository: &Repository) -> Self {
        Self { repository: repository.clone(), object: Object::Tags }
    }

    pub(crate) fn upload(repository: &Repository) -> Self {
        Self { repository: repository.clone(), object: Object::Upload }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, object } = self;
        write!(f, "registry {}: repository {}: {object}", repository.host(), repository.name())
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(name) => write!(f, "manifest {name}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Referrers(digest) => write!(f, "referrers of {digest}"),
            Self::Tags => f.write_str("list of tags"),
            Self::Upload => write!(f, "blob upload"),
        }
    }
}
