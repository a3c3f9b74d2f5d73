//! The list of referrers that pushers keep where a registry has no API for them.
//!
//! Spec: OCI distribution-spec 1.1, "Referrers tag schema". The list is changed, not made anew: what others
//! have listed stays as it is.

use std::time::Duration;

use jaunt_distribution::referrers_tag;
use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_INDEX;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::manifest::{self, Descriptor};
use crate::place::Place;

/// How often a list is written before another pusher is believed to undo it on purpose.
const TRIES: u32 = 5;
/// The pause after the first collision; later ones are longer, and each pusher's is its own.
const PAUSE: Duration = Duration::from_millis(50);

/// Adds a manifest to its subject's list.
///
/// Registries without an API for referrers know no conditional push either, so of two pushers that read
/// the same list the second drops what the first has added. What was written is therefore read back, and
/// written again while anything that has been seen in the list is missing from it.
pub async fn list(place: &Place, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
    let tag = referrers_tag(subject);
    let mut wanted = vec![serde_json::to_value(referrer).map_err(std::io::Error::from)?];
    for turn in 0..TRIES {
        // The first reading back comes at once: mostly, nobody else was there.
        if let Some(collisions) = turn.checked_sub(1).filter(|&collisions| collisions > 0) {
            tracing::debug!(%tag, collisions, "another pusher writes the list of referrers");
            tokio::time::sleep(PAUSE * collisions + PAUSE * (std::process::id() % 8) / 8).await;
        }
        let mut list = match read(place, &tag).await? {
            Some((_, list)) => list,
            None => List::new(json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }), &tag)?,
        };
        let digest = |listed: &Value| listed.get("digest").cloned();
        let listed: Vec<_> = list.manifests.iter().map(digest).collect();
        wanted.retain(|one| !listed.contains(&digest(one)));
        if wanted.is_empty() {
            return Ok(());
        }
        list.manifests.append(&mut wanted);
        wanted.clone_from(&list.manifests);
        list.push(place, &tag).await?;
    }
    tracing::warn!(%tag, "other pushers keep changing the list of referrers: it may lack an entry");
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use jaunt_distribution::{Client, ClientConfig};
    use jaunt_formats::media_type::OCI_MANIFEST;
    use wiremock::matchers::method;
    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;

    fn index(manifests: &Value) -> Vec<u8> {
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests }).to_string().into_bytes()
    }

    /// A registry whose list is overwritten, behind the back of whoever wrote it first, so many times.
    async fn contested(overwritten: usize, by: Value) -> (MockServer, Arc<Mutex<Vec<u8>>>) {
        let (server, list) = (MockServer::start().await, Arc::new(Mutex::new(Vec::new())));
        let (read, written) = (Arc::clone(&list), Arc::clone(&list));
        let puts = Mutex::new(0);
        let answer = move |_: &Request| match read.lock().unwrap().clone() {
            list if list.is_empty() => ResponseTemplate::new(404),
            list => ResponseTemplate::new(200).set_body_raw(list, OCI_INDEX),
        };
        let take = move |request: &Request| {
            let mut puts = puts.lock().unwrap();
            *puts += 1;
            let wins = *puts > overwritten;
            *written.lock().unwrap() = if wins { request.body.clone() } else { index(&by) };
            ResponseTemplate::new(201)
        };
        Mock::given(method("GET")).respond_with(answer).mount(&server).await;
        Mock::given(method("PUT")).respond_with(take).mount(&server).await;
        (server, list)
    }

    #[tokio::test]
    async fn what_two_pushers_list_is_all_listed_in_the_end() {
        let other = json!([{ "mediaType": OCI_MANIFEST, "digest": Digest::of(b"other"), "size": 1 }]);
        let ours = Descriptor::new(OCI_MANIFEST, Digest::of(b"ours"), 1);
        for (overwritten, listed, puts) in [(0, 1, 1), (1, 2, 2), (3, 2, 4), (100, 1, 5)] {
            let (server, written) = contested(overwritten, other.clone()).await;
            let client =
                Client::new(ClientConfig { auth_files: Vec::new(), ..ClientConfig::default() }).unwrap();
            let place = Place::of(&client, &format!("{}/a:t", server.address()).parse().unwrap());
            list(&place, &Digest::of(b"subject"), &ours).await.unwrap();
            let document: Value = serde_json::from_slice(&written.lock().unwrap()).unwrap();
            assert_eq!(document["manifests"].as_array().unwrap().len(), listed, "{overwritten}");
            let requests = server.received_requests().await.unwrap();
            let count = requests.iter().filter(|request| request.method == "PUT").count();
            assert_eq!(count, puts, "{overwritten}");
        }
    }
}
