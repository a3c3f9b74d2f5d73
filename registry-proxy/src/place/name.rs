//! What an image is called on the command line: a place, and a tag or digest in it.
//!
//! ```text
//! host/repository:tag    host/repository@sha256:<hex>       a registry's, with Docker's short names
//! oci:DIR    oci:DIR:tag    oci:DIR@sha256:<hex>            an OCI layout's, as skopeo writes them
//! ```
//!
//! DIR ends at the first colon. Without a tag it is the image `latest`, else the only one there is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jaunt_formats::{Digest, DigestError, Reference, ReferenceError};

const LAYOUT_PREFIX: &str = "oci:";
/// What names in layouts may have beside letters and digits. Registries allow less of a tag.
const TAG_PUNCTUATION: &[u8] = b"-._:@+/";
/// As long as a repository's name and a tag together.
const MAX_TAG_LEN: usize = 255 + 1 + 128;

/// An image's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// In a registry.
    Registry(Reference),
    /// In an OCI layout on disk.
    Layout(LayoutName),
}

/// An image's name in an OCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutName {
    directory: PathBuf,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("{0:?} names no directory after oci:")]
    NoDirectory(String),
    #[error("{name:?}: {tag:?} is not a valid tag")]
    Tag { name: String, tag: String },
    #[error("{name:?}: {source}")]
    Digest { name: String, source: DigestError },
}

impl LayoutName {
    /// The layout's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl ImageName {
    /// The digest, if the name is pinned to one.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Registry(reference) => reference.digest(),
            Self::Layout(name) => name.digest,
        }
    }

    /// Whether the name picks an image of its place. The tag that every name has by default picks none.
    pub fn is_one_image(&self) -> bool {
        match self {
            Self::Registry(reference) => {
                reference.digest().is_some() || reference.tag().is_some_and(|tag| tag != "latest")
            }
            Self::Layout(name) => name.digest.is_some() || name.tag.is_some(),
        }
    }

    /// What to ask the place for: the digest where there is one, else the tag; empty for a layout's
    /// only image.
    pub fn manifest_name(&self) -> String {
        match self {
            Self::Registry(reference) => reference.manifest_name(),
            Self::Layout(LayoutName { digest: Some(digest), .. }) => digest.to_string(),
            Self::Layout(name) => name.tag.clone().unwrap_or_default(),
        }
    }

    /// The place, without an image in it.
    pub fn place_name(&self) -> String {
        match self {
            Self::Registry(reference) => format!("{}/{}", reference.host(), reference.repository()),
            Self::Layout(name) => format!("{LAYOUT_PREFIX}{}", name.directory.display()),
        }
    }

    /// The same place, another tag.
    pub fn with_tag(&self, tag: &str) -> Self {
        match self {
            Self::Registry(reference) => Self::Registry(reference.with_tag(tag)),
            Self::Layout(name) => {
                Self::Layout(LayoutName { tag: Some(tag.to_owned()), digest: None, ..name.clone() })
            }
        }
    }

    /// The same place, pinned to `digest`.
    pub fn with_digest(&self, digest: Digest) -> Self {
        match self {
            Self::Registry(reference) => Self::Registry(reference.with_digest(digest)),
            Self::Layout(name) => {
                Self::Layout(LayoutName { tag: None, digest: Some(digest), ..name.clone() })
            }
        }
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(LAYOUT_PREFIX) {
            Some(rest) => parse_layout(text, rest).map(Self::Layout),
            None => Ok(Self::Registry(text.parse()?)),
        }
    }
}

fn parse_layout(text: &str, rest: &str) -> Result<LayoutName, NameError> {
    let (rest, digest) = match rest.rsplit_once('@') {
        Some((rest, digest)) if digest.contains(':') && !digest.contains('/') => {
            let digest =
                digest.parse().map_err(|source| NameError::Digest { name: text.to_owned(), source })?;
            (rest, Some(digest))
        }
        _ => (rest, None),
    };
    let (directory, tag) = match rest.split_once(':') {
        Some((directory, tag)) => (directory, Some(tag)),
        None => (rest, None),
    };
    if directory.is_empty() {
        return Err(NameError::NoDirectory(text.to_owned()));
    }
    if let Some(bad) = tag.filter(|tag| !is_tag(tag)) {
        return Err(NameError::Tag { name: text.to_owned(), tag: bad.to_owned() });
    }
    Ok(LayoutName { directory: directory.into(), tag: tag.map(str::to_owned), digest })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= MAX_TAG_LEN
        && bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|byte| word(byte) || TAG_PUNCTUATION.contains(byte))
        && tag.parse::<Digest>().is_err()
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(LayoutName { directory, tag, digest }) => {
                write!(f, "{LAYOUT_PREFIX}{}", directory.display())?;
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
                digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_named_as_skopeo_names_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let (pinned, both) = (format!("oci:/d@{digest}"), format!("oci:d:t@{digest}"));
        for (text, directory, asked) in [
            ("oci:/var/x", "/var/x", ""),
            ("oci:x:v1", "x", "v1"),
            ("oci:./a@b/c:docker.io/library/x:1.0", "./a@b/c", "docker.io/library/x:1.0"),
            (&pinned, "/d", &digest),
            (&both, "d", &digest),
        ] {
            let name: ImageName = text.parse().unwrap();
            let ImageName::Layout(layout) = &name else { panic!("{text} is no layout") };
            assert_eq!((layout.directory(), name.manifest_name()), (Path::new(directory), asked.to_owned()));
            assert_eq!(name.to_string(), text);
            assert_eq!(name.to_string().parse::<ImageName>().unwrap(), name);
        }
        assert!(matches!("h.io/oci:v1".parse(), Ok(ImageName::Registry(_))));
    }

    #[test]
    fn names_that_name_nothing_are_refused() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for bad in ["oci:", "oci::t", "oci:d:", "oci:d: x", "oci:d:-x", "oci:d@sha256:12", "oci:d@sha512:aa"]
        {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?} was accepted");
        }
        assert!(format!("oci:d:{digest}").parse::<ImageName>().is_err());
    }
}
