//! What a host is told is for that host: logins, tokens, headers, signed URLs.

use jaunt_distribution::{ApiRoot, Client, ClientConfig, Host};
use jaunt_formats::Digest;
use wiremock::matchers::{basic_auth, header_exists, method, path, path_regex, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{client, counts, good, host, requests, serving, settings};
use crate::support::{config, repository};

/// Answers only those who know this login.
async fn guarded(user: &str, password: &str, answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    let known = Mock::given(method("GET")).and(basic_auth(user, password));
    known.respond_with(answer).with_priority(1).mount(&server).await;
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", r#"Basic realm="x""#);
    Mock::given(method("GET")).respond_with(asks).with_priority(9).mount(&server).await;
    server
}

#[tokio::test]
async fn each_host_gets_its_own_credentials_and_no_others() {
    let mirror = guarded("mirror", "m", good(b"lies")).await;
    let registry = guarded("registry", "r", good(b"x")).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let login = |entries: &str| std::fs::write(&file, format!(r#"{{"auths":{{{entries}}}}}"#)).unwrap();
    let own = format!(r#""{}":{{"username":"registry","password":"r"}}"#, registry.address());
    login(&own);
    let hosts = settings(&registry, vec![host(&mirror.uri())]);
    let client = Client::new(ClientConfig { hosts, auth_files: vec![file.clone()], ..config() }).unwrap();
    let (repository, digest) = (repository(&registry), Digest::of(b"x"));
    // The mirror wants a login that nobody has for it.
    assert_eq!(client.blob(&repository, &digest, 9).await.unwrap(), "x");
    let asked = requests(&mirror).await;
    assert!(!asked.is_empty() && asked.iter().all(|request| !request.headers.contains_key("authorization")));
    // Now there is one.
    login(&format!(r#"{own},"{}":{{"username":"mirror","password":"m"}}"#, mirror.address()));
    let other = Digest::of(b"lies");
    assert_eq!(client.blob(&repository, &other, 9).await.unwrap(), "lies");
    let sent = requests(&mirror)
        .await
        .into_iter()
        .filter_map(|request| request.headers.get("authorization").cloned());
    assert!(sent.into_iter().all(|value| value == "Basic bWlycm9yOm0="));
}

#[tokio::test]
async fn a_mirrors_path_is_part_of_its_repositories_names() {
    let (mirror, registry) = (MockServer::start().await, MockServer::start().await);
    let digest = Digest::of(b"x");
    let asks = format!(r#"Bearer realm="{}/token",service="s""#, mirror.uri());
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", asks.as_str());
    let blob = || path(format!("/v2/proxy/hub/a/b/blobs/{digest}"));
    Mock::given(blob())
        .and(header_exists("authorization"))
        .respond_with(good(b"x"))
        .with_priority(1)
        .mount(&mirror)
        .await;
    Mock::given(blob()).respond_with(asks).with_priority(9).mount(&mirror).await;
    let token = Mock::given(path("/token")).and(query_param("scope", "repository:proxy/hub/a/b:pull"));
    token
        .respond_with(ResponseTemplate::new(200).set_body_string(r#"{"token":"t"}"#))
        .expect(1)
        .mount(&mirror)
        .await;
    let api = Some(ApiRoot::parse(&format!("{}/v2/proxy/hub", mirror.uri()), true).unwrap());
    let client = client(&registry, vec![Host { api, ..Host::default() }]);
    assert_eq!(client.blob(&repository(&registry), &digest, 9).await.unwrap(), "x");
    assert_eq!(counts(&[&registry]).await, [0]);
}

#[tokio::test]
async fn a_hosts_headers_stay_with_it() {
    let (storage, mirror, registry) =
        (serving(good(b"x")).await, MockServer::start().await, serving(good(b"y")).await);
    let away = ResponseTemplate::new(307).insert_header("location", format!("{}/x", storage.uri()).as_str());
    Mock::given(path_regex(".*")).and(header_exists("x-team")).respond_with(away).mount(&mirror).await;
    let headers = [("x-team".parse().unwrap(), "hunter2".parse().unwrap())].into_iter().collect();
    let client = client(&registry, vec![Host { headers, ..host(&mirror.uri()) }]);
    for _ in 0..2 {
        assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
    }
    assert_eq!(client.blob(&repository(&registry), &Digest::of(b"y"), 9).await.unwrap(), "y");
    for server in [&storage, &registry] {
        assert!(requests(server).await.iter().all(|request| !request.headers.contains_key("x-team")));
    }
}

#[tokio::test]
async fn a_signed_url_from_a_mirror_is_remembered() {
    let (storage, mirror, registry) =
        (serving(good(b"x")).await, MockServer::start().await, MockServer::start().await);
    let away = ResponseTemplate::new(307).insert_header("location", format!("{}/x", storage.uri()).as_str());
    Mock::given(method("GET")).respond_with(away).mount(&mirror).await;
    let client = client(&registry, vec![host(&mirror.uri())]);
    for _ in 0..3 {
        assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
    }
    assert_eq!(counts(&[&storage, &mirror, &registry]).await, [3, 1, 0]);
    // It is the mirror's: who asks without mirrors does not use it.
    client.without_mirrors().blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap_err();
    assert_eq!(counts(&[&storage, &registry]).await, [3, 1]);
}
