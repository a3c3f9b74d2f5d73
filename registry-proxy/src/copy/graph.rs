//! Walks from a manifest to all that it names and all that refers to it.

use std::collections::HashSet;

use futures_util::future::BoxFuture;
use jaunt_distribution::Manifest;
use jaunt_formats::Digest;
use serde::Deserialize;

use super::blobs;
use crate::error::Error;
use crate::image::ACCEPT;
use crate::manifest::{self, Descriptor, ImageIndex, Kind, Relation};
use crate::place::Place;
use crate::referrers;

/// Manifests within indexes, referrers of referrers: in use are four.
const MAX_DEPTH: usize = 16;
/// Manifests of all kinds.
const MAX_MANIFESTS: usize = 8192;
/// An artifact's manifest as the image spec had it before 1.1.
const OLD_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Tags made of a digest. Others keep an original, or what is not finished: those stay where they are.
const SUFFIXES: [&str; 4] = ["jaunt", "sig", "att", "sbom"];

/// What a copy took along.
#[derive(Debug)]
pub struct Copied {
    pub top: Digest,
    pub manifests: usize,
    pub referrers: Vec<Descriptor>,
    /// Tags made of digests.
    pub tags: Vec<String>,
    /// Such tags that name something else at the target, of which something would be lost.
    pub left_alone: Vec<String>,
    /// What is named, and not there.
    pub missing: Vec<String>,
    pub bytes: u64,
}

/// A copy under way.
pub struct Graph<'p> {
    source: &'p Place,
    target: &'p Place,
    /// The source's tags that are made of digests; `None` until they are asked for.
    tags: Option<HashSet<String>>,
    seen: HashSet<Digest>,
    copied: Copied,
}

impl<'p> Graph<'p> {
    pub fn new(source: &'p Place, target: &'p Place, top: Digest) -> Self {
        let copied = Copied {
            top,
            manifests: 0,
            referrers: Vec::new(),
            tags: Vec::new(),
            left_alone: Vec::new(),
            missing: Vec::new(),
            bytes: 0,
        };
        Self { source, target, tags: None, seen: HashSet::new(), copied }
    }

    /// Copies everything but the tag.
    pub async fn copy(&mut self, top: Manifest) -> Result<(), Error> {
        self.manifest(top, 0).await
    }

    pub fn finish(self) -> Copied {
        self.copied
    }

    fn manifest(&mut self, manifest: Manifest, depth: usize) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let digest = manifest.digest;
            if !self.seen.insert(digest) {
                return Ok(());
            }
            if depth > MAX_DEPTH || self.seen.len() > MAX_MANIFESTS {
                let what = format!("more than {MAX_MANIFESTS} manifests, or {MAX_DEPTH} behind each other");
                return Err(Error::TooMuch { reference: self.copied.top.to_string(), what });
            }
            if manifest::is_index(&manifest) {
                self.entries(&manifest, depth).await?;
            } else {
                self.blobs(&manifest).await?;
            }
            self.push(&manifest).await?;
            self.referrers(&digest, depth).await?;
            self.derived_tags(&digest, depth).await
        })
    }

    /// Copies what an index names.
    async fn entries(&mut self, index: &Manifest, depth: usize) -> Result<(), Error> {
        let entries = manifest::parse::<ImageIndex>("index", index.digest, &index.bytes)?.manifests;
        for entry in entries {
            if let Some(found) = self.find(&entry.digest).await? {
                self.manifest(found, depth + 1).await?;
            } else if self.source.blob_exists(&entry.digest).await?.is_some() {
                self.move_blobs(vec![entry]).await?;
            } else {
                // Whether an index may name what is not there, the target decides.
                self.copied.missing.push(format!("manifest {}, which {} names", entry.digest, index.digest));
            }
        }
        Ok(())
    }

    /// Copies the blobs that a manifest names.
    async fn blobs(&mut self, manifest: &Manifest) -> Result<(), Error> {
        if manifest::kind(&manifest.media_type) == Kind::Schema1 {
            return Err(Error::Schema1 { reference: self.copied.top.to_string(), digest: manifest.digest });
        }
        self.move_blobs(manifest::blobs(manifest)?).await
    }

    async fn move_blobs(&mut self, blobs: Vec<Descriptor>) -> Result<(), Error> {
        let moved = blobs::copy(self.source, self.target, blobs).await?;
        self.copied.bytes += moved.bytes;
        let missing = moved.missing.into_iter();
        self.copied.missing.extend(missing.map(|blob| format!("foreign layer {}", blob.digest)));
        Ok(())
    }

    /// Stores a manifest under its digest, and lists it where its subject would not.
    async fn push(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let (digest, bytes) = (manifest.digest, manifest.bytes.clone());
        let size = bytes.len() as u64;
        let pushed = self.target.push_manifest(&digest.to_string(), &manifest.media_type, bytes).await?;
        self.copied.manifests += 1;
        let relation = Relation::of(&manifest.bytes).unwrap_or_default();
        if let (Some(subject), None) = (relation.subject(), pushed.subject) {
            let described = relation.describe(Descriptor::new(&manifest.media_type, digest, size));
            referrers::list(self.target, &subject, &described).await?;
        }
        Ok(())
    }

    async fn referrers(&mut self, subject: &Digest, depth: usize) -> Result<(), Error> {
        for referrer in self.source.referrers(subject, None).await? {
            let Some(found) = self.find(&referrer.digest).await? else {
                // Lists outlive what they name.
                self.copied.missing.push(format!("referrer {} of {subject}", referrer.digest));
                continue;
            };
            self.manifest(found, depth + 1).await?;
            self.copied.referrers.push(referrer);
        }
        Ok(())
    }

    /// Copies what tags made of a manifest's digest name, and the tags.
    async fn derived_tags(&mut self, digest: &Digest, depth: usize) -> Result<(), Error> {
        for suffix in SUFFIXES {
            let tag = format!("sha256-{}.{suffix}", digest.hex());
            if !self.source_has(&tag).await? {
                continue;
            }
            let Some(found) = self.source.manifest_if_exists(&tag, &accept()).await? else { continue };
            self.manifest(found.clone(), depth + 1).await?;
            let there = self.target.manifest_if_exists(&tag, &accept()).await?;
            match there {
                Some(there) if there.digest == found.digest => {}
                Some(there) if suffix != "jaunt" && !includes(&found, &there) => {
                    self.copied.left_alone.push(tag);
                    continue;
                }
                _ => {
                    self.target.push_manifest(&tag, &found.media_type, found.bytes).await?;
                }
            }
            self.copied.tags.push(tag);
        }
        Ok(())
    }

    /// Whether the source may have a tag. Where its tags cannot be listed, it may have any.
    async fn source_has(&mut self, tag: &str) -> Result<bool, Error> {
        if self.tags.is_none() {
            let tags = match self.source.tags().await {
                Err(error) if error.is_refusal() => return Ok(true),
                tags => tags?,
            };
            self.tags = Some(tags.into_iter().filter(|tag| tag.starts_with("sha256-")).collect());
        }
        Ok(self.tags.as_ref().is_some_and(|tags| tags.contains(tag)))
    }

    async fn find(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        Ok(self.source.manifest_if_exists(&digest.to_string(), &accept()).await?)
    }
}

fn accept() -> [&'static str; 5] {
    let [a, b, c, d] = ACCEPT;
    [a, b, c, d, OLD_ARTIFACT]
}

/// Whether all layers of `old` are in `new`: cosign adds a layer for each signature.
fn includes(new: &Manifest, old: &Manifest) -> bool {
    #[derive(Deserialize)]
    struct Layers {
        layers: Vec<Descriptor>,
    }
    let layers = |manifest: &Manifest| serde_json::from_slice::<Layers>(&manifest.bytes);
    let (Ok(new), Ok(old)) = (layers(new), layers(old)) else { return false };
    old.layers.iter().all(|layer| new.layers.contains(layer))
}
