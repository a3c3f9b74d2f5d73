//! Stand-ins for the registry and for FUSE, and a client on a real socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use jaunt_distribution::Repository;
use jaunt_formats::{ChainId, Digest};
use jaunt_snapshotter::fallback::{Fallback, FallbackCode};
use jaunt_snapshotter::labels::RemoteLayer;
use jaunt_snapshotter::lazy::{LazyChain, LazyError, LazyMounts, RootAttributes, Usage};
use jaunt_snapshotter::metastore::{Learnt, MetaStore, Pin, Voucher};
use jaunt_snapshotter::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use jaunt_snapshotter::proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use jaunt_snapshotter::resolve::{ImageLayer, Resolve, ResolvedLayer};
use jaunt_snapshotter::service::SnapshotsService;
use jaunt_snapshotter::snapshotter::Snapshotter;
use jaunt_snapshotter::unix_channel;
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Channel;

/// Mounts that are plain directories.
pub struct FakeMounts {
    run_dir: PathBuf,
    pub busy: AtomicBool,
    /// Chains of that many layers are never mounted, nor refused: as on a disk that does not answer.
    pub stuck: AtomicU16,
    pub released: Mutex<Vec<u64>>,
    pub restored: Mutex<Vec<LazyChain>>,
    /// Layers of chains whose containers are to come, and whether these are pods'.
    pub expected: Mutex<Vec<(u16, bool)>>,
    /// Expecting takes until it is let go on: what tells that it has begun, and what it waits for.
    held: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
}

impl FakeMounts {
    /// Has the next expectation take its time; what is returned tells that it has begun.
    pub fn hold_expected(&self) -> Arc<Notify> {
        let begun = Arc::new(Notify::new());
        *self.held.lock().unwrap() = Some((begun.clone(), Arc::default()));
        begun
    }

    pub fn go_on(&self) {
        let held = self.held.lock().unwrap().take();
        held.unwrap().1.notify_one();
    }

    fn root_of(&self, chain: &LazyChain) -> PathBuf {
        self.run_dir.join("mnt").join(chain.snapshot_id.to_string()).join("fs")
    }
}

#[tonic::async_trait]
impl LazyMounts for FakeMounts {
    async fn ensure(&self, chain: &LazyChain) -> Result<PathBuf, LazyError> {
        if chain.prefix == self.stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let root = self.root_of(chain);
        std::fs::create_dir_all(&root).unwrap();
        Ok(root)
    }

    async fn expect(&self, chain: &LazyChain, for_pod: bool) {
        let held = self.held.lock().unwrap().clone();
        if let Some((begun, goes_on)) = held {
            begun.notify_one();
            goes_on.notified().await;
        }
        self.expected.lock().unwrap().push((chain.prefix, for_pod));
    }

    async fn root(&self, _: &LazyChain) -> Result<RootAttributes, LazyError> {
        Ok(RootAttributes { mode: 0o1750, uid: 7, gid: 8 })
    }

    async fn release(&self, chain: &LazyChain) -> Result<(), LazyError> {
        if self.busy.load(Ordering::Relaxed) {
            return Err(LazyError::Busy { snapshot_id: chain.snapshot_id });
        }
        self.released.lock().unwrap().push(chain.snapshot_id);
        Ok(())
    }

    async fn restore(&self, chains: &[LazyChain]) -> Result<(), LazyError> {
        self.restored.lock().unwrap().extend_from_slice(chains);
        Ok(())
    }

    async fn usage(&self, _: &LazyChain) -> Result<Usage, LazyError> {
        Ok(Usage { bytes: 42, inodes: 3 })
    }

    async fn mounted(&self, chain: &LazyChain) -> Option<PathBuf> {
        Some(self.root_of(chain)).filter(|root| root.exists())
    }
}

/// What the registry never answers for.
pub const SILENT: &[u8] = b"a registry that keeps silent";

/// A registry that knows some chains.
#[derive(Default)]
pub struct FakeRegistry {
    pub chains: Mutex<HashMap<ChainId, u16>>,
    /// The image's layers above a chain.
    pub above: Mutex<HashMap<ChainId, Vec<ImageLayer>>>,
}

#[tonic::async_trait]
impl Resolve for FakeRegistry {
    async fn layer(&self, layer: &RemoteLayer) -> Result<ResolvedLayer, Fallback> {
        if layer.target == ChainId(Digest::of(SILENT)) {
            std::future::pending::<()>().await;
        }
        let index = Digest::of(b"index");
        let above = self.above.lock().unwrap().get(&layer.target).cloned().unwrap_or_default();
        let pin = Pin { repository: Repository::from(&layer.image), manifest: layer.manifest };
        let learnt = (pin, Learnt { index, by: Voucher::Registry });
        match self.chains.lock().unwrap().get(&layer.target) {
            Some(prefix) => Ok(ResolvedLayer { index, prefix: *prefix, above, learnt, in_use: None }),
            None => Err(Fallback::new(FallbackCode::NoLaunchArtifact, "none here")),
        }
    }

    async fn collect(&self) {}
}

/// A served snapshotter. Dropping it is a crash: nothing is written that was not yet.
pub struct Daemon {
    pub client: SnapshotsClient<Channel>,
    pub snapshotter: Arc<Snapshotter>,
    pub mounts: Arc<FakeMounts>,
    pub registry: Arc<FakeRegistry>,
    pub dir: Arc<tempfile::TempDir>,
    server: tokio::task::JoinHandle<()>,
}

impl Daemon {
    pub async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub async fn start_in(dir: Arc<tempfile::TempDir>) -> Self {
        let (root, run_dir) = (dir.path().join("root"), dir.path().join("run"));
        std::fs::create_dir_all(&root).unwrap();
        let mounts = Arc::new(FakeMounts {
            run_dir: run_dir.clone(),
            busy: AtomicBool::new(false),
            stuck: AtomicU16::new(0),
            released: Mutex::default(),
            restored: Mutex::default(),
            expected: Mutex::default(),
            held: Mutex::default(),
        });
        let registry = Arc::new(FakeRegistry::default());
        let store = open_store(&root.join("meta.redb")).await;
        let lazy: Arc<dyn LazyMounts> = mounts.clone();
        let resolver: Arc<dyn Resolve> = registry.clone();
        let snapshotter = Arc::new(Snapshotter::new(&root, &run_dir, store, lazy, resolver).unwrap());
        snapshotter.restore().await.unwrap();

        let socket = dir.path().join("s.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let service = SnapshotsServer::new(SnapshotsService(snapshotter.clone()));
        let server = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        let client = SnapshotsClient::new(unix_channel::connect(&socket).await.unwrap());
        Self { client, snapshotter, mounts, registry, dir, server }
    }

    pub async fn restart(self) -> Self {
        let dir = self.dir.clone();
        self.server.abort();
        let _ = self.server.await;
        drop((self.client, self.snapshotter));
        Self::start_in(dir).await
    }
}

/// The store's file is let go of when the last connection of the daemon before has ended.
async fn open_store(path: &Path) -> MetaStore {
    for _ in 0..400 {
        if let Ok(store) = MetaStore::open(path) {
            return store;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the store stays open");
}
