//! Walks an index, and the indexes within it, down to the manifests of images.
//!
//! An index may name indexes, which may name others. Digests rule out rings; depth and number are limited,
//! so that no document makes us fetch without end.

use jaunt_distribution::Manifest;
use serde_json::Value;

use super::{ACCEPT, Skipped};
use crate::error::Error;
use crate::manifest::{self, Descriptor, Kind};
use crate::place::{ImageName, Place};

/// Indexes within each other. In use are two.
const MAX_DEPTH: usize = 8;
/// Entries of all indexes together.
const MAX_ENTRIES: usize = 4096;
/// Bytes of all manifests together, which are held at the same time.
const MAX_BYTES: usize = 256 << 20;

/// How much one reference may stand for.
pub struct Budget {
    reference: String,
    entries: usize,
    bytes: usize,
}

impl Budget {
    pub fn new(reference: &ImageName) -> Self {
        Self { reference: reference.to_string(), entries: MAX_ENTRIES, bytes: MAX_BYTES }
    }

    /// Takes what a manifest has that will be held.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Error> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| self.exceeded(format!("manifests of over {MAX_BYTES} bytes")))?;
        Ok(())
    }

    fn take_entry(&mut self) -> Result<(), Error> {
        let left = self.entries.checked_sub(1);
        self.entries = left.ok_or_else(|| self.exceeded(format!("more than {MAX_ENTRIES} manifests")))?;
        Ok(())
    }

    fn exceeded(&self, what: String) -> Error {
        Error::TooMuch { reference: self.reference.clone(), what }
    }
}

/// What was found.
#[derive(Default)]
pub struct Walk {
    /// Each after those that it names.
    pub indexes: Vec<Manifest>,
    /// What are images, as far as their indexes tell; in order, some of them twice.
    pub leaves: Vec<Descriptor>,
    pub skipped: Vec<Skipped>,
    pub failed: Vec<Error>,
}

impl Walk {
    /// The walk from an image is a short one.
    pub fn of_image(top: &Manifest) -> Self {
        let leaf = Descriptor::new(&top.media_type, top.digest, top.bytes.len() as u64);
        Self { leaves: vec![leaf], ..Self::default() }
    }

    fn skip(&mut self, digest: impl ToString, reason: impl Into<String>) {
        self.skipped.push(Skipped { digest: digest.to_string(), reason: reason.into() });
    }
}

/// An index whose entries are being visited.
struct Level {
    index: Manifest,
    entries: std::vec::IntoIter<Value>,
}

impl Level {
    fn of(index: Manifest, budget: &mut Budget) -> Result<Self, Error> {
        budget.hold(index.bytes.len())?;
        let document: manifest::LooseIndex = manifest::parse("index", index.digest, &index.bytes)?;
        Ok(Self { index, entries: document.manifests.into_iter() })
    }
}

/// Walks from `top`, which is an index.
pub async fn walk(place: &Place, top: &Manifest, budget: &mut Budget) -> Result<Walk, Error> {
    let mut walk = Walk::default();
    let mut levels = vec![Level::of(top.clone(), budget)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            walk.indexes.extend(levels.pop().map(|level| level.index));
            continue;
        };
        budget.take_entry()?;
        let Some(within) = visit(place, &mut walk, &entry).await? else { continue };
        if levels.len() == MAX_DEPTH {
            return Err(budget.exceeded(format!("indexes more than {MAX_DEPTH} deep")));
        }
        levels.push(Level::of(within, budget)?);
    }
    Ok(walk)
}

/// Sorts one entry; an index within this one is returned, unless it was walked before.
async fn visit(place: &Place, walk: &mut Walk, entry: &Value) -> Result<Option<Manifest>, Error> {
    let descriptor: Descriptor = match serde_json::from_value(entry.clone()) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            let digest = entry.get("digest").and_then(Value::as_str).unwrap_or("an entry").to_owned();
            walk.skip(digest, format!("what the index says of it is not understood: {error}"));
            return Ok(None);
        }
    };
    if descriptor.annotation("vnd.docker.reference.type") == Some("attestation-manifest") {
        walk.skip(descriptor.digest, "an attestation");
        return Ok(None);
    }
    match manifest::kind(&descriptor.media_type) {
        Kind::Image => walk.leaves.push(descriptor),
        Kind::Index => return enter(place, walk, descriptor).await,
        // Entries without a media type are against the spec, and there.
        Kind::Other if descriptor.media_type.is_empty() => return enter(place, walk, descriptor).await,
        Kind::Schema1 => walk.skip(descriptor.digest, "an image of Docker's schema 1"),
        Kind::Other => {
            walk.skip(
                descriptor.digest,
                format!("of media type {:?}, which is no image", descriptor.media_type),
            );
        }
    }
    Ok(None)
}

/// Fetches what may be an index.
async fn enter(place: &Place, walk: &mut Walk, entry: Descriptor) -> Result<Option<Manifest>, Error> {
    if walk.indexes.iter().any(|walked| walked.digest == entry.digest) {
        return Ok(None);
    }
    match place.manifest(&entry.digest.to_string(), &ACCEPT).await {
        Ok(found) if manifest::is_index(&found) => return Ok(Some(found)),
        Ok(_) => walk.leaves.push(entry),
        // One index that cannot be had takes nothing from the others.
        Err(error) => walk.failed.push(error.into()),
    }
    Ok(None)
}
