//! Ranges: exactly the bytes asked for, or an error, whatever the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use jaunt_distribution::{Client, ClientConfig, Error};
use jaunt_formats::Digest;
use tokio::io::AsyncWriteExt as _;
use wiremock::matchers::{header, method};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{RawServer, client, config, content, read_head, repository, repository_at, send};

/// A mock registry that answers every GET alike.
async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(answer).mount(&server).await;
    server
}

fn part(content_range: &str, body: &[u8]) -> ResponseTemplate {
    ResponseTemplate::new(206).insert_header("content-range", content_range).set_body_bytes(body)
}

#[tokio::test]
async fn a_range_is_one_request_with_its_bounds() {
    let bytes = content(100);
    let server = MockServer::start().await;
    let asked = Mock::given(header("range", "bytes=10-19")).and(header("accept-encoding", "identity"));
    asked.respond_with(part("bytes 10-19/100", &bytes[10..20])).expect(1).mount(&server).await;
    let got = client().blob_range(&repository(&server), &Digest::of(&bytes), 10..20).await.unwrap();
    assert_eq!(got, bytes[10..20]);
    let nothing = client().blob_range(&repository(&server), &Digest::of(&bytes), 10..10).await.unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn the_bytes_of_a_range_can_be_had_as_they_arrive() {
    let rest = Arc::new(tokio::sync::Notify::new());
    let wanted = rest.clone();
    let server = RawServer::start(move |_, mut stream| {
        let wanted = wanted.clone();
        async move {
            read_head(&mut stream).await;
            let head = "HTTP/1.1 206 Partial\r\ncontent-length: 10\r\ncontent-range: bytes 10-19/100\r\n\r\n";
            send(&mut stream, head, &content(100)[10..14]).await;
            wanted.notified().await;
            stream.write_all(&content(100)[14..20]).await.unwrap();
        }
    })
    .await;
    let repository = repository_at(&server.address);
    let mut pieces = client().blob_range_stream(&repository, &Digest::of(b""), 10..20);
    let first = pieces.try_next().await.unwrap().unwrap();
    assert_eq!(first, content(100)[10..14]);
    rest.notify_one();
    let second: Vec<_> = pieces.try_collect().await.unwrap();
    assert_eq!(second.concat(), content(100)[14..20]);
    let mut nothing = client().blob_range_stream(&repository, &Digest::of(b""), 10..10);
    assert!(nothing.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_without_ranges_still_serves_them() {
    let bytes = content(100_000);
    let server = answering(ResponseTemplate::new(200).set_body_bytes(bytes.clone())).await;
    let (client, repository, digest) = (client(), repository(&server), Digest::of(&bytes));
    for range in [0..10, 10..20, 70_000..100_000, 0..100_000] {
        let want = &bytes[range.start as usize..range.end as usize];
        assert_eq!(client.blob_range(&repository, &digest, range).await.unwrap(), want);
    }
    let error = client.blob_range(&repository, &digest, 99_999..100_001).await.unwrap_err();
    assert!(matches!(error, Error::RangeNotSatisfiable { .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_ranges_is_not_read_to_its_end() {
    let server = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        send(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n", &content(5000)).await;
        // The rest never comes; nobody may wait for it.
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let (client, repository, digest) = (client(), repository_at(&server.address), Digest::of(b""));
    let read = client.blob_range(&repository, &digest, 1000..5000);
    let got = tokio::time::timeout(Duration::from_secs(2), read).await.unwrap().unwrap();
    assert_eq!(got, content(5000)[1000..]);
}

#[tokio::test]
async fn answers_with_other_ranges_are_refused() {
    for content_range in [
        "bytes 11-20/100",
        "bytes 0-9/100",
        "bytes 10-18/100",
        "bytes 10-20/100",
        "bytes 10-19/15",
        "bytes 10-19",
        "items 10-19/100",
        "",
    ] {
        let server = answering(part(content_range, &[0; 10])).await;
        let error = client().blob_range(&repository(&server), &Digest::of(b""), 10..20).await.unwrap_err();
        assert!(matches!(error, Error::WrongRange { .. }), "{content_range}: {error}");
        assert_eq!(server.received_requests().await.unwrap().len(), 1);
    }
    // The stated range is right, the body's length is not.
    let server = answering(part("bytes 10-19/100", &[0; 11])).await;
    let error = client().blob_range(&repository(&server), &Digest::of(b""), 10..20).await.unwrap_err();
    assert!(matches!(error, Error::WrongRange { .. }), "{error}");
}

#[tokio::test]
async fn a_range_behind_the_end_is_not_satisfiable() {
    for answer in [ResponseTemplate::new(416), part("bytes 10-14/15", &[0; 5])] {
        let server = answering(answer).await;
        let error = client().blob_range(&repository(&server), &Digest::of(b""), 10..20).await.unwrap_err();
        assert!(matches!(error, Error::RangeNotSatisfiable { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_unexpected_success_is_an_error() {
    for (status, wanted) in [(204, 0..1), (202, 0..1)] {
        let server = answering(ResponseTemplate::new(status)).await;
        let error = client().blob_range(&repository(&server), &Digest::of(b""), wanted).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
    // A part that nobody asked for.
    let server = answering(part("bytes 0-3/9", b"blob")).await;
    let error = client().blob(&repository(&server), &Digest::of(b"blob"), 9).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

/// A server that breaks off each body after 600 bytes, chunked or with a length.
async fn breaking(chunked: bool, connections: Arc<AtomicUsize>) -> RawServer {
    RawServer::start(move |_, mut stream| {
        connections.fetch_add(1, Ordering::Relaxed);
        async move {
            let head = read_head(&mut stream).await;
            let bytes = content(1500);
            let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let (first, last) = range.map_or(("0", "1499"), |range| range.split_once('-').unwrap());
            let first: usize = first.parse().unwrap();
            let last: usize = last.parse().unwrap_or(1499);
            let status = match range {
                Some(_) => format!("206 Partial Content\r\ncontent-range: bytes {first}-{last}/1500"),
                None => "200 OK".to_owned(),
            };
            let body = &bytes[first..=last.min(first + 599)];
            if chunked {
                let start =
                    format!("HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
                send(&mut stream, &start, body).await;
                send(&mut stream, "\r\n0\r\n\r\n", b"").await;
            } else {
                let start = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", last + 1 - first);
                send(&mut stream, &start, body).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_ended() {
    for chunked in [false, true] {
        let connections = Arc::new(AtomicUsize::new(0));
        let server = breaking(chunked, Arc::clone(&connections)).await;
        let (client, repository) = (client(), repository_at(&server.address));
        let (bytes, digest) = (content(1500), Digest::of(&content(1500)));
        assert_eq!(client.blob_range(&repository, &digest, 1..1500).await.unwrap(), bytes[1..], "{chunked}");
        assert_eq!(connections.load(Ordering::Relaxed), 3);
        if !chunked {
            assert_eq!(client.blob(&repository, &digest, 1500).await.unwrap(), bytes);
            let stream = client.blob_stream(&repository, &digest).await.unwrap();
            assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().concat(), bytes);
        }
    }
}

#[tokio::test]
async fn a_body_that_keeps_breaking_off_is_an_error() {
    let server = breaking(false, Arc::default()).await;
    let client = Client::new(ClientConfig { attempts: 2, ..config() }).unwrap();
    let error = client.blob_range(&repository_at(&server.address), &Digest::of(b""), 1..1500).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }) && error.is_transient(), "{error}");
    let server = breaking(true, Arc::default()).await;
    let error = client.blob_range(&repository_at(&server.address), &Digest::of(b""), 1..1500).await;
    let error = error.unwrap_err();
    assert!(error.to_string().ends_with("the answer ended at byte 1201, before byte 1500"), "{error}");
    assert!(error.is_transient());
}

/// A server that sends ten pieces of this many bytes, a tenth of a second apart, or as many of them as
/// its connection's number allows.
async fn dripping(piece: usize, pieces_of: impl Fn(usize) -> usize + Send + 'static) -> RawServer {
    RawServer::start(move |number, mut stream| {
        let pieces = pieces_of(number);
        async move {
            read_head(&mut stream).await;
            let (length, last) = (piece * 10, piece * 10 - 1);
            let start = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-{last}/{length}\r\ncontent-length: {length}\r\n\r\n"
            );
            send(&mut stream, &start, b"").await;
            for piece in content(length).chunks(piece).take(pieces) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if stream.write_all(piece).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    })
    .await
}

/// A client that gives a server half a second, and no second chance.
fn impatient() -> Client {
    Client::new(ClientConfig { read_timeout: Duration::from_millis(500), attempts: 1, ..config() }).unwrap()
}

#[tokio::test]
async fn slow_bodies_are_waited_for_and_silent_ones_are_not() {
    let server = dripping(2000, |number| if number == 0 { 10 } else { 5 }).await;
    let (client, repository, digest) = (impatient(), repository_at(&server.address), Digest::of(b""));
    assert_eq!(client.blob_range(&repository, &digest, 0..20_000).await.unwrap(), content(20_000));
    let error = client.blob_range(&repository, &digest, 0..20_000).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_trickles_holds_nobody() {
    let server = dripping(1, |_| 10).await;
    let (client, repository, digest) = (impatient(), repository_at(&server.address), Digest::of(b""));
    let error = client.blob_range(&repository, &digest, 0..10).await.unwrap_err();
    assert!(matches!(error, Error::TooSlow { .. }) && error.is_transient(), "{error}");
    let want = format!("{} sends less than 4096 bytes a second", server.address);
    assert!(error.to_string().ends_with(&want), "{error}");
}

#[tokio::test]
async fn a_call_ends_within_the_time_its_caller_allows() {
    // Fast enough for the client, too slow for the caller; and one that never answers at all.
    for pieces in [10, 0] {
        let server = dripping(2000, move |_| pieces).await;
        let client = client().within(Duration::from_millis(300));
        let repository = repository_at(&server.address);
        let error = client.blob_range(&repository, &Digest::of(b""), 0..20_000).await.unwrap_err();
        assert!(error.to_string().ends_with("not done within 300ms") && error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn ranges_one_after_the_other_share_a_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let server = RawServer::start(move |_, mut stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let start = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-99/100\r\ncontent-length: 100\r\n\r\n";
                send(&mut stream, start, &content(100)).await;
            }
        }
    })
    .await;
    let (client, repository) = (client(), repository_at(&server.address));
    for _ in 0..20 {
        client.blob_range(&repository, &Digest::of(b""), 0..100).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
