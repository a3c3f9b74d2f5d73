//! The list of referrers that pushers keep where a registry has no API for them.
//!
//! Spec: OCI distribution-spec 1.1, "Referrers tag schema". The list is changed, not made anew: what others
//! have listed stays as it is.

use jaunt_distribution::referrers_tag;
use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_INDEX;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::manifest::{self, Descriptor};
use crate::place::Place;

/// Adds a manifest to its subject's list.
pub async fn list(place: &Place, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
    let tag = referrers_tag(subject);
    let mut list = match read(place, &tag).await? {
        Some((_, list)) => list,
        None => List::new(json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }), &tag)?,
    };
    if list.names(&referrer.digest) {
        return Ok(());
    }
    list.manifests.push(serde_json::to_value(referrer).map_err(std::io::Error::from)?);
    list.push(place, &tag).await
}

/// Takes a manifest off its subject's list; whether it was there. A list that would be empty is deleted, if
/// the place allows that.
pub async fn unlist(place: &Place, subject: &Digest, gone: &Digest) -> Result<bool, Error> {
    let tag = referrers_tag(subject);
    let Some((digest, mut list)) = read(place, &tag).await? else { return Ok(false) };
    if !list.names(gone) {
        return Ok(false);
    }
    let name = Value::from(gone.to_string());
    list.manifests.retain(|listed| listed.get("digest") != Some(&name));
    if list.manifests.is_empty() {
        match place.delete_manifest(&digest).await {
            Err(error) if !error.is_refusal() => return Err(error.into()),
            Ok(()) => return Ok(true),
            Err(_) => {}
        }
    }
    list.push(place, &tag).await?;
    Ok(true)
}

/// The document, of which `manifests` is known to be an array.
struct List {
    document: Map<String, Value>,
    manifests: Vec<Value>,
}

impl List {
    fn new(document: Value, tag: &str) -> Result<Self, Error> {
        let Value::Object(mut document) = document else { return Err(Error::Referrers(tag.to_owned())) };
        match document.remove("manifests") {
            Some(Value::Array(manifests)) => Ok(Self { document, manifests }),
            _ => Err(Error::Referrers(tag.to_owned())),
        }
    }

    fn names(&self, digest: &Digest) -> bool {
        let digest = Value::from(digest.to_string());
        self.manifests.iter().any(|listed| listed.get("digest") == Some(&digest))
    }

    async fn push(mut self, place: &Place, tag: &str) -> Result<(), Error> {
        self.document.insert("manifests".to_owned(), self.manifests.into());
        let (_, bytes) = manifest::encode(&self.document)?;
        place.push_manifest(tag, OCI_INDEX, bytes).await?;
        Ok(())
    }
}

async fn read(place: &Place, tag: &str) -> Result<Option<(Digest, List)>, Error> {
    let Some(found) = place.manifest_if_exists(tag, &[OCI_INDEX]).await? else { return Ok(None) };
    let document = manifest::parse("list of referrers", found.digest, &found.bytes)?;
    Ok(Some((found.digest, List::new(document, tag)?)))
}
