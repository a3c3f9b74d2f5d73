//! Publishing in replace mode: what `crate::replace` writes goes to its place, the tag last.
//!
//! Everything before the tag is found again by a repeated run: a run that was interrupted has replaced
//! nothing.

use std::collections::HashMap;

use jaunt_distribution::Client;
use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_MANIFEST;

use super::Outcome;
use crate::artifact::Artifact;
use crate::cli::ConvertArgs;
use crate::console::Console;
use crate::error::Error;
use crate::image::{ACCEPT, Resolved};
use crate::manifest::Descriptor;
use crate::place::{ImageName, Place};
use crate::replace::{self, original_tag};
use crate::{copy, signed};

/// What took whose place.
pub struct Replaced {
    /// What the tag names now.
    pub top: Digest,
    /// What it named before.
    pub original: Digest,
    /// Each image, and each index, by what it was.
    pub manifests: HashMap<Digest, Descriptor>,
}

/// Before the work: refuses what is signed, and brings the image to where `--to` says.
pub async fn prepare(
    client: &Client,
    args: &ConvertArgs,
    resolved: &Resolved,
    console: &Console,
) -> Result<(), Error> {
    let from = &args.common.reference;
    let originals = resolved.images.iter().filter(|image| image.original.is_none());
    let originals: Vec<_> = originals.map(|image| image.descriptor.digest).collect();
    if !args.force && !originals.is_empty() {
        let place = Place::of(client, from);
        for digest in originals.iter().chain(resolved.indexes.iter().map(|index| &index.digest)) {
            signed::refuse(&place, *digest).await?;
        }
    }
    let Some(to) = &args.to else { return Ok(()) };
    if resolved.images.is_empty() {
        return copy::copy(client, from, to, console).await;
    }
    if originals.is_empty() {
        return Err(Error::AlreadyReplaced(from.to_string()));
    }
    let top = resolved.top.digest;
    copy::copy(client, &from.with_digest(top), &to.with_tag(&original_tag(&top)), console).await
}

/// After the work: replaces what can be replaced; `None` when all of it is already.
pub async fn finish(
    client: &Client,
    args: &ConvertArgs,
    reference: &ImageName,
    resolved: &Resolved,
    outcomes: &[Outcome<'_>],
    console: &Console,
) -> Result<Option<Replaced>, Error> {
    let place = Place::of(client, reference);
    let (top, mut replaced, mut replacement) = (&resolved.top, HashMap::new(), None);
    for outcome in outcomes.iter().filter(|outcome| outcome.image.original.is_none()) {
        let new = replace::manifest(outcome.image, &outcome.artifact)?;
        let name = new.descriptor.digest.to_string();
        place.push_manifest(&name, OCI_MANIFEST, new.bytes.clone()).await?;
        let (index, layers) = (outcome.artifact.index.clone(), outcome.artifact.layers.clone());
        let artifact = Artifact::publish(&place, &new.descriptor, index, layers).await?;
        let (image, old) = (outcome.image, outcome.image.descriptor.digest);
        console.line(&format!("replaced {} {old} by {name}: artifact {}", image.platform, artifact.digest));
        replaced.insert(old, new.descriptor.clone());
        replacement = Some(new);
    }
    for index in &resolved.indexes {
        let Some(new) = replace::index(index, &replaced)? else { continue };
        let name = new.descriptor.digest.to_string();
        place.push_manifest(&name, &new.descriptor.media_type, new.bytes.clone()).await?;
        replaced.insert(index.digest, new.descriptor.clone());
        replacement = Some(new);
    }
    let Some(new) = replacement else {
        console.line(&format!("already replaced: {reference} {}", top.digest));
        return Ok(None);
    };
    let kept = original_tag(&top.digest);
    place.push_manifest(&kept, &top.media_type, top.bytes.clone()).await?;
    if args.to.is_none() {
        refuse_if_moved(&place, reference, top.digest).await?;
    }
    let (media_type, digest) = (&new.descriptor.media_type, new.descriptor.digest);
    place.push_manifest(&reference.manifest_name(), media_type, new.bytes).await?;
    console.line(&format!("{reference} is {digest} now; tag {kept} keeps the original"));
    Ok(Some(Replaced { top: digest, original: top.digest, manifests: replaced }))
}

/// Registries cannot move a tag on condition; this leaves a moment instead of a conversion's time.
async fn refuse_if_moved(place: &Place, reference: &ImageName, then: Digest) -> Result<(), Error> {
    let now = place.manifest_digest(&reference.manifest_name(), &ACCEPT).await?;
    if now == then {
        return Ok(());
    }
    Err(Error::TagMoved { reference: reference.to_string(), then, now })
}
