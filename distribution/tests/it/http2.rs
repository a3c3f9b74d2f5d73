//! HTTP/2, as registries behind TLS speak it: ranges share a connection, one that is reset costs nobody his bytes, and those
//! that are not read hold up no other.
//!
//! That it is HTTP/2 shows in the number of connections: the protocol before it needs one for each range at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use jaunt_distribution::{BlobStream, Client, ClientConfig, HostSettings, Repository};
use jaunt_formats::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificates::{Authority, Issued, certs_dir};
use crate::support::{RawServer, Registry, config, content, repository_at};

const RANGES: usize = 12;
const LEN: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(45);
/// What the client takes of an answer that nobody reads.
const WINDOW: usize = 4 << 20;

/// A registry behind TLS, and a relay to it that closes its first connections after so many bytes of answers.
struct Behind {
    _registry: Registry,
    _settings: tempfile::TempDir,
    _relay: RawServer,
    connections: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
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
        let (connections, passed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counter, bytes, to) = (connections.clone(), passed.clone(), registry.address.clone());
        let relay = RawServer::start(move |number, stream| {
            counter.fetch_add(1, Ordering::Relaxed);
            let life = lives.get(number).copied().unwrap_or(u64::MAX);
            pass_on(stream, to.clone(), life, bytes.clone())
        })
        .await;
        let settings = certs_dir(&relay.address, &[("ca.crt", &authority.certificate())]);
        let hosts = HostSettings { directories: vec![settings.path().to_owned()], ..HostSettings::default() };
        // A range may be asked for once more on a connection that is already lost, but not because nothing comes on one.
        let more = ClientConfig { attempts: 8, read_timeout: PATIENCE, ..config() };
        let client = Client::new(ClientConfig { hosts, ..more }).unwrap();
        let repository = repository_at(&relay.address);
        Some(Self {
            _registry: registry,
            _settings: settings,
            _relay: relay,
            connections,
            passed,
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

    /// The bytes of a range, as they come.
    fn stream(&self, digest: &Digest, start: usize, len: usize) -> BlobStream {
        self.client.blob_range_stream(&self.repository, digest, start as u64..(start + len) as u64)
    }

    /// Reads ranges, all of them asked for before any is answered.
    async fn read(&self, digest: &Digest, bytes: &[u8]) {
        let reads = (0..RANGES).map(async |at| {
            let start = at * LEN;
            let got = whole(self.stream(digest, start, LEN)).await;
            assert!(got == bytes[start..start + LEN], "range {at}");
        });
        join_all(reads).await;
    }
}

async fn whole(stream: BlobStream) -> Vec<u8> {
    let pieces: Vec<_> = stream.map(Result::unwrap).collect().await;
    pieces.concat()
}

/// Passes all on, and counts what comes back, until it is so many bytes: then the connection is gone, whatever is under way on it.
async fn pass_on(stream: TcpStream, to: String, life: u64, passed: Arc<AtomicUsize>) {
    let behind = TcpStream::connect(to).await.unwrap();
    let (mut requests, mut to_client) = stream.into_split();
    let (from_registry, mut to_registry) = behind.into_split();
    let there = async {
        let _ = tokio::io::copy(&mut requests, &mut to_registry).await;
        let _ = to_registry.shutdown().await;
    };
    let back = async {
        let (mut from_registry, mut piece) = (from_registry.take(life), vec![0; 64 << 10]);
        while let Ok(len @ 1..) = from_registry.read(&mut piece).await {
            passed.fetch_add(len, Ordering::Relaxed);
            if to_client.write_all(&piece[..len]).await.is_err() {
                return;
            }
        }
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

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_hold_up_no_other_on_their_connection() {
    const STANDING: usize = 5;
    let Some(registry) = Behind::new(&[]).await else { return };
    let bytes = content(3 * WINDOW);
    let digest = registry.push(&bytes).await;
    registry.passed.store(0, Ordering::Relaxed);
    let mut standing: Vec<_> = (0..STANDING).map(|_| registry.stream(&digest, 0, bytes.len())).collect();
    for stream in &mut standing {
        assert!(stream.next().await.unwrap().is_ok());
    }
    let full = async {
        while registry.passed.load(Ordering::Relaxed) < STANDING * WINDOW {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 3, full).await.unwrap();
    let reading = whole(registry.stream(&digest, 0, bytes.len()));
    assert!(tokio::time::timeout(PATIENCE / 3, reading).await.unwrap() == bytes);
    // Of those that stand, a window each was sent, and what was read of them.
    let passed = registry.passed.load(Ordering::Relaxed);
    assert!(passed < bytes.len() + (STANDING + 1) * WINDOW, "{passed} bytes");
    // They go on where they stood.
    let rest = whole(standing.swap_remove(0)).await;
    assert!(bytes.ends_with(&rest) && rest.len() > bytes.len() / 2);
    assert_eq!(registry.connections.load(Ordering::Relaxed), 1);
}
