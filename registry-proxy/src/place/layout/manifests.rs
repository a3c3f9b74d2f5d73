//! A layout's manifests: found by name or digest, listed, and looked through for their subjects.

use bytes::Bytes;
use jaunt_distribution::limits::MANIFEST_BYTES;
use jaunt_distribution::{Manifest, PushedManifest, referrers_tag};
use jaunt_formats::Digest;
use serde::Deserialize;

use super::error::LayoutError;
use super::files::{Files, read_if_exists};
use super::index::{Index, Selector, Unselected};
use crate::manifest::{Annotations, Descriptor, ImageIndex};

/// index.json of a hundred thousand tags has less.
const INDEX_LIMIT: u64 = 64 << 20;

/// What a name asks for.
enum Name<'n> {
    Digest(Digest),
    Tag(Selector<'n>),
}

impl<'n> Name<'n> {
    fn parse(name: &'n str) -> Self {
        match name.parse() {
            Ok(digest) => Self::Digest(digest),
            Err(_) if name.is_empty() => Self::Tag(Selector::Default),
            Err(_) => Self::Tag(Selector::Name(name)),
        }
    }
}

/// A manifest by tag or digest, verified.
pub fn read(files: &Files, name: &str) -> Result<Manifest, LayoutError> {
    let not_found = |what| LayoutError::NotFound { directory: files.directory().to_owned(), what };
    if !files.is_layout()? {
        return Err(not_found("file oci-layout: it is no OCI layout".to_owned()));
    }
    let index = read_index(files)?;
    let descriptor = match Name::parse(name) {
        Name::Digest(digest) => index.descriptors().find(|listed| listed.digest == digest),
        Name::Tag(selector) => Some(index.find(selector).map_err(|unselected| match unselected {
            Unselected::None if name.is_empty() => not_found("image".to_owned()),
            Unselected::None => not_found(format!("manifest {name}")),
            Unselected::Several(names) => {
                let (directory, images) = (files.directory().to_owned(), names.join(", "));
                LayoutError::Ambiguous { directory, images }
            }
        })?),
    };
    let digest = match (&descriptor, Name::parse(name)) {
        (_, Name::Digest(digest)) => digest,
        (Some(descriptor), _) => descriptor.digest,
        (None, Name::Tag(_)) => return Err(not_found(format!("manifest {name}"))),
    };
    let bytes = files.read_blob(&digest, MANIFEST_BYTES)?;
    let bytes = bytes.ok_or_else(|| not_found(format!("manifest {digest}")))?;
    let media_type = descriptor.map(|descriptor| descriptor.media_type).unwrap_or_default();
    Ok(Manifest { media_type, digest, bytes })
}

/// Stores a manifest, and lists it under its name. Under its digest alone it is listed if it has a
/// subject: other manifests are found through the index that names them.
pub fn write(
    files: &Files,
    name: &str,
    media_type: &str,
    bytes: &Bytes,
) -> Result<PushedManifest, LayoutError> {
    let digest = Digest::of(bytes);
    let path = files.blob_path(&digest);
    if bytes.len() as u64 > MANIFEST_BYTES {
        return Err(LayoutError::TooLarge { path, limit: MANIFEST_BYTES });
    }
    let name = match Name::parse(name) {
        Name::Digest(expected) if expected != digest => {
            return Err(LayoutError::DigestMismatch { path, expected, actual: digest });
        }
        name => name,
    };
    files.make_layout()?;
    files.write_blob(&digest, bytes)?;
    let relation = serde_json::from_slice(bytes).unwrap_or(Relation::default());
    let subject = relation.subject.as_ref().map(|subject| subject.digest);
    let descriptor = Descriptor {
        artifact_type: relation.artifact_type.or_else(|| relation.config?.not_of_an_image()),
        ..Descriptor::new(media_type, digest, bytes.len() as u64)
    };
    match name {
        Name::Tag(selector) => update_index(files, |index| index.set(selector, &descriptor))?,
        Name::Digest(_) if subject.is_some() => update_index(files, |index| index.list(&descriptor))?,
        Name::Digest(_) => {}
    }
    Ok(PushedManifest { digest, subject })
}

/// The manifests that name `subject`, and those that the fallback tag of the distribution spec lists.
pub fn referrers(
    files: &Files,
    subject: &Digest,
    wanted: Option<&str>,
) -> Result<Vec<Descriptor>, LayoutError> {
    let index = read_index(files)?;
    let is_wanted =
        |found: &Descriptor| wanted.is_none_or(|wanted| found.artifact_type.as_deref() == Some(wanted));
    let mut referrers: Vec<Descriptor> = Vec::new();
    let mut add = |found: Descriptor| {
        if is_wanted(&found) && !referrers.iter().any(|known| known.digest == found.digest) {
            referrers.push(found);
        }
    };
    for listed in index.descriptors() {
        let Some(relation) = relation(files, &listed)? else { continue };
        if relation.subject.as_ref().is_some_and(|named| named.digest == *subject) {
            add(relation.describe(listed));
        }
    }
    if let Ok(list) = index.find(Selector::Name(&referrers_tag(subject)))
        && let Some(bytes) = files.read_blob(&list.digest, MANIFEST_BYTES)?
        && let Ok(list) = serde_json::from_slice::<ImageIndex>(&bytes)
    {
        list.manifests.into_iter().for_each(add);
    }
    Ok(referrers)
}

/// What a manifest says of itself, as much as one who looks for referrers wants to know.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Relation {
    artifact_type: Option<String>,
    config: Option<Config>,
    subject: Option<Descriptor>,
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    media_type: String,
}

impl Config {
    fn not_of_an_image(self) -> Option<String> {
        (!self.media_type.is_empty() && !self.media_type.contains("image")).then_some(self.media_type)
    }
}

impl Relation {
    /// The descriptor that a registry would list: an artifact without a type has that of its config.
    fn describe(self, listed: Descriptor) -> Descriptor {
        let artifact_type = self.artifact_type.or(self.config.map(|config| config.media_type));
        Descriptor { artifact_type, annotations: self.annotations, ..listed }
    }
}

/// Reads what an entry of index.json names. What is not there, or is no manifest, refers to nothing.
fn relation(files: &Files, listed: &Descriptor) -> Result<Option<Relation>, LayoutError> {
    match files.read_blob(&listed.digest, MANIFEST_BYTES) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        Err(error @ LayoutError::Io { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "an entry of index.json is passed over");
            Ok(None)
        }
    }
}

fn read_index(files: &Files) -> Result<Index, LayoutError> {
    let path = files.index_path();
    match read_if_exists(&path, INDEX_LIMIT)? {
        None => Ok(Index::empty()),
        Some(bytes) => Index::parse(&bytes).map_err(|reason| LayoutError::malformed(path, reason)),
    }
}

/// Changes index.json, which nobody else does meanwhile.
fn update_index(files: &Files, change: impl FnOnce(&mut Index)) -> Result<(), LayoutError> {
    let _lock = files.lock()?;
    let mut index = read_index(files)?;
    let before = index.to_bytes();
    change(&mut index);
    let after = index.to_bytes();
    if after == before && files.index_path().exists() {
        return Ok(());
    }
    files.replace_index(&after)
}
