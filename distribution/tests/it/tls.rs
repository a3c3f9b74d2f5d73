//! TLS, HTTP/2 and trust: `docker-registry` with a certificate, on an address that is not loopback.
//!
//! Which certificates are trusted is read from the environment when a client is made, so the half of
//! the test that trusts the registry runs in a process of its own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use jaunt_formats::Digest;
use tokio::net::TcpStream;

use crate::support::{RawServer, Registry, client, content, read_head, repository_at};

/// Linux connects to this machine here, and no rule calls it loopback: so HTTPS is spoken.
const HOST: &str = "0.0.0.0";
const ADDRESS: &str = "JAUNT_TEST_TLS_REGISTRY";

/// A key and a certificate for [`HOST`], or `None` where there is no openssl.
fn make_certificate(directory: &Path) -> Option<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=test", "-addext"])
        .arg(format!("subjectAltName=IP:{HOST}"))
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status();
    match made {
        Ok(status) if status.success() => Some(()),
        _ => {
            eprintln!("skipped: openssl is not installed");
            None
        }
    }
}

/// A server that passes every connection on, and counts them.
async fn relay(to: String) -> (RawServer, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let server = RawServer::start(move |_, mut stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        let to = to.clone();
        async move {
            let mut behind = TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
        }
    });
    (server.await, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_decides() {
    let directory = tempfile::tempdir().unwrap();
    if make_certificate(directory.path()).is_none() {
        return;
    }
    let path = |name: &str| directory.path().join(name).display().to_string();
    let Some(registry) = Registry::start_tls(&path("cert.pem"), &path("key.pem")).await else { return };
    let (server, connections) = relay(registry.address.clone()).await;
    let port = server.address.rsplit_once(':').unwrap().1;
    let address = format!("{HOST}:{port}");
    let error = client().manifest(&repository_at(&address), "t", &[]).await.unwrap_err();
    let want = format!("registry {address}: cannot connect: invalid peer certificate");
    assert!(error.to_string().starts_with(&want), "{error}");
    let tried = connections.load(Ordering::Relaxed);
    assert_eq!(tried, 1, "a certificate does not get better by retrying");
    let trusting = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::trusting", "--ignored"])
        .env("SSL_CERT_FILE", path("cert.pem"))
        .env_remove("SSL_CERT_DIR")
        .env(ADDRESS, &address)
        .output()
        .unwrap();
    assert!(trusting.status.success(), "{}", String::from_utf8_lossy(&trusting.stdout));
    let access = std::fs::read_to_string(registry.directory.path().join("access")).unwrap();
    assert!(access.contains("PATCH") && access.contains(" HTTP/2.0\""), "{access}");
}

#[tokio::test]
#[ignore = "run by a_certificate_decides"]
async fn trusting() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let (client, repository) = (client(), repository_at(&address));
    let bytes = Bytes::from(content(6_000_000));
    let digest = Digest::of(&bytes);
    let mut upload = client.start_upload(&repository).await.unwrap();
    for start in (0..bytes.len()).step_by(1_000_000) {
        upload.write(bytes.slice(start..start + 1_000_000)).await.unwrap();
    }
    upload.finish(&digest, 6_000_000).await.unwrap();
    assert_eq!(client.blob(&repository, &digest, 6_000_000).await.unwrap(), bytes);
    let range = client.blob_range(&repository, &digest, 5_000_000..5_500_000).await.unwrap();
    assert_eq!(range, bytes[5_000_000..5_500_000]);
}

#[tokio::test]
async fn a_plain_server_behind_https_is_named_as_such() {
    let server = RawServer::start(|_, mut stream| async move {
        read_head_of_garbage(&mut stream).await;
    })
    .await;
    let port = server.address.rsplit_once(':').unwrap().1;
    let error = client().manifest(&repository_at(&format!("{HOST}:{port}")), "t", &[]).await.unwrap_err();
    let want = "the server does not speak TLS (name it as a plain HTTP registry if that is meant)";
    assert!(error.to_string().ends_with(want), "{error}");
}

/// Answers a TLS greeting as a plain HTTP server does.
async fn read_head_of_garbage(stream: &mut tokio::net::TcpStream) {
    use tokio::io::AsyncReadExt as _;
    let mut greeting = [0; 64];
    let _ = stream.read(&mut greeting).await;
    crate::support::send(stream, "HTTP/1.1 400 Bad Request\r\n\r\n", b"").await;
    let _ = read_head(stream).await;
}
