//! Uploads against registries that move sessions, stop listening or redirect.

use std::time::Duration;

use bytes::Bytes;
use jaunt_distribution::{Client, ClientConfig, Error, PushedManifest};
use jaunt_formats::Digest;
use wiremock::matchers::{any, body_bytes, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{RawServer, client, config, read_head, repository, repository_at, send};

fn accepted(location: &str) -> ResponseTemplate {
    ResponseTemplate::new(202).insert_header("location", location)
}

/// A registry with a token whose sessions begin at `location`.
async fn registry(location: &str) -> MockServer {
    let server = MockServer::start().await;
    let asks = format!(r#"Bearer realm="{}/token""#, server.uri());
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", asks.as_str());
    let token = ResponseTemplate::new(200).set_body_string(r#"{"token":"hunter2"}"#);
    let pushes = query_param("scope", "repository:a/b:pull,push");
    Mock::given(path("/token")).and(pushes).respond_with(token).mount(&server).await;
    let opens = Mock::given(path("/v2/a/b/blobs/uploads/")).and(header("authorization", "Bearer hunter2"));
    opens.respond_with(accepted(location)).with_priority(1).mount(&server).await;
    Mock::given(path("/v2/a/b/blobs/uploads/")).respond_with(asks).with_priority(9).mount(&server).await;
    server
}

#[tokio::test]
async fn every_request_goes_where_the_last_answer_said() {
    let digest = Digest::of(b"onetwo");
    let server = registry("/s/1?state=a").await;
    let patch = Mock::given(method("PATCH"))
        .and(path("/s/1"))
        .and(query_param("state", "a"))
        .and(body_bytes("onetwo"));
    let patch = patch.and(header("authorization", "Bearer hunter2"));
    patch.respond_with(accepted("/s/2?state=b%3D")).expect(1).mount(&server).await;
    let put = Mock::given(method("PUT")).and(path("/s/2")).and(query_param("state", "b="));
    let put = put.and(query_param("digest", digest.to_string())).and(body_bytes(""));
    put.respond_with(ResponseTemplate::new(201)).expect(1).mount(&server).await;
    let mut upload = client().start_upload(&repository(&server)).await.unwrap();
    upload.write(Bytes::from_static(b"one")).await.unwrap();
    upload.write(Bytes::new()).await.unwrap();
    upload.write(Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(upload.written(), 6);
    upload.finish(&digest, 6).await.unwrap();
}

#[tokio::test]
async fn a_session_on_another_host_gets_no_authorization() {
    let (storage, digest) = (MockServer::start().await, Digest::of(b"x"));
    Mock::given(method("PATCH")).respond_with(accepted("/s/2")).mount(&storage).await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(201)).mount(&storage).await;
    let server = registry(&format!("{}/s/1", storage.uri())).await;
    let (client, repository) = (client(), repository(&server));
    let mut upload = client.start_upload(&repository).await.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    upload.finish(&digest, 1).await.unwrap();
    client.push_blob(&repository, &digest, Bytes::from_static(b"x")).await.unwrap();
    let requests = storage.received_requests().await.unwrap();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_refusal_in_the_middle_reaches_the_writer() {
    let server = RawServer::start(|number, mut stream| async move {
        let refusal = "HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 54\r\n\r\n";
        let words = br#"{"errors":[{"code":"SIZE_INVALID","message":"too big"}]"#;
        let head = read_head(&mut stream).await;
        if head.starts_with("POST") {
            send(&mut stream, "HTTP/1.1 202 Accepted\r\nlocation: /s\r\ncontent-length: 0\r\n\r\n", b"")
                .await;
            read_head(&mut stream).await;
        }
        assert!(number < 2, "the session is over");
        send(&mut stream, refusal, &words[..54]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    })
    .await;
    let mut upload = client().start_upload(&repository_at(&server.address)).await.unwrap();
    let piece = Bytes::from(vec![0; 1 << 20]);
    let error = loop {
        if let Err(error) = upload.write(piece.clone()).await {
            break error;
        }
        assert!(upload.written() < 1 << 30, "nobody stops us");
    };
    // Depending on when the connection closes, the answer or the broken pipe is seen first.
    assert!(matches!(&error, Error::Status { .. } | Error::Interrupted { .. }), "{error}");
    assert!(upload.write(piece).await.unwrap_err().to_string().contains("the upload is over"));
}

#[tokio::test]
async fn a_registry_that_stops_reading_is_reported() {
    let server = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        send(&mut stream, "HTTP/1.1 202 Accepted\r\nlocation: /s\r\ncontent-length: 0\r\n\r\n", b"").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let quick = ClientConfig { read_timeout: Duration::from_millis(100), ..config() };
    let client = Client::new(quick).unwrap();
    let mut upload = client.start_upload(&repository_at(&server.address)).await.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let error = upload.finish(&Digest::of(b"x"), 1).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_redirected_push_is_an_error() {
    let server = MockServer::start().await;
    let moved = ResponseTemplate::new(308).insert_header("location", "/elsewhere");
    Mock::given(any()).respond_with(moved).mount(&server).await;
    let bytes = Bytes::from_static(b"x");
    let error = client().push_blob(&repository(&server), &Digest::of(b"x"), bytes).await.unwrap_err();
    assert!(error.to_string().ends_with("blob upload: a POST was redirected"), "{error}");
}

#[tokio::test]
async fn bytes_that_contradict_their_digest_are_not_sent() {
    let server = MockServer::start().await;
    let (client, repository, bytes) = (client(), repository(&server), Bytes::from_static(b"x"));
    let other = Digest::of(b"other");
    let error = client.push_blob(&repository, &other, bytes.clone()).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let error = client.push_manifest(&repository, &other.to_string(), "x/y", bytes).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let large = Bytes::from(vec![0; (4 << 20) + 1]);
    let error = client.push_manifest(&repository, "t", "x/y", large).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_registrys_word_on_the_subject_is_passed_on() {
    let (server, subject) = (MockServer::start().await, Digest::of(b"subject"));
    let put = Mock::given(method("PUT")).and(path("/v2/a/b/manifests/t")).and(header("content-type", "x/y"));
    let answer = ResponseTemplate::new(201).insert_header("oci-subject", subject.to_string().as_str());
    put.respond_with(answer).mount(&server).await;
    let pushed = client().push_manifest(&repository(&server), "t", "x/y", Bytes::from_static(b"{}")).await;
    assert_eq!(pushed.unwrap(), PushedManifest { digest: Digest::of(b"{}"), subject: Some(subject) });
}

#[tokio::test]
async fn a_registry_that_will_not_mount_has_its_session_cancelled() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(query_param("from", "c"))
        .respond_with(accepted("/s"))
        .mount(&server)
        .await;
    let cancel = Mock::given(method("DELETE")).and(path("/s"));
    cancel.respond_with(ResponseTemplate::new(204)).expect(1).mount(&server).await;
    let from = format!("{}/c", server.address()).parse().unwrap();
    assert!(!client().mount_blob(&repository(&server), &from, &Digest::of(b"x")).await.unwrap());
}

#[tokio::test]
async fn an_upload_that_the_registry_has_forgotten_may_succeed_when_it_begins_anew() {
    let server = registry("/s/1").await;
    Mock::given(method("PATCH")).respond_with(ResponseTemplate::new(404)).mount(&server).await;
    let mut upload = client().start_upload(&repository(&server)).await.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let error = upload.finish(&Digest::of(b"x"), 1).await.unwrap_err();
    assert!(matches!(error, Error::UploadLost { .. }) && error.is_transient(), "{error}");
    let unknown = ResponseTemplate::new(404);
    let nowhere = MockServer::start().await;
    Mock::given(any()).respond_with(unknown).mount(&nowhere).await;
    let error = client().start_upload(&repository(&nowhere)).await.err().unwrap();
    assert!(error.is_not_found() && !error.is_transient(), "{error}");
}
