//! The boot pack that an image is converted with.

use std::collections::HashSet;

use bytes::Bytes;
use jaunt_formats::boot::{MAX_CONTENT_LEN, PACK_LEVEL, Trace};
use jaunt_formats::{Digest, error_chain};

use super::{Converter, predecessor};
use crate::artifact::{self, Artifact};
use crate::boot::carry::{self, Carried, Side};
use crate::boot::{self, Draft};
use crate::console::bytes;
use crate::error::Error;
use crate::image::Image;
use crate::manifest::Descriptor;

/// Bytes of files of which only the image tells that a start needs them.
const FORESEEN_LIMIT: u64 = 64 << 20;
/// Bytes of files in a pack that begins with another image's: as many as `optimize` puts into one. Every update adds to what the one
/// before has carried, until its own starts are known.
const CARRIED_LIMIT: u64 = 256 << 20;

impl Converter<'_> {
    /// The boot pack of an image: what a learnt one before held, of itself or of the image that it follows, else what its command
    /// needs. An image without the latter two is as good, but for its speed.
    pub(super) async fn boot_pack(
        &self,
        image: &Image,
        before: Option<&Artifact>,
        (digest, packed): (Digest, Bytes),
        layers: &[Descriptor],
    ) -> Result<Option<Descriptor>, Error> {
        let of_its_own = before.filter(|before| before.has_learnt());
        if of_its_own.is_none() && !self.with_boot {
            return Ok(None);
        }
        let opened = artifact::open_index(packed).await?;
        let new = Side { place: &self.place, index: &opened, layers };
        let mut made = match of_its_own {
            Some(before) => {
                self.learnt(before, new, digest).await?.map(|made| (made, "that was learnt before"))
            }
            None => None,
        };
        if made.is_none() && self.with_boot {
            made = match self.following(image, new, digest).await {
                // Who names one wants its pack.
                Err(error) if self.predecessor.is_some() => return Err(error),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "the image before gives no boot pack");
                    None
                }
                Ok(following) => following,
            };
        }
        if made.is_none() && self.with_boot {
            made = self.foreseen(image, new, digest).await.unwrap_or_else(|error| {
                let image = image.descriptor.digest;
                tracing::warn!(error = error_chain(&error), %image, "no boot pack is made");
                None
            });
        }
        let Some((made, what)) = made else { return Ok(None) };
        let (packed, held) = (made.pack.bytes.len() as u64, made.wanted.content_len());
        let left_out = made.wanted.left_out;
        let pushed = boot::push(&self.place, made).await?;
        let mut line = format!("  boot pack: {}, {} {what}", bytes(packed), bytes(held));
        if left_out > 0 {
            line += &format!("; {} found no room", bytes(left_out));
        }
        self.console.line(&line);
        Ok(Some(pushed))
    }

    /// The pack that was learnt of this very image, converted by another recipe.
    async fn learnt(&self, before: &Artifact, new: Side<'_>, index: Digest) -> Result<Option<Draft>, Error> {
        let Some(Carried { pack, trace, .. }) = carry::if_sound(&self.place, before, new).await? else {
            return Ok(None);
        };
        let made = boot::make(new.place, (index, new.index), &[trace], MAX_CONTENT_LEN, PACK_LEVEL).await?;
        // What nobody has started was not learnt by being converted again.
        let before = before.boot.as_ref();
        let made_of = before.filter(|boot| artifact::has_traces(boot)).map(|_| pack).into_iter().collect();
        Ok(Some(Draft { made_of, follows: before.and_then(artifact::follows), ..made }))
    }

    /// The pack of the image that this one follows, with what its command needs of files that that pack does not have. What finds no
    /// room is what comes last in both.
    async fn following(
        &self,
        image: &Image,
        new: Side<'_>,
        index: Digest,
    ) -> Result<Option<(Draft, &'static str)>, Error> {
        let found = match &self.predecessor {
            Some((place, name)) => Some((place, predecessor::named(place, name, image).await?)),
            None => {
                let learnt = self.library.learnt().await;
                predecessor::likely(&self.place, learnt, image).await?.map(|found| (&self.place, found))
            }
        };
        let Some((place, artifact)) = found else { return Ok(None) };
        let Some(Carried { pack, trace, moved }) = carry::if_sound(place, &artifact, new).await? else {
            return Ok(None);
        };
        let named = (index, new.index);
        let held: HashSet<&str> = trace.touches.iter().map(|touch| touch.path.as_str()).collect();
        let mut foreseen = boot::foresee(&self.place, named, &image.command).await?;
        foreseen.touches.retain(|touch| !held.contains(touch.path.as_str()));
        boot::shorten(&mut foreseen, FORESEEN_LIMIT);
        self.console.line(&format!(
            "  begins with the boot pack of artifact {}; {moved} of its files have another name now",
            artifact.digest
        ));
        let traces: Vec<Trace> =
            [trace, foreseen].into_iter().filter(|one| !one.touches.is_empty()).collect();
        let limit = self.boot_limit.unwrap_or(CARRIED_LIMIT);
        let made = boot::make(&self.place, named, &traces, limit, PACK_LEVEL).await?;
        Ok(Some((Draft { follows: Some(pack), ..made }, "that was learnt of the image before")))
    }

    async fn foreseen(
        &self,
        image: &Image,
        new: Side<'_>,
        index: Digest,
    ) -> Result<Option<(Draft, &'static str)>, Error> {
        let named = (index, new.index);
        let trace = boot::foresee(&self.place, named, &image.command).await?;
        if trace.touches.is_empty() {
            return Ok(None);
        }
        let limit = self.boot_limit.unwrap_or(FORESEEN_LIMIT);
        let made = boot::make(&self.place, named, &[trace], limit, self.level).await?;
        Ok(Some((made, "that its command needs")))
    }
}
