//! Clients for tests, and the two kinds of server wiremock is not: Debian's `docker-registry`, and one
//! that misbehaves below HTTP.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jaunt_distribution::{Client, ClientConfig, Repository};
use jaunt_formats::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wiremock::MockServer;

/// Settings without the credentials of whoever runs the tests, and with little patience.
pub fn config() -> ClientConfig {
    ClientConfig {
        auth_files: Vec::new(),
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(5),
        attempts: 3,
        ..ClientConfig::default()
    }
}

pub fn client() -> Client {
    Client::new(config()).unwrap()
}

/// A client with a Docker configuration, whose directory must outlive it.
pub fn client_with_login(login: &str) -> (Client, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, login).unwrap();
    (Client::new(ClientConfig { auth_files: vec![path], ..config() }).unwrap(), directory)
}

/// Repository `a/b` of a mock registry.
pub fn repository(server: &MockServer) -> Repository {
    repository_at(&server.address().to_string())
}

pub fn repository_at(host: &str) -> Repository {
    format!("{host}/a/b").parse().unwrap()
}

/// Bytes that differ at every offset that tests look at.
pub fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// The path of a blob of repository `a/b`.
pub fn blob_path(digest: &Digest) -> String {
    format!("/v2/a/b/blobs/{digest}")
}

/// A server that gives each connection, in order of arrival, to the script of its number.
pub struct RawServer {
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

impl RawServer {
    /// `script` gets the connection's number from 0 and its stream.
    pub async fn start<F>(script: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(number, stream));
                number += 1;
            }
        });
        Self { address, task }
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request's head; empty when the client has closed.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

pub async fn send(stream: &mut TcpStream, text: &str, body: &[u8]) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
}

/// Debian's registry on loopback, its storage in a temporary directory; killed when dropped.
pub struct Registry {
    child: Child,
    pub address: String,
    pub directory: tempfile::TempDir,
}

impl Registry {
    /// Starts an open one. Where the program is missing, says so and returns `None`.
    pub async fn start() -> Option<Self> {
        Self::start_with("", None).await
    }

    /// Starts one that asks for a login.
    pub async fn start_guarded(htpasswd: &str) -> Option<Self> {
        Self::start_with("", Some(htpasswd)).await
    }

    /// Starts one that speaks HTTPS.
    pub async fn start_tls(certificate: &str, key: &str) -> Option<Self> {
        Self::start_tls_for(certificate, key, None).await
    }

    /// Starts one that speaks HTTPS, with those only who have a certificate of this authority.
    pub async fn start_tls_for(certificate: &str, key: &str, clients: Option<&str>) -> Option<Self> {
        let clients = clients.map_or(String::new(), |clients| format!(", clientcas: [{clients}]"));
        Self::start_with(&format!(", tls: {{certificate: {certificate}, key: {key}{clients}}}"), None).await
    }

    async fn start_with(http: &str, htpasswd: Option<&str>) -> Option<Self> {
        let binary = ["/usr/bin/docker-registry", "/usr/local/bin/docker-registry"];
        let Some(binary) = binary.into_iter().find(|path| Path::new(path).exists()) else {
            eprintln!("skipped: docker-registry is not installed");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        // Between our letting go of the port and its taking it, another process may: try again.
        for _ in 0..5 {
            if let Some((child, address)) = Self::spawn(binary, directory.path(), http, htpasswd).await {
                return Some(Self { child, address, directory });
            }
        }
        panic!("docker-registry does not start")
    }

    async fn spawn(
        binary: &str,
        directory: &Path,
        http: &str,
        htpasswd: Option<&str>,
    ) -> Option<(Child, String)> {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let root = directory.display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}, \
             delete: {{enabled: true}}}}\nhttp: {{addr: \"{address}\"{http}}}\n"
        );
        if let Some(htpasswd) = htpasswd {
            std::fs::write(directory.join("htpasswd"), htpasswd).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n");
        }
        let path = directory.join("config.yml");
        std::fs::File::create(&path).unwrap().write_all(config.as_bytes()).unwrap();
        let access_log = std::fs::File::create(directory.join("access")).unwrap();
        let mut child = Command::new(binary)
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(access_log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if TcpStream::connect(&address).await.is_ok() {
                // It may be another process that listens there: ours ends then.
                tokio::time::sleep(Duration::from_millis(300)).await;
                return child.try_wait().unwrap().is_none().then_some((child, address));
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
