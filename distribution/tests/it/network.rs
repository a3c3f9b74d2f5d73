//! Proxies from the environment, and IPv6.
//!
//! The environment is read when a client is made, so the client behind a proxy is a process of its own.

use std::process::Command;
use std::sync::{Arc, Mutex};

use jaunt_distribution::Error;
use jaunt_formats::Digest;
use tokio::net::TcpListener;

use crate::support::{RawServer, client, read_head, repository_at, send};

const REPOSITORY: &str = "JAUNT_TEST_REGISTRY";

/// A proxy that answers what it is asked for plainly with the blob "x", refuses to connect to
/// anything, and notes the first line of every request.
async fn proxy() -> (RawServer, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    let server = RawServer::start(move |_, mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let head = read_head(&mut stream).await;
            let line = head.lines().next().unwrap_or_default().to_owned();
            let answer = match line.starts_with("CONNECT") {
                true => "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 1\r\n\r\n",
                false => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n",
            };
            seen.lock().unwrap().push(line);
            send(&mut stream, answer, b"x").await;
        }
    });
    (server.await, lines)
}

/// Runs [`behind_a_proxy`] against a registry; `environment` holds nothing of ours but these.
fn read_behind(registry: &str, environment: &[(&str, &str)]) -> String {
    let mut reader = Command::new(std::env::current_exe().unwrap());
    reader.args(["--exact", "network::behind_a_proxy", "--ignored", "--nocapture"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        reader.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = reader.env(REPOSITORY, registry).envs(environment.iter().copied()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "run by the tests below, with a proxy in its environment"]
async fn behind_a_proxy() {
    let Ok(registry) = std::env::var(REPOSITORY) else { return };
    let config = jaunt_distribution::ClientConfig {
        plain_http: ["plain.invalid".to_owned()].into(),
        attempts: 1,
        ..crate::support::config()
    };
    let client = jaunt_distribution::Client::new(config).unwrap();
    match client.blob(&repository_at(&registry), &Digest::of(b"x"), 9).await {
        Ok(bytes) => println!("read {bytes:?}"),
        Err(error) => println!("failed: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_taken_from_the_environment() {
    let (proxy, lines) = proxy().await;
    let url = format!("http://{}", proxy.address);
    let blob = Digest::of(b"x");
    let output = read_behind("plain.invalid", &[("http_proxy", &url)]);
    assert!(output.contains("read b\"x\""), "{output}");
    let output = read_behind("secure.invalid", &[("HTTPS_PROXY", &url)]);
    assert!(output.contains("registry secure.invalid: cannot connect"), "{output}");
    let seen = lines.lock().unwrap().clone();
    let want = [
        format!("GET http://plain.invalid/v2/a/b/blobs/{blob} HTTP/1.1"),
        "CONNECT secure.invalid:443 HTTP/1.1".to_owned(),
    ];
    assert_eq!(seen, want);
    let output = read_behind("plain.invalid", &[("http_proxy", &url), ("NO_PROXY", ".invalid")]);
    assert!(output.contains("failed to lookup address"), "{output}");
    assert_eq!(lines.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_registries_are_not_looked_for_behind_a_proxy() {
    let ((proxy, lines), (registry, _)) = (proxy().await, proxy().await);
    let url = format!("http://{}", proxy.address);
    let output = read_behind(&registry.address, &[("HTTP_PROXY", &url), ("ALL_PROXY", &url)]);
    assert!(output.contains("read b\"x\""), "{output}");
    assert!(lines.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_registry_may_have_an_ipv6_address() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let address = listener.local_addr().unwrap().to_string();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        send(&mut stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b"").await;
        head
    };
    let (client, repository, digest) = (client(), repository_at(&address), Digest::of(b"x"));
    let (answer, head) = tokio::join!(client.blob(&repository, &digest, 9), server);
    let error = answer.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }) && error.to_string().contains(&address), "{error}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
}
