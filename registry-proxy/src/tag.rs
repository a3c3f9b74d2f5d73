//! Moving a tag: the last thing a command does, and only from what it was when the command began.

use bytes::Bytes;
use jaunt_formats::Digest;

use crate::error::Error;
use crate::image::ACCEPT;
use crate::place::{ImageName, Place, TagMove};

/// What a tag names now, if it is there.
pub async fn current(place: &Place, name: &ImageName) -> Result<Option<Digest>, Error> {
    match place.manifest_digest(&name.manifest_name(), &ACCEPT).await {
        Ok(digest) => Ok(Some(digest)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Has a tag name a manifest that is in place, unless it moved since it named `then`.
pub async fn move_to(
    place: &Place,
    name: &ImageName,
    then: Option<Digest>,
    media_type: &str,
    bytes: Bytes,
) -> Result<(), Error> {
    let named = |digest: Option<Digest>| digest.map_or("nothing".to_owned(), |digest| digest.to_string());
    match place.move_tag(&name.manifest_name(), then, media_type, bytes).await? {
        TagMove::Done => Ok(()),
        TagMove::Stale(now) => {
            let (then, now) = (named(then), named(now));
            Err(Error::TagMoved { reference: name.to_string(), then, now })
        }
    }
}
