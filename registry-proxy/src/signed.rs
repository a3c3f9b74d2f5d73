//! Whether a manifest is signed: by cosign, under its tag or as a referrer, or by notation.
//!
//! Only that there is a signature counts here, not whether it is good: what replaces the manifest would
//! have none.

use jaunt_formats::Digest;

use crate::error::Error;
use crate::image::ACCEPT;
use crate::place::Place;

/// Artifact types of signatures; versions follow.
const SIGNATURES: [&str; 3] = [
    "application/vnd.dev.cosign.artifact.sig.",
    "application/vnd.dev.sigstore.bundle.",
    "application/vnd.cncf.notary.signature",
];

/// An error if a signature is found.
pub async fn refuse(place: &Place, image: Digest) -> Result<(), Error> {
    match signature(place, &image).await? {
        Some(by) => Err(Error::Signed { image, by }),
        None => Ok(()),
    }
}

/// Where a signature is, if there is any.
pub async fn signature(place: &Place, manifest: &Digest) -> Result<Option<String>, Error> {
    let tag = format!("sha256-{}.sig", manifest.hex());
    if place.manifest_if_exists(&tag, &ACCEPT).await?.is_some() {
        return Ok(Some(format!("tag {tag}")));
    }
    let referrers = place.referrers(manifest, None).await?;
    let mut types = referrers.into_iter().filter_map(|found| found.artifact_type);
    let found = types.find(|found| SIGNATURES.iter().any(|prefix| found.starts_with(prefix)));
    Ok(found.map(|found| format!("referrer of type {found}")))
}
