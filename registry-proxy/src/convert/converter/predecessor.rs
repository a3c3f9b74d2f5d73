//! Which image another one follows: the one that is named, else the one of the repository that looks like it.
//!
//! An image looks like another when it runs the same program on the same platform, and has a layer of it or runs the same command as a
//! whole: programs like a shell or an interpreter are in images that have nothing to do with each other. Of several the one that runs the same command is
//! taken, then the one with most bytes of layers in common, then the newest.

use std::collections::HashSet;

use jaunt_formats::Digest;

use crate::artifact::Artifact;
use crate::convert::reuse::Learnt;
use crate::error::Error;
use crate::image::{self, Image};
use crate::place::{ImageName, Place};

/// Images that are looked at, those with most in common first.
const MAX_LOOKED_AT: usize = 16;

/// The artifact of an image that is named, of the same platform. It must have a pack.
pub async fn named(place: &Place, name: &ImageName, image: &Image) -> Result<Artifact, Error> {
    let resolved = image::resolve(place, name, std::slice::from_ref(&image.platform)).await?;
    let [before] = &resolved.images[..] else { return Err(resolved.nothing(name)) };
    let subject = before.descriptor.digest;
    let artifact = Artifact::find(place, &subject).await?.ok_or(Error::NotConverted(subject))?;
    if artifact.boot.is_some() { Ok(artifact) } else { Err(Error::NoPack(artifact.digest)) }
}

/// The artifact of the image that this one seems to follow, of those that have learnt.
pub async fn likely(place: &Place, learnt: Vec<Learnt>, image: &Image) -> Result<Option<Artifact>, Error> {
    let own = image.descriptor.digest;
    let layers: HashSet<String> = image.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let mut ranked: Vec<(u64, Digest)> = learnt
        .into_iter()
        .filter(|learnt| learnt.subject != own)
        .map(|learnt| (learnt.in_common(&layers), learnt.subject))
        .collect();
    ranked.sort_unstable_by(|one, other| other.cmp(one));
    ranked.dedup();
    let mut best = None;
    for (in_common, subject) in ranked.into_iter().take(MAX_LOOKED_AT) {
        // One whose manifest is gone, or no manifest any more that we read, is nobody's predecessor.
        let Ok(Some(before)) = image::by_digest(place, subject).await else { continue };
        let programs = [&before, image].map(|image| image.command.words().next());
        if before.platform != image.platform || programs[0] != programs[1] {
            continue;
        }
        let is_same = before.command.words().eq(image.command.words());
        if !is_same && in_common == 0 {
            continue;
        }
        let rank = (is_same, in_common, before.created.unwrap_or_default());
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, subject));
        }
    }
    let Some((_, subject)) = best else { return Ok(None) };
    let found = Artifact::find(place, &subject).await?;
    Ok(found.filter(Artifact::has_learnt))
}
