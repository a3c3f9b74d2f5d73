//! Publishing in replace mode: what `crate::replace` writes goes to its place, the tag last.
//!
//! Everything before the tag is found again by a repeated run: a run that was interrupted has replaced
//! nothing.

use std::collections::HashMap;

use jaunt_distribution::Client;
use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_MANIFEST;

use super::{Converter, Outcome};
use crate::cli::ConvertArgs;
use crate::console::Console;
use crate::error::Error;
use crate::image::Resolved;
use crate::manifest::Descriptor;
use crate::place::{ImageName, Place};
use crate::replace::{self, original_tag};
use crate::{copy, signed, tag};

/// What took whose place.
pub struct Replaced {
    /// What the tag names now.
    pub top: Digest,
    /// What it named before.
    pub original: Digest,
    /// Each image, and each index, by what it was.
    pub manifests: HashMap<Digest, Descriptor>,
}

/// Before the work: refuses what is signed, and brings the image to where `--to` says. What the tag names
/// now, which it must still name in the end.
pub async fn prepare(
    client: &Client,
    args: &ConvertArgs,
    resolved: &Resolved,
    console: &Console,
) -> Result<Option<Digest>, Error> {
    let from = &args.common.reference;
    refuse(&Place::of(client, from), args, resolved).await?;
    let Some(to) = &args.to else { return Ok(Some(resolved.top.digest)) };
    let (top, then) = (resolved.top.digest, tag::current(&Place::of(client, to), to).await?);
    if resolved.images.is_empty() {
        copy::copy(client, from, to, console).await?;
    } else {
        copy::copy(client, &from.with_digest(top), &to.with_tag(&original_tag(&top)), console).await?;
    }
    Ok(then)
}

/// An error if what replacing would leave behind must not be: a signature, or an earlier replacement.
pub async fn refuse(place: &Place, args: &ConvertArgs, resolved: &Resolved) -> Result<(), Error> {
    let originals = resolved.images.iter().filter(|image| image.original.is_none());
    let originals: Vec<_> = originals.map(|image| image.descriptor.digest).collect();
    if originals.is_empty() && !resolved.images.is_empty() && args.to.is_some() {
        return Err(Error::AlreadyReplaced(args.common.reference.to_string()));
    }
    if !args.force && !originals.is_empty() {
        for digest in originals.iter().chain(resolved.indexes.iter().map(|index| &index.digest)) {
            signed::refuse(place, *digest).await?;
        }
    }
    Ok(())
}

/// After the work: replaces what can be replaced; `None` when all of it is already.
pub async fn finish(
    converter: &Converter<'_>,
    reference: &ImageName,
    resolved: &Resolved,
    outcomes: &[Outcome<'_>],
    then: Option<Digest>,
    console: &Console,
) -> Result<Option<Replaced>, Error> {
    let place = &converter.place;
    let (top, mut replaced, mut replacement) = (&resolved.top, HashMap::new(), None);
    for outcome in outcomes.iter().filter(|outcome| outcome.image.original.is_none()) {
        let new = replace::manifest(outcome.image, &outcome.artifact)?;
        let name = new.descriptor.digest.to_string();
        place.push_manifest(&name, OCI_MANIFEST, new.bytes.clone()).await?;
        let artifact = outcome.artifact.publish_for(place, &new.descriptor).await?;
        let (image, old) = (outcome.image, outcome.image.descriptor.digest);
        console.line(&format!("replaced {} {old} by {name}: artifact {}", image.platform, artifact.digest));
        if let Some(signer) = &converter.signer {
            signer.sign(place, reference, artifact.digest, console).await?;
        }
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
    let digest = new.descriptor.digest;
    tag::move_to(place, reference, then, &new.descriptor.media_type, new.bytes).await?;
    console.line(&format!("{reference} is {digest} now; tag {kept} keeps the original"));
    Ok(Some(Replaced { top: digest, original: top.digest, manifests: replaced }))
}
