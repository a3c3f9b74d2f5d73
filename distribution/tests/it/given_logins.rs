//! Several logins for one repository: those that were handed over, those of secrets, those of files.

use std::path::PathBuf;

use base64::Engine as _;
use jaunt_distribution::{
    Client, ClientConfig, Credential, Error, GivenLogin, GivenLogins, Repository, Secret,
};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{config, repository};

fn given(repository: &Repository, password: &str) -> GivenLogin {
    let password = Secret::new(password.to_owned());
    let credential = Credential::Password { username: "u".to_owned(), password };
    GivenLogin { repository: repository.clone(), credential }
}

fn config_with(file: &std::path::Path, logins: &GivenLogins, secrets: Vec<PathBuf>) -> ClientConfig {
    let auth_files = vec![file.to_owned()];
    ClientConfig { auth_files, given_logins: logins.clone(), pull_secrets: secrets, ..config() }
}

fn basic(password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("u:{password}")))
}

fn login_file(path: &std::path::Path, server: &MockServer, password: &str) {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("u:{password}"));
    let host = server.address();
    std::fs::write(path, format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#)).unwrap();
}

/// A registry that takes one password alone.
async fn taking(password: &str, refusal: u16) -> MockServer {
    let server = MockServer::start().await;
    let right = wiremock::matchers::header("authorization", basic(password).as_str());
    let found = ResponseTemplate::new(200).set_body_raw("{}", "a/b");
    Mock::given(right).respond_with(found).with_priority(1).mount(&server).await;
    let any_login = wiremock::matchers::header_exists("authorization");
    Mock::given(any_login).respond_with(ResponseTemplate::new(refusal)).with_priority(2).mount(&server).await;
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", "Basic realm=\"r\"");
    Mock::given(wiremock::matchers::any()).respond_with(asks).with_priority(3).mount(&server).await;
    server
}

/// L3: A refused login is looked up anew, and every other one there is for the repository is tried, before a read fails
/// for it.
#[tokio::test]
async fn every_login_there_is_gets_its_try_and_the_newest_the_first() {
    for refusal in [401, 403] {
        let server = taking("right", refusal).await;
        let (repository, dir) = (repository(&server), tempfile::tempdir().unwrap());
        let (file, secret) = (dir.path().join("config.json"), dir.path().join("secret.json"));
        login_file(&file, &server, "right");
        login_file(&secret, &server, "old");
        let logins = GivenLogins::default();
        logins.remember(given(&repository, "wrong"));
        let client = Client::new(config_with(&file, &logins, vec![secret])).unwrap();
        client.manifest(&repository, "t", &[]).await.unwrap();
        let sent = server.received_requests().await.unwrap();
        let sent: Vec<_> = sent
            .iter()
            .map(|request| {
                request.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned())
            })
            .collect();
        assert_eq!(sent, [None, Some(basic("wrong")), Some(basic("old")), Some(basic("right"))], "{refusal}");
        // What was good is used on.
        client.manifest(&repository, "t", &[]).await.unwrap();
        assert_eq!(server.received_requests().await.unwrap().len(), 5);
    }
}

#[tokio::test]
async fn a_login_that_comes_later_is_found_when_the_old_one_is_refused() {
    let server = taking("new", 403).await;
    let (repository, dir) = (repository(&server), tempfile::tempdir().unwrap());
    let file = dir.path().join("config.json");
    login_file(&file, &server, "old");
    let logins = GivenLogins::default();
    let client = Client::new(config_with(&file, &logins, Vec::new())).unwrap();
    let refused = client.manifest(&repository, "t", &[]).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused}");
    assert!(!format!("{refused} {refused:?}").contains(&basic("old")[6..]));
    logins.remember(given(&repository, "new"));
    client.manifest(&repository, "t", &[]).await.unwrap();
    // One for another repository helps nobody.
    let elsewhere: Repository = format!("{}/c/d", server.address()).parse().unwrap();
    assert!(client.manifest(&elsewhere, "t", &[]).await.is_err());
}

#[tokio::test]
async fn a_token_service_that_refuses_a_login_is_asked_with_the_next() {
    let server = MockServer::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", server.address());
    let token = ResponseTemplate::new(200).set_body_string(r#"{"token": "good"}"#);
    let path = || wiremock::matchers::path("/token");
    let right = wiremock::matchers::header("authorization", basic("right").as_str());
    Mock::given(path()).and(right).respond_with(token).with_priority(1).mount(&server).await;
    Mock::given(path()).respond_with(ResponseTemplate::new(401)).with_priority(2).mount(&server).await;
    let bearer = wiremock::matchers::header("authorization", "Bearer good");
    let found = ResponseTemplate::new(200).set_body_raw("{}", "a/b");
    Mock::given(bearer).respond_with(found).with_priority(1).mount(&server).await;
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", challenge.as_str());
    Mock::given(wiremock::matchers::any()).respond_with(asks).with_priority(3).mount(&server).await;

    let (repository, dir) = (repository(&server), tempfile::tempdir().unwrap());
    let file = dir.path().join("config.json");
    login_file(&file, &server, "right");
    let logins = GivenLogins::default();
    logins.remember(given(&repository, "wrong"));
    let client = Client::new(config_with(&file, &logins, Vec::new())).unwrap();
    client.manifest(&repository, "t", &[]).await.unwrap();
    // Nobody is asked over and over where no login is good.
    login_file(&file, &server, "wrong, too");
    let client = Client::new(config_with(&file, &logins, Vec::new())).unwrap();
    let before = server.received_requests().await.unwrap().len();
    assert!(client.manifest(&repository, "t", &[]).await.is_err());
    assert!(server.received_requests().await.unwrap().len() - before <= 4);
}
