//! Errors: one line that says which registry, what was wanted, and why not.

use std::error::Error as _;
use std::time::Duration;

use jaunt_distribution::{Client, ClientConfig, Error};
use jaunt_formats::Digest;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{RawServer, client, config, read_head, repository, repository_at};

/// A loopback address where nothing listens.
fn closed_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_refused_connection_reads_well() {
    let address = closed_port();
    let error = client().manifest(&repository_at(&address), "t", &[]).await.unwrap_err();
    assert_eq!(error.to_string(), format!("registry {address}: cannot connect: connection refused"));
    assert!(error.is_transient() && error.source().is_some());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_reads_well() {
    let client = Client::new(ClientConfig { attempts: 1, ..config() }).unwrap();
    let repository = "registry.invalid/a/b".parse().unwrap();
    let error = client.manifest(&repository, "t", &[]).await.unwrap_err();
    let want = "registry registry.invalid: cannot connect: failed to lookup address information";
    assert!(error.to_string().starts_with(want), "{error}");
}

#[tokio::test]
async fn a_dead_redirect_names_both_hosts() {
    let (server, address) = (MockServer::start().await, closed_port());
    let away = format!("http://{address}/x?signature=hunter2");
    let away = ResponseTemplate::new(307).insert_header("location", away.as_str());
    Mock::given(any()).respond_with(away).mount(&server).await;
    let error = client().blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap_err();
    let want = format!("registry {}: cannot connect to {address}: connection refused", server.address());
    assert_eq!(error.to_string(), want);
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn a_silent_registry_is_reported_in_time() {
    let server = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let quick = ClientConfig { read_timeout: Duration::from_millis(200), attempts: 2, ..config() };
    let call = Client::new(quick).unwrap();
    let repository = repository_at(&server.address);
    let call = call.manifest(&repository, "t", &[]);
    let error = tokio::time::timeout(Duration::from_secs(3), call).await.unwrap().unwrap_err();
    let address = &server.address;
    let want =
        format!("registry {address}: repository a/b: manifest t: no answer from {address} within 200ms");
    assert_eq!(error.to_string(), want);
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_an_error() {
    let server = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        crate::support::send(&mut stream, "SSH-2.0-OpenSSH_9.2\r\n", b"").await;
    })
    .await;
    let error = client().manifest(&repository_at(&server.address), "t", &[]).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}

#[tokio::test]
async fn statuses_repeat_the_registrys_words() {
    let server = MockServer::start().await;
    let words = r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}"#;
    let refusal = ResponseTemplate::new(405).set_body_string(words);
    Mock::given(any()).respond_with(refusal).mount(&server).await;
    let digest = Digest::of(b"x");
    let error = client().delete_manifest(&repository(&server), &digest).await.unwrap_err();
    let want = format!(
        "registry {}: repository a/b: manifest {digest}: the registry answered 405 Method Not Allowed: \
         UNSUPPORTED: The operation is unsupported.",
        server.address()
    );
    assert_eq!(error.to_string(), want);
}

#[test]
fn errors_and_clients_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    fn travels<T: Send + Unpin + 'static>() {}
    crosses::<Error>();
    crosses::<Client>();
    travels::<jaunt_distribution::BlobStream>();
    travels::<jaunt_distribution::BlobUpload>();
    assert!(size_of::<Error>() <= 128);
}
