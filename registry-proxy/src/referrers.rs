//! The lists of referrers of a place.

use bytes::Bytes;
use jaunt_distribution::{Manifest, ReferrerLists, list_referrer, unlist_referrer};
use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_INDEX;

use crate::error::Error;
use crate::manifest::Descriptor;
use crate::place::Place;

/// Adds a manifest to its subject's list.
pub async fn list(place: &Place, subject: &Digest, referrer: &Descriptor) -> Result<(), Error> {
    let referrer = serde_json::to_value(referrer).map_err(std::io::Error::from)?;
    list_referrer(place, subject, referrer).await
}

/// Takes a manifest off its subject's list; whether it was there. A list that would be empty is deleted, if
/// the place allows that.
pub async fn unlist(place: &Place, subject: &Digest, gone: &Digest) -> Result<bool, Error> {
    unlist_referrer(place, subject, gone).await
}

impl ReferrerLists for Place {
    type Error = Error;

    async fn read(&self, tag: &str) -> Result<Option<Manifest>, Error> {
        Ok(self.manifest_if_exists(tag, &[OCI_INDEX]).await?)
    }

    async fn write(&self, tag: &str, expected: Option<Digest>, list: Bytes) -> Result<(), Error> {
        self.move_tag(tag, expected, OCI_INDEX, list).await?;
        Ok(())
    }

    async fn delete(&self, list: &Digest) -> Result<bool, Error> {
        match self.delete_manifest(list).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn malformed(&self, tag: &str) -> Error {
        Error::Referrers(tag.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use jaunt_distribution::{Client, ClientConfig};
    use jaunt_formats::media_type::OCI_MANIFEST;
    use serde_json::{Value, json};
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
