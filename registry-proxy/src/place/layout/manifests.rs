//! A layout's manifests: found by name or digest, listed, and looked through for their subjects.

use bytes::Bytes;
use jaunt_distribution::limits::MANIFEST_BYTES;
use jaunt_distribution::{Manifest, PushedManifest, referrers_tag};
use jaunt_formats::Digest;
use jaunt_formats::media_type::{DOCKER_CONFIG, OCI_CONFIG};

use super::error::LayoutError;
use super::files::{Files, read_if_exists};
use super::index::{Index, Selector, Unselected};
use crate::manifest::{Descriptor, ImageIndex, Relation};
use crate::place::TagMove;

/// index.json of a hundred thousand tags has less.
const INDEX_LIMIT: u64 = 32 << 20;

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

/// Every name that is given.
pub fn tags(files: &Files) -> Result<Vec<String>, LayoutError> {
    Ok(read_index(files)?.names().map(str::to_owned).collect())
}

/// Stores a manifest, and lists it under its name. Under its digest alone it is listed if it has a
/// subject: other manifests are found through the index that names them.
pub fn write(
    files: &Files,
    name: &str,
    media_type: &str,
    bytes: &Bytes,
) -> Result<PushedManifest, LayoutError> {
    let (digest, name) = (Digest::of(bytes), Name::parse(name));
    if let Name::Digest(expected) = name
        && expected != digest
    {
        return Err(LayoutError::DigestMismatch { path: files.blob_path(&digest), expected, actual: digest });
    }
    let (descriptor, subject) = store(files, media_type, bytes)?;
    match name {
        Name::Tag(selector) => update_index(files, |index| index.set(selector, &descriptor))?,
        Name::Digest(_) if subject.is_some() => update_index(files, |index| index.list(&descriptor))?,
        Name::Digest(_) => {}
    }
    Ok(PushedManifest { digest, subject })
}

/// Has a name mean another manifest, if it still means what is expected.
pub fn move_tag(
    files: &Files,
    name: &str,
    expected: Option<Digest>,
    media_type: &str,
    bytes: &Bytes,
) -> Result<TagMove, LayoutError> {
    let Name::Tag(selector) = Name::parse(name) else {
        return Err(LayoutError::malformed(files.directory(), "a digest is no name that could move"));
    };
    let (descriptor, _) = store(files, media_type, bytes)?;
    update_index(files, |index| {
        let now = index.find(selector).ok().map(|found| found.digest);
        if now != expected {
            return TagMove::Stale(now);
        }
        index.set(selector, &descriptor);
        TagMove::Done
    })
}

/// Takes a manifest off the list, whatever it is called there.
pub fn delete(files: &Files, digest: &Digest) -> Result<(), LayoutError> {
    let directory = files.directory().to_owned();
    if !update_index_if_there(files, |index| index.remove(digest))? {
        return Err(LayoutError::NotFound { directory, what: format!("manifest {digest}") });
    }
    Ok(())
}

/// Takes a name from a manifest.
pub fn delete_tag(files: &Files, tag: &str) -> Result<bool, LayoutError> {
    let directory = files.directory().to_owned();
    if !update_index_if_there(files, |index| index.remove_name(tag))? {
        return Err(LayoutError::NotFound { directory, what: format!("manifest {tag}") });
    }
    Ok(true)
}

/// Stores a manifest's bytes; what would list it, and its subject.
fn store(
    files: &Files,
    media_type: &str,
    bytes: &Bytes,
) -> Result<(Descriptor, Option<Digest>), LayoutError> {
    let digest = Digest::of(bytes);
    if bytes.len() as u64 > MANIFEST_BYTES {
        return Err(LayoutError::TooLarge { path: files.blob_path(&digest), limit: MANIFEST_BYTES });
    }
    files.make_layout()?;
    files.write_blob(&digest, bytes)?;
    let relation = Relation::of(bytes).unwrap_or_default();
    let descriptor = Descriptor {
        artifact_type: relation.artifact_type().filter(|kind| !is_of_an_image(kind)),
        ..Descriptor::new(media_type, digest, bytes.len() as u64)
    };
    Ok((descriptor, relation.subject()))
}

fn is_of_an_image(config_type: &str) -> bool {
    [OCI_CONFIG, DOCKER_CONFIG].contains(&config_type)
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
        if relation.subject() == Some(*subject) {
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

/// Reads what an entry of index.json names. What is not there, or is no manifest, refers to nothing.
fn relation(files: &Files, listed: &Descriptor) -> Result<Option<Relation>, LayoutError> {
    match files.read_blob(&listed.digest, MANIFEST_BYTES) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| Relation::of(&bytes))),
        Err(error @ LayoutError::Io { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "an entry of index.json is passed over");
            Ok(None)
        }
    }
}

pub fn read_index(files: &Files) -> Result<Index, LayoutError> {
    let path = files.index_path();
    match read_if_exists(&path, INDEX_LIMIT)? {
        None => Ok(Index::empty()),
        Some(bytes) => Index::parse(&bytes).map_err(|reason| LayoutError::malformed(path, reason)),
    }
}

/// Changes index.json, which nobody else does meanwhile.
fn update_index<T>(files: &Files, change: impl FnOnce(&mut Index) -> T) -> Result<T, LayoutError> {
    let _lock = files.lock()?;
    let mut index = read_index(files)?;
    let before = index.to_bytes();
    let result = change(&mut index);
    let after = index.to_bytes();
    if after != before || !files.index_path().exists() {
        files.replace_index(&after)?;
    }
    Ok(result)
}

/// The same, without making a layout of what is none.
fn update_index_if_there(
    files: &Files,
    change: impl FnOnce(&mut Index) -> bool,
) -> Result<bool, LayoutError> {
    if files.is_layout()? { update_index(files, change) } else { Ok(false) }
}
