//! Retries: of what passes, after the pause the server asks for, and not for ever.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jaunt_distribution::{Client, ClientConfig, Error};
use jaunt_formats::Digest;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{RawServer, client, config, read_head, repository, repository_at, send};

/// A mock registry that answers `first`, then with the blob "x".
async fn recovering(first: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(first).up_to_n_times(1).mount(&server).await;
    let good = ResponseTemplate::new(200).set_body_string("x");
    Mock::given(method("GET")).respond_with(good).mount(&server).await;
    server
}

#[tokio::test]
async fn a_retry_after_is_honoured() {
    let server = recovering(ResponseTemplate::new(429).insert_header("retry-after", "1")).await;
    let started = Instant::now();
    assert_eq!(client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap(), "x");
    let took = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_retry_after_may_be_a_date_and_come_with_a_503() {
    // Dates have whole seconds: at least one lies between now and this one.
    let date = jiff::Timestamp::now() + Duration::from_secs(2);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
    let server = recovering(ResponseTemplate::new(503).insert_header("retry-after", date.as_str())).await;
    let started = Instant::now();
    assert_eq!(client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap(), "x");
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_retry_after_beyond_all_patience_is_reported_at_once() {
    let server = recovering(ResponseTemplate::new(429).insert_header("retry-after", "3600")).await;
    let error = client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap_err();
    assert!(error.to_string().ends_with("the registry answered 429 Too Many Requests"), "{error}");
    assert!(error.is_transient());
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn passing_troubles_are_retried_and_others_are_not() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server = recovering(ResponseTemplate::new(status)).await;
        assert_eq!(client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap(), "x", "{status}");
    }
    for status in [400, 404, 409, 501, 505] {
        let server = recovering(ResponseTemplate::new(status)).await;
        client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap_err();
        assert_eq!(server.received_requests().await.unwrap().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn tries_are_counted() {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(503)).expect(3).mount(&server).await;
    let error = client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap_err();
    assert!(matches!(&error, Error::Status { status, .. } if status.as_u16() == 503), "{error}");
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_tried_again() {
    let server = RawServer::start(|number, mut stream| async move {
        read_head(&mut stream).await;
        if number > 0 {
            send(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", b"x").await;
        }
    })
    .await;
    let bytes = client().blob(&repository_at(&server.address), &Digest::of(b"x"), 9).await.unwrap();
    assert_eq!(bytes, "x");
}

#[tokio::test]
async fn a_registry_that_comes_up_meanwhile_is_found() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        send(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", b"x").await;
        stream
    };
    let client = Client::new(ClientConfig { attempts: 4, ..config() }).unwrap();
    let (repository, digest) = (repository_at(&address.to_string()), Digest::of(b"x"));
    let (bytes, _stream) = tokio::join!(client.blob(&repository, &digest, 9), server);
    assert_eq!(bytes.unwrap(), "x");
}

#[tokio::test]
async fn a_blob_is_pushed_again_in_a_new_session() {
    let server = MockServer::start().await;
    let session = ResponseTemplate::new(202).insert_header("location", "/upload");
    Mock::given(method("POST")).respond_with(session).expect(2).mount(&server).await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(503)).up_to_n_times(1).mount(&server).await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(201)).expect(1).mount(&server).await;
    client().push_blob(&repository(&server), &Digest::of(b"x"), Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn who_can_ask_another_is_told_at_once_how_long_a_registry_wants_to_be_left_alone() {
    for status in [429, 503] {
        let server = recovering(ResponseTemplate::new(status).insert_header("retry-after", "12")).await;
        let (client, repository) = (client().pausing_at_most(Duration::from_secs(1)), repository(&server));
        let error = client.blob_range(&repository, &Digest::of(b"x"), 0..1).await.unwrap_err();
        let Error::Status { retry_after, .. } = &error else { panic!("{error}") };
        assert_eq!(*retry_after, Some(Duration::from_secs(12)), "{status}");
        assert_eq!(server.received_requests().await.unwrap().len(), 1);
        assert_eq!(client.blob_range(&repository, &Digest::of(b"x"), 0..1).await.unwrap(), "x");
    }
}
