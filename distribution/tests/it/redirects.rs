//! Redirects: followed without our authorization, remembered until refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jaunt_distribution::Error;
use jaunt_formats::Digest;
use wiremock::matchers::{header, method, path, query_param};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::{RawServer, blob_path, client, content, read_head, repository, send};

fn redirect(to: &str) -> ResponseTemplate {
    ResponseTemplate::new(307).insert_header("location", to).set_body_string("moved")
}

/// Answers ranges as an object store does.
fn store(bytes: Vec<u8>) -> impl Fn(&Request) -> ResponseTemplate {
    move |request| {
        let Some(range) = request.headers.get("range") else {
            return ResponseTemplate::new(200).set_body_bytes(bytes.clone());
        };
        let (first, last) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        ResponseTemplate::new(206)
            .insert_header("content-range", format!("bytes {first}-{last}/{}", bytes.len()).as_str())
            .set_body_bytes(&bytes[first..=last])
    }
}

/// A registry that wants a token and redirects blobs to `to`.
async fn registry_redirecting(to: &str, digest: &Digest) -> MockServer {
    let registry = MockServer::start().await;
    let bearer = header("authorization", "Bearer hunter2");
    Mock::given(path(blob_path(digest)))
        .and(bearer)
        .respond_with(redirect(to))
        .with_priority(1)
        .mount(&registry)
        .await;
    let asks = format!(r#"Bearer realm="{}/token""#, registry.uri());
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", asks.as_str());
    Mock::given(path(blob_path(digest))).respond_with(asks).with_priority(9).mount(&registry).await;
    let token = ResponseTemplate::new(200).set_body_string(r#"{"token":"hunter2"}"#);
    Mock::given(path("/token")).respond_with(token).mount(&registry).await;
    registry
}

async fn count(server: &MockServer) -> usize {
    server.received_requests().await.unwrap().len()
}

#[tokio::test]
async fn a_redirect_is_followed_without_authorization_and_remembered() {
    let (storage, bytes) = (MockServer::start().await, content(10_000));
    let digest = Digest::of(&bytes);
    Mock::given(path("/x"))
        .and(query_param("sig", "1"))
        .respond_with(store(bytes.clone()))
        .mount(&storage)
        .await;
    let registry = registry_redirecting(&format!("{}/x?sig=1", storage.uri()), &digest).await;
    let (client, repository) = (client(), repository(&registry));
    for start in [0, 5000, 9000] {
        let got = client.blob_range(&repository, &digest, start..start + 1000).await.unwrap();
        assert_eq!(got, bytes[start as usize..][..1000]);
    }
    assert_eq!(client.blob(&repository, &digest, 10_000).await.unwrap(), bytes);
    let requests = storage.received_requests().await.unwrap();
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(|request| !request.headers.contains_key("authorization")));
    // Challenge, token, redirect: the registry is asked for the blob no second time.
    assert_eq!(count(&registry).await, 3);
}

#[tokio::test]
async fn a_signed_url_is_used_until_it_says_it_expires() {
    // By the registry's clock, which is not ours.
    let issued = "X-Amz-Date=20200102T030405Z&X-Amz-Expires=600";
    for (date, resolutions) in [("Thu, 02 Jan 2020 03:04:05 GMT", 1), ("Thu, 02 Jan 2020 03:14:00 GMT", 3)] {
        let (storage, registry, bytes) = (MockServer::start().await, MockServer::start().await, content(100));
        let digest = Digest::of(&bytes);
        Mock::given(path("/x")).respond_with(store(bytes.clone())).mount(&storage).await;
        let away = redirect(&format!("{}/x?{issued}", storage.uri())).insert_header("date", date);
        Mock::given(path(blob_path(&digest))).respond_with(away).mount(&registry).await;
        let (client, repository) = (client(), repository(&registry));
        for _ in 0..3 {
            assert_eq!(client.blob_range(&repository, &digest, 1..9).await.unwrap(), bytes[1..9]);
        }
        assert_eq!(count(&registry).await, resolutions, "{date}");
        assert_eq!(count(&storage).await, 3);
    }
}

#[tokio::test]
async fn a_refused_signed_url_is_resolved_again_once() {
    for refusal in [400, 401, 403, 404, 410] {
        let (storage, bytes) = (MockServer::start().await, content(100));
        let digest = Digest::of(&bytes);
        let registry = registry_redirecting(&format!("{}/x", storage.uri()), &digest).await;
        let (client, repository) = (client(), repository(&registry));
        Mock::given(path("/x")).respond_with(store(bytes.clone())).up_to_n_times(1).mount(&storage).await;
        let spent = ResponseTemplate::new(refusal).insert_header("www-authenticate", "Basic realm=x");
        Mock::given(path("/x")).respond_with(spent.clone()).up_to_n_times(1).mount(&storage).await;
        Mock::given(path("/x")).respond_with(store(bytes.clone())).up_to_n_times(1).mount(&storage).await;
        Mock::given(path("/x")).respond_with(spent).mount(&storage).await;
        for _ in 0..2 {
            assert_eq!(
                client.blob_range(&repository, &digest, 1..9).await.unwrap(),
                bytes[1..9],
                "{refusal}"
            );
        }
        // Refused also when just resolved: an error, and no third try.
        let before = count(&storage).await;
        client.blob_range(&repository, &digest, 1..9).await.unwrap_err();
        assert_eq!(count(&storage).await, before + 2);
    }
}

#[tokio::test]
async fn a_signed_url_whose_host_is_gone_is_resolved_again() {
    let (storage, bytes) = (MockServer::start().await, content(100));
    let digest = Digest::of(&bytes);
    let mortal = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        let start =
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-8/100\r\ncontent-length: 9\r\n\r\n";
        send(&mut stream, start, &content(9)).await;
    })
    .await;
    let registry = registry_redirecting(&format!("http://{}/x", mortal.address), &digest).await;
    Mock::given(path("/x")).respond_with(store(bytes.clone())).mount(&storage).await;
    let (client, repository) = (client(), repository(&registry));
    assert_eq!(client.blob_range(&repository, &digest, 0..9).await.unwrap(), bytes[..9]);
    drop(mortal);
    registry.reset().await;
    let moved = redirect(&format!("{}/x", storage.uri()));
    Mock::given(path(blob_path(&digest))).respond_with(moved).mount(&registry).await;
    assert_eq!(client.blob_range(&repository, &digest, 0..9).await.unwrap(), bytes[..9]);
    assert_eq!(count(&storage).await, 1);
}

#[tokio::test]
async fn authorization_does_not_come_back_by_way_of_another_host() {
    let (other, bytes) = (MockServer::start().await, Bytes::from_static(b"x"));
    let digest = Digest::of(&bytes);
    let registry = registry_redirecting(&format!("{}/there", other.uri()), &digest).await;
    Mock::given(path("/there"))
        .respond_with(redirect(&format!("{}/back", registry.uri())))
        .mount(&other)
        .await;
    let back = ResponseTemplate::new(200).set_body_bytes(bytes.clone());
    Mock::given(path("/back")).respond_with(back).mount(&registry).await;
    assert_eq!(client().blob(&repository(&registry), &digest, 9).await.unwrap(), bytes);
    let requests = registry.received_requests().await.unwrap();
    let back = requests.iter().find(|request| request.url.path() == "/back").unwrap();
    assert!(!back.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_redirect_within_the_registry_keeps_the_authorization() {
    let digest = Digest::of(b"x");
    let registry = registry_redirecting("/elsewhere", &digest).await;
    let there = Mock::given(path("/elsewhere")).and(header("authorization", "Bearer hunter2"));
    there.respond_with(ResponseTemplate::new(200).set_body_string("x")).mount(&registry).await;
    assert_eq!(client().blob(&repository(&registry), &digest, 9).await.unwrap(), "x");
}

#[tokio::test]
async fn storage_that_asks_for_a_login_gets_none() {
    let storage = MockServer::start().await;
    let digest = Digest::of(b"x");
    let registry = registry_redirecting(&format!("{}/x", storage.uri()), &digest).await;
    let phish = format!(r#"Bearer realm="{}/phish""#, storage.uri());
    let phish = ResponseTemplate::new(401).insert_header("www-authenticate", phish.as_str());
    Mock::given(method("GET")).respond_with(phish).mount(&storage).await;
    let error = client().blob(&repository(&registry), &digest, 9).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(count(&storage).await, 1);
}

#[tokio::test]
async fn redirects_that_lead_nowhere_are_errors_without_their_url() {
    let digest = Digest::of(b"x");
    for (to, want) in [
        ("file:///etc/passwd?hunter2", "307 to something other than HTTP"),
        ("http://", "307 with a malformed Location header"),
        ("", "more than 5 redirects"),
    ] {
        let registry = registry_redirecting(to, &digest).await;
        let error = client().blob(&repository(&registry), &digest, 9).await.unwrap_err();
        assert!(error.to_string().ends_with(want), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    let registry = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(302)).mount(&registry).await;
    let error = client().blob(&repository(&registry), &digest, 9).await.unwrap_err();
    assert!(error.to_string().ends_with("302 without a Location header"), "{error}");
}

#[tokio::test]
async fn a_signed_url_that_expires_in_use_is_resolved_once_for_all_who_find_it_out() {
    for refusal in [400, 401, 403] {
        let (storage, registry, bytes) =
            (MockServer::start().await, MockServer::start().await, content(4000));
        let digest = Digest::of(&bytes);
        // The first URL is refused from its second request on, the next is good.
        Mock::given(query_param("sig", "0"))
            .respond_with(store(bytes.clone()))
            .up_to_n_times(1)
            .mount(&storage)
            .await;
        Mock::given(query_param("sig", "0"))
            .respond_with(ResponseTemplate::new(refusal))
            .mount(&storage)
            .await;
        Mock::given(query_param("sig", "1")).respond_with(store(bytes.clone())).mount(&storage).await;
        let (uri, resolved) = (storage.uri(), AtomicUsize::new(0));
        let resolve = move |_: &Request| {
            let sig = resolved.fetch_add(1, Ordering::Relaxed);
            // Slow enough for all to have found out.
            redirect(&format!("{uri}/x?sig={sig}")).set_delay(Duration::from_millis(100 * sig as u64))
        };
        Mock::given(path(blob_path(&digest))).respond_with(resolve).mount(&registry).await;
        let (client, repository) = (client(), repository(&registry));
        client.blob_range(&repository, &digest, 0..9).await.unwrap();
        let reads = (0..16).map(|at| client.blob_range(&repository, &digest, at * 200..at * 200 + 100));
        for (at, read) in futures_util::future::join_all(reads).await.into_iter().enumerate() {
            assert_eq!(read.unwrap(), bytes[at * 200..at * 200 + 100], "{refusal}");
        }
        assert_eq!(count(&registry).await, 2, "{refusal}");
    }
}
