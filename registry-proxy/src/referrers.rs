//! The list of referrers that pushers keep where a registry has no API for them.
//!
//! Spec: OCI distribution-spec 1.1, "Referrers tag schema". The list is changed, not made anew: what others
//! have listed stays as it is.

use std::time::Duration;

use bytes::Bytes;
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
/// Of two pushers that read the same list the second drops what the first has added, where the registry knows no
/// conditional push. What was written is therefore read back, and written again while anything that has been seen
/// in the list is missing from it.
pub async fn list(place: &Place, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
    let referrer = serde_json::to_value(referrer).map_err(std::io::Error::from)?;
    change(place, &referrers_tag(subject), vec![referrer], None).await.map(drop)
}

/// Takes a manifest off its subject's list; whether it was there. A list that would be empty is deleted, if
/// the place allows that.
pub async fn unlist(place: &Place, subject: &Digest, gone: &Digest) -> Result<bool, Error> {
    change(place, &referrers_tag(subject), Vec::new(), Some(gone)).await
}

/// Writes a list until it has what is wanted, and what should be gone no more; whether that was there.
async fn change(
    place: &Place,
    tag: &str,
    mut wanted: Vec<Value>,
    gone: Option<&Digest>,
) -> Result<bool, Error> {
    let (gone, mut was_there) = (gone.map(|gone| Value::from(gone.to_string())), false);
    for turn in 0..=TRIES {
        // The first reading back comes at once: mostly, nobody else was there.
        if let Some(collisions) = turn.checked_sub(1).filter(|&collisions| collisions > 0) {
            tracing::debug!(%tag, collisions, "another pusher writes the list of referrers");
            tokio::time::sleep(PAUSE * collisions + PAUSE * (std::process::id() % 8) / 8).await;
        }
        let (now, mut list) = read(place, tag).await?;
        let listed = list.manifests.len();
        list.manifests.retain(|one| one.get("digest").is_none() || one.get("digest") != gone.as_ref());
        let is_there = list.manifests.len() < listed;
        wanted.retain(|one| !list.manifests.iter().any(|listed| listed.get("digest") == one.get("digest")));
        if wanted.is_empty() && !is_there {
            return Ok(was_there);
        }
        was_there |= is_there;
        if turn == TRIES {
            break;
        }
        list.manifests.append(&mut wanted);
        match now {
            Some(now) if list.manifests.is_empty() && delete(place, &now).await? => return Ok(was_there),
            _ => {}
        }
        // Who takes something off the list answers for that alone: others may take off more meanwhile.
        if gone.is_none() {
            wanted.clone_from(&list.manifests);
        }
        place.move_tag(tag, now, OCI_INDEX, list.encode()?).await?;
    }
    tracing::warn!(%tag, "other pushers keep changing the list of referrers: what was written is lost again");
    Ok(was_there)
}

/// Deletes a list; `false` where the place does not allow that.
async fn delete(place: &Place, list: &Digest) -> Result<bool, Error> {
    match place.delete_manifest(list).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_refusal() => Ok(false),
        Err(error) => Err(error.into()),
    }
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

    fn encode(mut self) -> Result<Bytes, Error> {
        self.document.insert("manifests".to_owned(), self.manifests.into());
        Ok(manifest::encode(&self.document)?.1)
    }
}

/// The list there is, and its digest; an empty one where there is none.
async fn read(place: &Place, tag: &str) -> Result<(Option<Digest>, List), Error> {
    let Some(found) = place.manifest_if_exists(tag, &[OCI_INDEX]).await? else {
        let empty = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
        return Ok((None, List::new(empty, tag)?));
    };
    let document = manifest::parse("list of referrers", found.digest, &found.bytes)?;
    Ok((Some(found.digest), List::new(document, tag)?))
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
        let answer = move |_: &Request| answer_with(&read.lock().unwrap());
        let take = move |request: &Request| {
            let mut puts = puts.lock().unwrap();
            *puts += 1;
            let wins = *puts > overwritten;
            *written.lock().unwrap() = if wins { request.body.clone() } else { index(&by) };
            ResponseTemplate::new(201)
        };
        Mock::given(method("GET")).respond_with(answer.clone()).mount(&server).await;
        Mock::given(method("HEAD")).respond_with(answer).mount(&server).await;
        Mock::given(method("PUT")).respond_with(take).mount(&server).await;
        (server, list)
    }

    fn answer_with(list: &[u8]) -> ResponseTemplate {
        if list.is_empty() {
            return ResponseTemplate::new(404);
        }
        let digest = Digest::of(list).to_string();
        let answer = ResponseTemplate::new(200).set_body_raw(list, OCI_INDEX);
        answer.insert_header("etag", format!("\"{digest}\"")).insert_header("docker-content-digest", digest)
    }

    fn place(server: &MockServer) -> Place {
        let client = Client::new(ClientConfig { auth_files: Vec::new(), ..ClientConfig::default() }).unwrap();
        Place::of(&client, &format!("{}/a:t", server.address()).parse().unwrap())
    }

    /// A registry that knows conditions, and where somebody else is quicker so many times.
    async fn conditional(quicker: usize) -> (MockServer, Arc<Mutex<Vec<u8>>>) {
        let (server, list) = (MockServer::start().await, Arc::new(Mutex::new(Vec::new())));
        let (read, written, left) = (Arc::clone(&list), Arc::clone(&list), Mutex::new(quicker));
        let answer = move |_: &Request| answer_with(&read.lock().unwrap());
        let take = move |request: &Request| {
            let (mut list, mut left) = (written.lock().unwrap(), left.lock().unwrap());
            if *left > 0 {
                *left -= 1;
                let mut all: Value = serde_json::from_slice(&list)
                    .unwrap_or_else(|_| serde_json::from_slice(&index(&json!([]))).unwrap());
                let other = Digest::of(&left.to_le_bytes());
                all["manifests"].as_array_mut().unwrap().push(json!({
                    "mediaType": OCI_MANIFEST, "digest": other, "size": 1 }));
                *list = all.to_string().into_bytes();
            }
            let holds = if list.is_empty() {
                request.headers.get("if-none-match").is_some_and(|value| value == "*")
            } else {
                let etag = format!("\"{}\"", Digest::of(&list));
                request.headers.get("if-match").is_some_and(|value| *value == etag)
            };
            if holds {
                list.clone_from(&request.body);
            }
            ResponseTemplate::new(if holds { 201 } else { 412 })
        };
        Mock::given(method("GET")).respond_with(answer.clone()).mount(&server).await;
        Mock::given(method("HEAD")).respond_with(answer).mount(&server).await;
        Mock::given(method("PUT")).respond_with(take).mount(&server).await;
        Mock::given(method("DELETE")).respond_with(ResponseTemplate::new(405)).mount(&server).await;
        (server, list)
    }

    #[tokio::test]
    async fn where_a_registry_knows_conditions_nothing_is_ever_lost() {
        let ours = Descriptor::new(OCI_MANIFEST, Digest::of(b"ours"), 1);
        for quicker in 0..4 {
            let (server, written) = conditional(quicker).await;
            let (place, subject) = (place(&server), Digest::of(b"subject"));
            let listed = || {
                let document: Value = serde_json::from_slice(&written.lock().unwrap()).unwrap();
                document["manifests"].as_array().unwrap().len()
            };
            list(&place, &subject, &ours).await.unwrap();
            assert_eq!(listed(), quicker + 1);
            assert!(unlist(&place, &subject, &ours.digest).await.unwrap());
            assert_eq!(listed(), quicker);
            assert!(!unlist(&place, &subject, &ours.digest).await.unwrap());
        }
    }

    #[tokio::test]
    async fn what_two_pushers_list_is_all_listed_in_the_end() {
        let other = json!([{ "mediaType": OCI_MANIFEST, "digest": Digest::of(b"other"), "size": 1 }]);
        let ours = Descriptor::new(OCI_MANIFEST, Digest::of(b"ours"), 1);
        for (overwritten, listed, puts) in [(0, 1, 1), (1, 2, 2), (3, 2, 4), (100, 1, 5)] {
            let (server, written) = contested(overwritten, other.clone()).await;
            let place = place(&server);
            list(&place, &Digest::of(b"subject"), &ours).await.unwrap();
            let document: Value = serde_json::from_slice(&written.lock().unwrap()).unwrap();
            assert_eq!(document["manifests"].as_array().unwrap().len(), listed, "{overwritten}");
            let requests = server.received_requests().await.unwrap();
            let count = requests.iter().filter(|request| request.method == "PUT").count();
            assert_eq!(count, puts, "{overwritten}");
        }
    }
}
