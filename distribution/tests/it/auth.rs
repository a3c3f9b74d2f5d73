//! Tokens: asked for once, shared, renewed, and never shown.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use jaunt_distribution::{Client, Error};
use jaunt_formats::Digest;
use wiremock::matchers::{
    basic_auth, body_string_contains, header, header_exists, method, path, query_param,
};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::{blob_path, client, client_with_login, repository};

const BLOB: &[u8] = b"blob";

fn challenge(server: &MockServer, status: u16) -> ResponseTemplate {
    let challenge =
        format!(r#"Bearer realm="{}/token",service="s, t",scope="repository:a/b:pull""#, server.uri());
    ResponseTemplate::new(status).insert_header("www-authenticate", challenge.as_str())
}

fn token(text: &str, more: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_string(format!(r#"{{"token":"{text}"{more}}}"#))
}

/// Serves the blob to whoever bears `token`, and challenges everybody else.
async fn guard_blob(server: &MockServer, token: &str) {
    let blob = || path(blob_path(&Digest::of(BLOB)));
    let bearer = header("authorization", format!("Bearer {token}").as_str());
    let good = ResponseTemplate::new(200).set_body_bytes(BLOB);
    Mock::given(blob()).and(bearer).respond_with(good).with_priority(1).mount(server).await;
    Mock::given(blob()).respond_with(challenge(server, 401)).with_priority(9).mount(server).await;
}

async fn read_blob(client: &Client, server: &MockServer) -> Result<Bytes, Error> {
    client.blob(&repository(server), &Digest::of(BLOB), 100).await
}

async fn requests_to(server: &MockServer, wanted: &str) -> usize {
    let requests = server.received_requests().await.unwrap();
    requests.iter().filter(|request| request.url.path() == wanted).count()
}

#[tokio::test]
async fn sixty_four_requests_share_one_token() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    let asked = Mock::given(path("/token"))
        .and(query_param("service", "s, t"))
        .and(query_param("scope", "repository:a/b:pull"));
    asked.respond_with(token("t1", "").set_delay(Duration::from_millis(100))).expect(1).mount(&server).await;
    let client = client();
    let reads = join_all((0..64).map(|_| read_blob(&client, &server))).await;
    assert!(reads.into_iter().all(|read| read.unwrap() == BLOB));
    // The token at hand, one request is one request.
    let before = server.received_requests().await.unwrap().len();
    read_blob(&client, &server).await.unwrap();
    assert_eq!(server.received_requests().await.unwrap().len(), before + 1);
}

#[tokio::test]
async fn a_failed_token_is_shared_by_those_who_waited_and_tried_again_by_the_next() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    let refuse = ResponseTemplate::new(403).set_delay(Duration::from_millis(300));
    Mock::given(path("/token")).respond_with(refuse).up_to_n_times(1).mount(&server).await;
    Mock::given(path("/token")).respond_with(token("t1", "")).mount(&server).await;
    let client = client();
    let reads = join_all((0..16).map(|_| read_blob(&client, &server))).await;
    for read in reads {
        let error = read.unwrap_err();
        let want = format!("token service {} answered 403 Forbidden: the login is wrong", server.address());
        assert!(error.to_string().contains(&want), "{error}");
    }
    assert_eq!(requests_to(&server, "/token").await, 1);
    read_blob(&client, &server).await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    for status in [401, 403] {
        let server = MockServer::start().await;
        guard_blob(&server, "t1").await;
        Mock::given(path("/token")).respond_with(token("t1", "")).up_to_n_times(1).mount(&server).await;
        let client = client();
        read_blob(&client, &server).await.unwrap();
        // From now on only another token will do.
        server.reset().await;
        guard_blob(&server, "t2").await;
        let stale =
            Mock::given(header("authorization", "Bearer t1")).respond_with(challenge(&server, status));
        stale.with_priority(2).mount(&server).await;
        let renewed = token("t2", "").set_delay(Duration::from_millis(100));
        Mock::given(path("/token")).respond_with(renewed).expect(1).mount(&server).await;
        let reads = join_all((0..16).map(|_| read_blob(&client, &server))).await;
        assert!(reads.into_iter().all(|read| read.unwrap() == BLOB), "after a {status}");
    }
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_ends_it() {
    let server = MockServer::start().await;
    guard_blob(&server, "never").await;
    Mock::given(path("/token")).respond_with(token("t1", "")).expect(1).mount(&server).await;
    let error = read_blob(&client(), &server).await.unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { status, .. } if status.as_u16() == 401), "{error}");
    assert_eq!(requests_to(&server, &blob_path(&Digest::of(BLOB))).await, 2);
}

#[tokio::test]
async fn an_expired_token_is_not_sent() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    Mock::given(path("/token"))
        .respond_with(token("t1", r#","expires_in":1"#))
        .expect(2)
        .mount(&server)
        .await;
    let client = client();
    read_blob(&client, &server).await.unwrap();
    tokio::time::sleep(Duration::from_millis(950)).await;
    read_blob(&client, &server).await.unwrap();
    // Two reads and the first challenge: the second token was fetched in advance.
    assert_eq!(requests_to(&server, &blob_path(&Digest::of(BLOB))).await, 3);
}

#[tokio::test]
async fn a_known_registry_is_answered_in_advance_for_its_other_repositories() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    Mock::given(path("/token"))
        .and(query_param("scope", "repository:a/b:pull"))
        .respond_with(token("t1", ""))
        .mount(&server)
        .await;
    Mock::given(path("/token"))
        .and(query_param("scope", "repository:c:pull"))
        .respond_with(token("t2", ""))
        .mount(&server)
        .await;
    let other = format!("/v2/c/blobs/{}", Digest::of(BLOB));
    let guarded = Mock::given(path(other.as_str())).and(header("authorization", "Bearer t2"));
    guarded.respond_with(ResponseTemplate::new(200).set_body_bytes(BLOB)).expect(1).mount(&server).await;
    let client = client();
    read_blob(&client, &server).await.unwrap();
    let c = format!("{}/c", server.address()).parse().unwrap();
    client.blob(&c, &Digest::of(BLOB), 100).await.unwrap();
    assert_eq!(requests_to(&server, &other).await, 1);
    // Where the token service knows nothing of a repository, anonymous access is still tried.
    let public = format!("/v2/public/blobs/{}", Digest::of(BLOB));
    let open =
        Mock::given(path(public.as_str())).respond_with(ResponseTemplate::new(200).set_body_bytes(BLOB));
    open.mount(&server).await;
    let public = format!("{}/public", server.address()).parse().unwrap();
    client.blob(&public, &Digest::of(BLOB), 100).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_token_request_does_not_block_the_next() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    let slow = token("t1", "").set_delay(Duration::from_secs(4));
    Mock::given(path("/token")).respond_with(slow).up_to_n_times(1).mount(&server).await;
    Mock::given(path("/token")).respond_with(token("t1", "")).mount(&server).await;
    let client = client();
    let impatient = tokio::time::timeout(Duration::from_millis(300), read_blob(&client, &server));
    let patient = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::time::timeout(Duration::from_secs(2), read_blob(&client, &server)).await
    };
    let (impatient, patient) = tokio::join!(impatient, patient);
    assert!(impatient.is_err());
    assert_eq!(patient.unwrap().unwrap(), BLOB);
}

#[tokio::test]
async fn passwords_and_identity_tokens_go_to_the_token_service() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    let with_password = Mock::given(path("/token")).and(method("GET")).and(basic_auth("user", "hunter2"));
    with_password.respond_with(token("t1", "")).expect(1).mount(&server).await;
    let login = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpodW50ZXIy"}}}}}}"#, server.address());
    let (client, _directory) = client_with_login(&login);
    read_blob(&client, &server).await.unwrap();

    let with_identity = Mock::given(path("/token"))
        .and(method("POST"))
        .and(body_string_contains("grant_type=refresh_token"))
        .and(body_string_contains("refresh_token=hunter3"))
        .and(body_string_contains("scope=repository%3Aa%2Fb%3Apull"));
    let answer = ResponseTemplate::new(200).set_body_string(r#"{"access_token":"t1"}"#);
    with_identity.respond_with(answer).expect(1).mount(&server).await;
    let login = format!(r#"{{"auths":{{"http://{}":{{"identitytoken":"hunter3"}}}}}}"#, server.address());
    let (client, _directory) = client_with_login(&login);
    read_blob(&client, &server).await.unwrap();
}

#[tokio::test]
async fn a_new_login_counts_without_a_restart() {
    let server = MockServer::start().await;
    let blob = || path(blob_path(&Digest::of(BLOB)));
    let good = ResponseTemplate::new(200).set_body_bytes(BLOB);
    Mock::given(blob())
        .and(basic_auth("user", "new"))
        .respond_with(good)
        .with_priority(1)
        .mount(&server)
        .await;
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", r#"Basic realm="x""#);
    Mock::given(blob()).respond_with(asks).with_priority(9).mount(&server).await;
    let login = |password: &str| {
        format!(r#"{{"auths":{{"{}":{{"username":"user","password":"{password}"}}}}}}"#, server.address())
    };
    let (client, directory) = client_with_login(&login("old"));
    assert!(read_blob(&client, &server).await.is_err());
    let before = server.received_requests().await.unwrap().len();
    assert!(read_blob(&client, &server).await.is_err());
    // The same password is not tried twice in one call.
    assert_eq!(server.received_requests().await.unwrap().len(), before + 1);
    let before = server.received_requests().await.unwrap().len();
    let reads = join_all((0..8).map(|_| read_blob(&client, &server))).await;
    assert!(reads.iter().all(Result::is_err));
    assert_eq!(server.received_requests().await.unwrap().len(), before + 8);
    std::fs::write(directory.path().join("config.json"), login("new")).unwrap();
    assert_eq!(read_blob(&client, &server).await.unwrap(), BLOB);
}

#[tokio::test]
async fn a_refusal_without_a_usable_challenge_is_reported() {
    for (challenge, want) in [
        ("", "access denied (401: DENIED: no; no login for it is configured)"),
        ("Negotiate", "access denied (401: DENIED: no; no login for it is configured)"),
        ("Basic realm=x", "access denied (401: DENIED: no; no login for it is configured)"),
        ("Bearer", "challenge is unusable: its realm is not a URL"),
    ] {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(401)
            .insert_header("www-authenticate", challenge)
            .set_body_string(r#"{"errors":[{"code":"DENIED","message":"no"}]}"#);
        Mock::given(method("GET")).respond_with(answer).mount(&server).await;
        let error = read_blob(&client(), &server).await.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn hostile_token_answers_are_errors() {
    for answer in [
        ResponseTemplate::new(200).set_body_string("hunter2"),
        ResponseTemplate::new(200).set_body_string(r#"{"token":""}"#),
        ResponseTemplate::new(200).set_body_string(r#"{"token":"hunter2\r\nx: y"}"#),
        ResponseTemplate::new(200).set_body_bytes(vec![b' '; 300 << 10]),
        ResponseTemplate::new(404),
    ] {
        let server = MockServer::start().await;
        guard_blob(&server, "t1").await;
        Mock::given(path("/token")).respond_with(answer).mount(&server).await;
        let error = read_blob(&client(), &server).await.unwrap_err();
        assert!(matches!(error, Error::Auth { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn nothing_prints_a_secret() {
    let server = MockServer::start().await;
    // A challenge that shows up only once a token was sent: the client then holds every kind of secret.
    let is_bearer = |request: &Request| request.headers.get("authorization").is_some();
    Mock::given(is_bearer)
        .and(path(blob_path(&Digest::of(BLOB))))
        .respond_with(ResponseTemplate::new(403))
        .mount(&server)
        .await;
    guard_blob(&server, "never").await;
    Mock::given(path("/token"))
        .and(header_exists("authorization"))
        .respond_with(token("hunter4", ""))
        .mount(&server)
        .await;
    let login =
        format!(r#"{{"auths":{{"{}":{{"username":"user","password":"hunter2"}}}}}}"#, server.address());
    let (client, _directory) = client_with_login(&login);
    let error = read_blob(&client, &server).await.unwrap_err();
    let shown = format!("{error} {error:?} {error:#?} {client:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}

#[tokio::test]
async fn a_token_service_that_asks_for_a_pause_is_given_it() {
    let server = MockServer::start().await;
    guard_blob(&server, "t1").await;
    let busy = ResponseTemplate::new(429).insert_header("retry-after", "1");
    Mock::given(path("/token")).respond_with(busy).up_to_n_times(1).mount(&server).await;
    Mock::given(path("/token")).respond_with(token("t1", "")).mount(&server).await;
    let started = std::time::Instant::now();
    assert_eq!(read_blob(&client(), &server).await.unwrap(), BLOB);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(requests_to(&server, "/token").await, 2);
}

#[tokio::test]
async fn a_token_services_pause_beyond_all_patience_is_told_at_once_to_who_leaves_it_alone() {
    for status in [429, 503] {
        let server = MockServer::start().await;
        guard_blob(&server, "t1").await;
        let busy = ResponseTemplate::new(status).insert_header("retry-after", "3600");
        Mock::given(path("/token")).respond_with(busy).mount(&server).await;
        let error = read_blob(&client(), &server).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
        assert_eq!(requests_to(&server, "/token").await, 1);
    }
}
