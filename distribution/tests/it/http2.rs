//! HTTP/2, as registries behind TLS speak it: ranges share a connection, and one that is reset costs nobody his bytes.
//!
//! That it is HTTP/2 shows in the number of connections: the protocol before it needs one for each range at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use jaunt_distribution::{Client, ClientConfig, HostSettings, Repository};
use jaunt_formats::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificates::{Authority, Issued, certs_dir};
use crate::support::{RawServer, Registry, config, content, repository_at};

const RANGES: usize = 12;
const LEN: usize = 200_000;

/// A registry behind TLS, and a relay to it that closes its first connections after so many bytes of answers.
struct Behind {
    _registry: Registry,
    _settings: tempfile::TempDir,
    _relay: RawServer,
    connections: Arc<AtomicUsize>,
    client: Client,
    repository: Repository,
}

impl Behind {
    /// `None` where a program is missing.
    async fn new(lives: &'static [u64]) -> Option<Self> {
        let authority = Authority::new()?;
        let Issued { certificate, key } = authority.server("127.0.0.1");
        let registry =
            Registry::start_tls(&certificate.display().to_string(), &key.display().to_string()).await?;
        let (connections, to) = (Arc::new(AtomicUsize::new(0)), registry.address.clone());
        let counter = connections.clone();
        let relay = RawServer::start(move |number, stream| {
            counter.fetch_add(1, Ordering::Relaxed);
            pass_on(stream, to.clone(), lives.get(number).copied().unwrap_or(u64::MAX))
        })
        .await;
        let settings = certs_dir(&relay.address, &[("ca.crt", &authority.certificate())]);
        let hosts = HostSettings { directories: vec![settings.path().to_owned()], ..HostSettings::default() };
        // A range may be asked for once more on a connection that is already lost.
        let client = Client::new(ClientConfig { hosts, attempts: 8, ..config() }).unwrap();
        let repository = repository_at(&relay.address);
        Some(Self {
            _registry: registry,
            _settings: settings,
            _relay: relay,
            connections,
            client,
            repository,
        })
    }

    /// Pushes a blob.
    async fn push(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.client.push_blob(&self.repository, &digest, bytes.to_vec().into()).await.unwrap();
        digest
    }

    /// Reads ranges, all of them asked for before any is answered.
    async fn read(&self, digest: &Digest, bytes: &[u8]) {
        let reads = (0..RANGES).map(async |at| {
            let start = at * LEN;
            let mut stream =
                self.client.blob_range_stream(&self.repository, digest, start as u64..(start + LEN) as u64);
            let mut got = Vec::new();
            while let Some(piece) = futures_util::StreamExt::next(&mut stream).await {
                got.extend_from_slice(&piece.unwrap());
            }
            assert!(got == bytes[start..start + LEN], "range {at}");
        });
        join_all(reads).await;
    }
}

/// Passes all on, until so many bytes have come back: then the connection is gone, whatever is under way on it.
async fn pass_on(stream: TcpStream, to: String, life: u64) {
    let behind = TcpStream::connect(to).await.unwrap();
    let (mut requests, mut to_client) = stream.into_split();
    let (from_registry, mut to_registry) = behind.into_split();
    let there = async {
        let _ = tokio::io::copy(&mut requests, &mut to_registry).await;
        let _ = to_registry.shutdown().await;
    };
    let back = async {
        let _ = tokio::io::copy(&mut from_registry.take(life), &mut to_client).await;
    };
    tokio::select! {
        () = back => {}
        () = async { there.await; std::future::pending::<()>().await } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ranges_at_a_time_share_one_connection() {
    let Some(registry) = Behind::new(&[]).await else { return };
    let bytes = content(RANGES * LEN);
    let digest = registry.push(&bytes).await;
    registry.read(&digest, &bytes).await;
    assert_eq!(registry.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_under_many_ranges_costs_none_of_them_its_bytes() {
    // The first is lost in the middle of all of them, and so is the next.
    let Some(registry) = Behind::new(&[900_000, 700_000]).await else { return };
    let bytes = content(RANGES * LEN);
    let digest = registry.push(&bytes).await;
    registry.read(&digest, &bytes).await;
    assert!(registry.connections.load(Ordering::Relaxed) > 1);
}
