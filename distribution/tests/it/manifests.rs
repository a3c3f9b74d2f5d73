//! Manifests and whole blobs: verified, and under their limits.

use bytes::Bytes;
use jaunt_distribution::{Error, Precondition};
use jaunt_formats::media_type::OCI_MANIFEST;
use jaunt_formats::{Digest, media_type};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{blob_path, client, repository};

const MANIFEST: &str = r#"{"schemaVersion":2}"#;

async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(answer).mount(&server).await;
    server
}

fn typed(body: &str, content_type: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(body.as_bytes(), content_type)
}

#[tokio::test]
async fn every_accepted_type_is_asked_for_in_one_header() {
    let server = MockServer::start().await;
    let accept = format!("{}, {}", media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST);
    let asked = Mock::given(path("/v2/a/b/manifests/t"))
        .and(|request: &wiremock::Request| request.headers.get_all("accept").iter().count() == 1);
    let asked = asked.and(move |request: &wiremock::Request| request.headers["accept"] == accept.as_str());
    asked.respond_with(typed(MANIFEST, "application/json")).expect(1).mount(&server).await;
    client().manifest(&repository(&server), "t", &media_type::IMAGE_MANIFESTS).await.unwrap();
}

#[tokio::test]
async fn the_media_type_is_the_bytes_own_where_they_state_one() {
    let stated = format!(r#"{{"mediaType":"{}"}}"#, media_type::OCI_INDEX);
    for (body, content_type, want) in [
        (MANIFEST, "application/vnd.oci.image.manifest.v1+json; charset=utf-8", media_type::OCI_MANIFEST),
        (&stated, media_type::OCI_MANIFEST, media_type::OCI_INDEX),
        ("not json", "text/plain", "text/plain"),
    ] {
        let server = answering(typed(body, content_type)).await;
        let manifest = client().manifest(&repository(&server), "t", &[]).await.unwrap();
        assert_eq!(manifest.media_type, want);
        assert_eq!(manifest.digest, Digest::of(body.as_bytes()));
    }
}

#[tokio::test]
async fn bytes_that_are_not_what_was_named_are_refused() {
    let other = Digest::of(b"other");
    let server = answering(typed(MANIFEST, media_type::OCI_MANIFEST)).await;
    let error = client().manifest(&repository(&server), &other.to_string(), &[]).await.unwrap_err();
    let want = format!(
        "registry {}: repository a/b: manifest {other}: digest is {}, expected {other}",
        server.address(),
        Digest::of(MANIFEST.as_bytes())
    );
    assert_eq!(error.to_string(), want);
    let lying = typed(MANIFEST, "x/y").insert_header("docker-content-digest", other.to_string().as_str());
    let error = client().manifest(&repository(&answering(lying).await), "t", &[]).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let senseless = typed(MANIFEST, "x/y").insert_header("docker-content-digest", "sha256:12");
    let error = client().manifest(&repository(&answering(senseless).await), "t", &[]).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    let server = answering(ResponseTemplate::new(200).set_body_string("blob")).await;
    let error = client().blob(&repository(&server), &other, 100).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn bodies_over_their_limit_are_refused() {
    let server = answering(ResponseTemplate::new(200).set_body_bytes(vec![b' '; (4 << 20) + 1])).await;
    let error = client().manifest(&repository(&server), "t", &[]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 0x40_0000, .. }), "{error}");
    let server = answering(ResponseTemplate::new(200).set_body_string("12345")).await;
    let digest = Digest::of(b"12345");
    assert_eq!(client().blob(&repository(&server), &digest, 5).await.unwrap(), "12345");
    let error = client().blob(&repository(&server), &digest, 4).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 4, .. }), "{error}");
}

#[tokio::test]
async fn a_chunked_body_over_its_limit_is_refused_as_it_arrives() {
    use crate::support::{RawServer, read_head, repository_at, send};
    let server = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        send(&mut stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"").await;
        let chunk = vec![b'x'; 1 << 16];
        // Without an end: only the limit stops it.
        use tokio::io::AsyncWriteExt as _;
        while stream.write_all(b"10000\r\n").await.is_ok() && stream.write_all(&chunk).await.is_ok() {
            if stream.write_all(b"\r\n").await.is_err() {
                break;
            }
        }
    })
    .await;
    let (client, repository) = (client(), repository_at(&server.address));
    let error = client.manifest(&repository, "t", &[]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let error = client.blob(&repository, &Digest::of(b""), 1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_digest_is_asked_for_with_head_and_computed_where_that_tells_nothing() {
    let digest = Digest::of(MANIFEST.as_bytes());
    let server = MockServer::start().await;
    let states =
        ResponseTemplate::new(200).insert_header("docker-content-digest", digest.to_string().as_str());
    Mock::given(method("HEAD")).and(path("/v2/a/b/manifests/t")).respond_with(states).mount(&server).await;
    Mock::given(method("HEAD")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    Mock::given(method("GET")).respond_with(typed(MANIFEST, "x/y")).expect(1).mount(&server).await;
    let (client, repository) = (client(), repository(&server));
    for tag in ["t", "u"] {
        assert_eq!(client.manifest_digest(&repository, tag, &[]).await.unwrap(), digest);
    }
}

#[tokio::test]
async fn a_push_can_depend_on_what_was_there() {
    let (server, digest) = (MockServer::start().await, Digest::of(b"{}").to_string());
    let state = |etag: &str| {
        let state = ResponseTemplate::new(200).insert_header("docker-content-digest", digest.as_str());
        Mock::given(method("HEAD")).respond_with(state.insert_header("etag", etag)).up_to_n_times(1)
    };
    state("\"x\"").mount(&server).await;
    let if_match = Mock::given(method("PUT")).and(header("if-match", "\"x\""));
    if_match.respond_with(ResponseTemplate::new(412)).expect(1).mount(&server).await;
    let if_none = Mock::given(method("PUT")).and(header("if-none-match", "*"));
    if_none.respond_with(ResponseTemplate::new(201)).expect(1).mount(&server).await;
    let (client, repository) = (client(), repository(&server));
    let push = async |condition| {
        let bytes = Bytes::from_static(b"{}");
        client.push_manifest_if(&repository, "t", OCI_MANIFEST, bytes, condition).await
    };
    let etag = client.manifest_state(&repository, "t", &[OCI_MANIFEST]).await.unwrap().etag.unwrap();
    let error = push(Precondition::Unchanged(etag)).await.unwrap_err();
    assert!(error.is_stale() && !error.is_transient(), "{error}");
    push(Precondition::Absent).await.unwrap();
    // A weak mark never matches.
    state("W/\"x\"").mount(&server).await;
    assert_eq!(client.manifest_state(&repository, "t", &[OCI_MANIFEST]).await.unwrap().etag, None);
}

#[tokio::test]
async fn names_that_would_change_the_url_are_never_sent() {
    let server = answering(typed(MANIFEST, "x/y")).await;
    for name in ["../blobs/x", "a?b", "", "sha256:12"] {
        let error = client().manifest(&repository(&server), name, &[]).await.unwrap_err();
        assert!(matches!(error, Error::InvalidName { .. }), "{error}");
    }
    let error = client().manifest(&repository(&server), "t", &["a\nb"]).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert!(server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_blobs_length_comes_from_head() {
    let (digest, server) = (Digest::of(b"blob"), MockServer::start().await);
    let found =
        Mock::given(method("HEAD")).and(path(blob_path(&digest))).and(header("accept-encoding", "identity"));
    found.respond_with(ResponseTemplate::new(200).set_body_string("blob")).mount(&server).await;
    assert_eq!(client().blob_exists(&repository(&server), &digest).await.unwrap(), Some(4));
    assert_eq!(client().blob_exists(&repository(&server), &Digest::of(b"x")).await.unwrap(), None);
}
