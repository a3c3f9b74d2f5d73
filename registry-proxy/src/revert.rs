//! `revert`: a replaced image's tag names again what it named before.
//!
//! The manifest in place says which one it stands for, and the tag `sha256-<hex>.original` keeps that. Nothing
//! is written but the tag, and that only when all of the original is there.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::{Client, Manifest};
use jaunt_formats::Digest;
use jaunt_formats::media_type::{LAUNCH_TRACE, ORIGINAL_MANIFEST};
use serde_json::json;

use crate::cli::RevertArgs;
use crate::console::Console;
use crate::error::Error;
use crate::image::ACCEPT;
use crate::manifest::{self, ImageIndex, ImageManifest, Relation};
use crate::place::{ImageName, Place};
use crate::replace::original_tag;
use crate::{artifact, tag};

/// Requests at the same time when checking that blobs exist.
const PARALLEL: usize = 8;

/// Runs the command.
pub async fn run(client: Client, args: &RevertArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let reference = &args.common.reference;
    let place = Place::of(&client, reference);
    let now = place.manifest(&reference.manifest_name(), &ACCEPT).await?;
    let Some(digest) = original_of(&now) else {
        return already_reverted(&place, reference, &now, &console).await;
    };
    let original = find_original(&place, reference, digest).await?;
    if !stands_for(&place, &now, &original).await? {
        return Err(Error::MovedOn { reference: reference.to_string(), now: now.digest, original: digest });
    }
    refuse_incomplete(&place, reference, &now, &original).await?;
    tag::move_to(&place, reference, Some(now.digest), &original.media_type, original.bytes).await?;
    console.line(&format!("{reference} is {digest} again"));
    let remains = remains(&place, &now.digest, &digest).await?;
    remains.iter().for_each(|what| console.line(&format!("what remains: {what}")));
    console.result(&json!({
        "reference": reference.to_string(),
        "status": "reverted",
        "manifest": digest,
        "was": now.digest,
        "original_tag": original_tag(&digest),
        "remains": remains,
    }))
}

/// What a manifest says that it stands for.
fn original_of(manifest: &Manifest) -> Option<Digest> {
    Relation::of(&manifest.bytes)?.annotation(ORIGINAL_MANIFEST)?.parse().ok()
}

/// A tag that names a kept original has been reverted; one that names anything else was never replaced, or
/// somebody moved it since.
async fn already_reverted(
    place: &Place,
    reference: &ImageName,
    now: &Manifest,
    console: &Console,
) -> Result<(), Error> {
    let kept = original_tag(&now.digest);
    let keeps = place.manifest_if_exists(&kept, &ACCEPT).await?;
    if keeps.is_none_or(|keeps| keeps.digest != now.digest) {
        return Err(Error::NeverReplaced { reference: reference.to_string(), now: now.digest });
    }
    console.line(&format!("already reverted: {reference} is {}, as tag {kept} keeps it", now.digest));
    console.result(&json!({
        "reference": reference.to_string(),
        "status": "already reverted",
        "manifest": now.digest,
        "original_tag": kept,
    }))
}

/// The original: what its tag keeps, else what is there under its digest.
async fn find_original(place: &Place, reference: &ImageName, digest: Digest) -> Result<Manifest, Error> {
    for name in [original_tag(&digest), digest.to_string()] {
        let found = place.manifest_if_exists(&name, &ACCEPT).await?;
        if let Some(found) = found.filter(|found| found.digest == digest) {
            return Ok(found);
        }
    }
    let missing = format!("manifest {digest}");
    Err(Error::OriginalGone { reference: reference.to_string(), original: digest, missing })
}

/// Whether a manifest is what replacing the original made. Other tools may have carried its annotation
/// into an image of their own.
async fn stands_for(place: &Place, now: &Manifest, original: &Manifest) -> Result<bool, Error> {
    if manifest::is_index(now) != manifest::is_index(original) {
        return Ok(false);
    }
    if !manifest::is_index(now) {
        let image = |of: &Manifest| manifest::parse::<ImageManifest>("manifest", of.digest, &of.bytes);
        let (now, original) = (image(now)?, image(original)?);
        let same = (now.config.digest, now.layers.len()) == (original.config.digest, original.layers.len());
        return Ok(same);
    }
    let (entries, originals) = (entries(now)?, entries(original)?);
    if entries.len() != originals.len() {
        return Ok(false);
    }
    for (entry, original) in entries.into_iter().zip(originals).filter(|(entry, original)| entry != original)
    {
        let found = place.manifest_if_exists(&entry.to_string(), &ACCEPT).await?;
        if found.as_ref().and_then(original_of) != Some(original) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn entries(index: &Manifest) -> Result<Vec<Digest>, Error> {
    let index: ImageIndex = manifest::parse("index", index.digest, &index.bytes)?;
    Ok(index.manifests.into_iter().map(|entry| entry.digest).collect())
}

/// An error if something of the original is gone. What the manifest in place names as well is no worse off.
async fn refuse_incomplete(
    place: &Place,
    reference: &ImageName,
    now: &Manifest,
    original: &Manifest,
) -> Result<(), Error> {
    let gone = |missing: String| Error::OriginalGone {
        reference: reference.to_string(),
        original: original.digest,
        missing,
    };
    let mut passed: HashSet<Digest> = match manifest::is_index(now) {
        true => entries(now)?.into_iter().collect(),
        false => HashSet::new(),
    };
    let mut left = vec![original.clone()];
    while let Some(manifest) = left.pop() {
        if !manifest::is_index(&manifest) {
            check_blobs(place, &manifest).await?.map_or(Ok(()), |blob| Err(gone(format!("blob {blob}"))))?;
            continue;
        }
        for entry in entries(&manifest)? {
            if passed.insert(entry) {
                let found = place.manifest_if_exists(&entry.to_string(), &ACCEPT).await?;
                left.push(found.ok_or_else(|| gone(format!("manifest {entry}")))?);
            }
        }
    }
    Ok(())
}

/// A blob that a manifest names and that is gone, if there is one.
async fn check_blobs(place: &Place, manifest: &Manifest) -> Result<Option<Digest>, Error> {
    let blobs = manifest::blobs(manifest)?.into_iter().filter(|blob| !blob.may_be_missing());
    let checked = stream::iter(blobs.map(|blob| async move {
        let found = place.blob_exists(&blob.digest).await?;
        Ok::<_, Error>(found.is_none().then_some(blob.digest))
    }));
    let gone: Vec<_> = checked.buffer_unordered(PARALLEL).try_collect().await?;
    Ok(gone.into_iter().flatten().next())
}

/// What is still there, for whoever wants it gone as well.
async fn remains(place: &Place, replaced: &Digest, original: &Digest) -> Result<Vec<String>, Error> {
    let mut remains = vec![
        format!("tag {}, which keeps the original", original_tag(original)),
        format!("the replacement {replaced}, under its digest, until the place removes what no tag names"),
    ];
    let of_replacement = format!("the replacement, which detach of its digest removes: @{replaced}");
    for (subject, whose) in
        [(replaced, of_replacement.as_str()), (original, "the original, which detach removes")]
    {
        let tag = artifact::tag(subject);
        if place.manifest_if_exists(&tag, &ACCEPT).await?.is_some() {
            remains.push(format!("tag {tag}, the launch artifact of {whose}"));
        }
        let traces = place.referrers(subject, Some(LAUNCH_TRACE)).await?.len();
        if traces > 0 {
            remains.push(format!("traces of starts, {traces} of them, of {whose}"));
        }
    }
    Ok(remains)
}
