//! What an image is called on the command line: a place, and a tag or digest in it.

use std::fmt;
use std::str::FromStr;

use jaunt_formats::{Digest, Reference, ReferenceError};

/// An image's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// `host/repository:tag`, `host/repository@digest`.
    Registry(Reference),
}

impl ImageName {
    /// The digest, if the name is pinned to one.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Registry(reference) => reference.digest(),
        }
    }

    /// What to ask the place for: the digest where there is one, else the tag.
    pub fn manifest_name(&self) -> String {
        match self {
            Self::Registry(reference) => reference.manifest_name(),
        }
    }

    /// The same place, another tag.
    pub fn with_tag(&self, tag: &str) -> Self {
        match self {
            Self::Registry(reference) => Self::Registry(reference.with_tag(tag)),
        }
    }

    /// The same place, pinned to `digest`.
    pub fn with_digest(&self, digest: Digest) -> Self {
        match self {
            Self::Registry(reference) => Self::Registry(reference.with_digest(digest)),
        }
    }
}

impl FromStr for ImageName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        text.parse().map(Self::Registry)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
        }
    }
}
