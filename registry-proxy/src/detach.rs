//! `detach`: removes an image's launch artifacts; the image stays as it is.
//!
//! The manifest goes first, because that is what registries forbid, and then nothing has changed. With
//! it, or after it, go the tags that name it, its entry in the list of referrers and its signature. Where the
//! manifest must stay, the tags are tried: what nothing names is not found.

use std::collections::BTreeMap;

use jaunt_distribution::{Client, Manifest};
use jaunt_formats::Digest;
use jaunt_formats::media_type::{LAUNCH_PARTIAL, OCI_MANIFEST, ORIGINAL_MANIFEST};
use serde_json::json;

use crate::cli::ReadArgs;
use crate::console::{Console, bytes};
use crate::error::Error;
use crate::image::{self, Image};
use crate::manifest::{self, ImageManifest, Relation};
use crate::place::{Place, PlaceError};
use crate::{artifact, referrers};

/// What all artifacts of ours have in common, versions and parts alike.
const OURS: &str = "application/vnd.jaunt.launch.";
/// The layers of a signature that cosign wrote.
const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Runs the command.
pub async fn run(client: Client, args: &ReadArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let reference = &args.common.reference;
    let place = Place::of(&client, reference);
    let resolved = image::resolve(&place, reference, &args.platforms.wanted).await?;
    // Who names its digest means this very manifest, as after a revert.
    let is_tied = |image: &&Image| image.original.is_some() && reference.digest().is_none();
    if let Some(tied) = resolved.images.iter().find(is_tied) {
        let (reference, image) = (reference.to_string(), tied.descriptor.digest);
        return Err(Error::Tied { reference, image });
    }
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        return Err(resolved.nothing(reference));
    }
    let mut removal = Removal { place: &place, candidates: Vec::new(), left: Vec::new() };
    let mut images = Vec::new();
    for image in &resolved.images {
        let removed = removal.detach(image).await?;
        let (platform, subject) = (&image.platform, image.descriptor.digest);
        for artifact in &removed {
            console.line(&format!("detached {platform} {subject}: artifact {artifact}"));
        }
        if removed.is_empty() && removal.left.is_empty() {
            console.line(&format!("not converted: {platform} {subject}"));
        }
        images.push(json!({ "platform": platform.to_string(), "manifest": subject, "removed": removed }));
    }
    let freed = place.collect(removal.candidates).await?;
    if let Some(freed) = freed.filter(|freed| *freed > 0) {
        console.line(&format!("freed {}", bytes(freed)));
    }
    let left = removal.left;
    let reference = reference.to_string();
    console
        .result(&json!({ "reference": reference, "images": images, "freed_bytes": freed, "left": left }))?;
    if let Some(error) = resolved.failed.into_iter().next() {
        return Err(error);
    }
    if left.is_empty() { Ok(()) } else { Err(Error::NotDetached { reference, left }) }
}

/// Removes one artifact whose place another has taken, and its signature; what of it could not be deleted.
pub async fn supersede(place: &Place, subject: &Digest, artifact: &Digest) -> Result<Vec<String>, Error> {
    let mut removal = Removal { place, candidates: Vec::new(), left: Vec::new() };
    removal.remove(subject, artifact, &[]).await?;
    Ok(removal.left)
}

struct Removal<'p> {
    place: &'p Place,
    /// Blobs that may be named by nothing any more.
    candidates: Vec<Digest>,
    /// What could not be deleted, and why.
    left: Vec<String>,
}

impl Removal<'_> {
    /// Removes the artifacts of an image; those that are gone.
    async fn detach(&mut self, image: &Image) -> Result<Vec<Digest>, Error> {
        let subject = image.descriptor.digest;
        let mut removed = Vec::new();
        for (artifact, tags) in self.find(&subject).await? {
            if self.remove(&subject, &artifact, &tags).await? {
                removed.push(artifact);
            }
        }
        Ok(removed)
    }

    /// Artifacts of ours with the tags that name them; also those that are gone and still listed. Only what
    /// says itself that it is one counts: neither a tag nor a list can have us delete anything else.
    async fn find(&self, subject: &Digest) -> Result<BTreeMap<Digest, Vec<String>>, Error> {
        let mut artifacts: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for tag in [artifact::tag(subject), artifact::partial_tag(subject)] {
            let found = self.place.manifest_if_exists(&tag, &[OCI_MANIFEST]).await?;
            if let Some(found) = found.filter(|found| is_ours(found, subject)) {
                artifacts.entry(found.digest).or_default().push(tag);
            }
        }
        for referrer in self.place.referrers(subject, None).await? {
            if !referrer.artifact_type.is_some_and(|kind| kind.starts_with(OURS)) {
                continue;
            }
            let name = referrer.digest.to_string();
            let found = self.place.manifest_if_exists(&name, &[OCI_MANIFEST]).await?;
            if found.is_none_or(|found| is_ours(&found, subject)) {
                artifacts.entry(referrer.digest).or_default();
            }
        }
        Ok(artifacts)
    }

    /// Removes one artifact and what names it; whether all of it is gone.
    async fn remove(&mut self, subject: &Digest, artifact: &Digest, tags: &[String]) -> Result<bool, Error> {
        let refusal = match self.delete(artifact).await {
            Err(Error::Place(error)) if error.is_refusal() => Some(error),
            deleted => {
                deleted?;
                None
            }
        };
        let stuck = self.delete_tags(artifact, tags).await?;
        if stuck.is_empty() {
            referrers::unlist(self.place, subject, artifact).await?;
        }
        let whole = stuck.is_empty() && refusal.is_none();
        match refusal {
            Some(error) if stuck.is_empty() => {
                self.left.push(format!("manifest {artifact}, which no tag names any more ({error})"));
            }
            Some(error) => {
                let tags = stuck.join(", ");
                self.left.push(format!("launch artifact {artifact} with tag {tags} ({error})"));
            }
            None => {
                let stuck = stuck.into_iter();
                self.left.extend(stuck.map(|tag| format!("tag {tag}, which names the deleted {artifact}")));
                self.remove_signature(artifact).await?;
            }
        }
        Ok(whole)
    }

    /// Deletes a manifest, unless it is gone already.
    async fn delete(&mut self, digest: &Digest) -> Result<(), Error> {
        let Some(found) = self.place.manifest_if_exists(&digest.to_string(), &[OCI_MANIFEST]).await? else {
            return Ok(());
        };
        let blobs = manifest::blobs(&found)?;
        gone_is_good(self.place.delete_manifest(digest).await)?;
        self.candidates.extend(blobs.iter().map(|blob| blob.digest).chain([*digest]));
        Ok(())
    }

    /// Deletes tags that still name the artifact; those that stay.
    async fn delete_tags(&self, artifact: &Digest, tags: &[String]) -> Result<Vec<String>, Error> {
        let mut stuck = Vec::new();
        for tag in tags {
            let named = match self.place.manifest_digest(tag, &[OCI_MANIFEST]).await {
                Err(error) if error.is_not_found() => continue,
                named => named?,
            };
            if named != *artifact {
                continue;
            }
            match self.place.delete_tag(tag).await {
                Ok(true) => {}
                Err(error) if error.is_not_found() => {}
                Ok(false) => stuck.push(tag.clone()),
                Err(error) if error.is_refusal() => stuck.push(tag.clone()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stuck)
    }

    /// A signature of what is gone is good for nothing.
    async fn remove_signature(&mut self, artifact: &Digest) -> Result<(), Error> {
        let tag = format!("sha256-{}.sig", artifact.hex());
        let Some(found) = self.place.manifest_if_exists(&tag, &[OCI_MANIFEST]).await? else { return Ok(()) };
        let image: ImageManifest = manifest::parse("signature", found.digest, &found.bytes)?;
        if image.layers.is_empty() || image.layers.iter().any(|layer| layer.media_type != SIGNATURE) {
            return Ok(());
        }
        match self.delete(&found.digest).await {
            Err(Error::Place(error)) if error.is_refusal() => {
                self.left.push(format!("tag {tag}, the signature of the deleted {artifact} ({error})"));
            }
            deleted => deleted?,
        }
        Ok(())
    }
}

fn is_ours(found: &Manifest, subject: &Digest) -> bool {
    let relation = Relation::of(&found.bytes).unwrap_or_default();
    // What an interrupted conversion left is no referrer.
    let of = match relation.artifact_type() {
        Some(kind) if kind == LAUNCH_PARTIAL => {
            relation.annotation(ORIGINAL_MANIFEST).and_then(|of| of.parse().ok())
        }
        Some(kind) if kind.starts_with(OURS) => relation.subject(),
        _ => None,
    };
    of == Some(*subject)
}

fn gone_is_good(deleted: Result<(), PlaceError>) -> Result<(), PlaceError> {
    match deleted {
        Err(error) if error.is_not_found() => Ok(()),
        deleted => deleted,
    }
}
