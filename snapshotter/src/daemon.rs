//! The worker: everything that can crash without a container noticing.
//!
//! It is started by the supervisor, from which it gets the listener and the mounts, and it serves what
//! was mounted before it takes its first request.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jaunt_distribution::{Client, ClientConfig, GivenLogins, Repository};
use jaunt_formats::{Digest, Reference};
use jaunt_layerfs::completion::Completion;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::observed::Observed;
use jaunt_layerfs::store::{Scrub, Store};
use jaunt_layerfs::trace::Trace;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;

use crate::ahead::Ahead;
use crate::boot::{self, BootPacks, SendCounters, Sender, Worth};
use crate::config::{Config, OriginalsPolicy};
use crate::credentials::{self, Announce, KeptLogins};
use crate::fallback::error_chain;
use crate::index_store::IndexStore;
use crate::labels;
use crate::lazy::LazyChain;
use crate::metastore::{Backing, MetaStore};
use crate::mounts::{Catalog, Mounts};
use crate::originals::{Known, Originals, OriginalsService};
use crate::proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use crate::proto::jaunt::admin::v1::admin_server::AdminServer;
use crate::proto::jaunt::originals::v1::originals_server::OriginalsServer;
use crate::proto::jaunt::status::v1::status_server::StatusServer;
use crate::prune::{AdminService, Pruner};
use crate::readiness::Readiness;
use crate::resolve::{ResolveLimits, Resolver};
use crate::service::SnapshotsService;
use crate::snapshotter::Snapshotter;
use crate::status::{Health, StatusService};
use crate::supervisor::Handle;
use crate::{figures, trace_file, unfit, upkeep};

/// containerd's connection is never idle for good, so a stop does not wait for it longer than this.
const DRAIN: Duration = Duration::from_secs(3);
/// How long one registry may keep silent before a container's read is tried elsewhere, and before a resolution
/// tries again, as often as [`ATTEMPTS`].
const SILENCE: Duration = Duration::from_secs(8);
/// See [`SILENCE`].
const ATTEMPTS: u32 = 3;

/// Why the worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The supervisor's socket pair is missing or broken.
    #[error("worker: no supervisor (this command is started by `serve`)")]
    Supervisor(#[from] crate::supervisor::HandleError),
    /// Something of the system is refused.
    #[error("worker: cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The state directory holds something unusable.
    #[error("worker: the state in {root} cannot be used (see \"When something is damaged\" in OPERATIONS.md)", root = .root.display())]
    State {
        /// The directory.
        root: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Who is trusted cannot be told.
    #[error(transparent)]
    Trust(#[from] crate::config::TrustError),
    /// The registry client.
    #[error("worker: registry client")]
    Client(#[from] jaunt_distribution::Error),
    /// The gRPC server.
    #[error("worker: gRPC server")]
    Server(#[from] tonic::transport::Error),
}

impl DaemonError {
    /// Whether the next worker would find the same.
    fn lasts(&self) -> bool {
        matches!(self, Self::State { .. } | Self::Trust(_) | Self::Client(_))
    }
}

/// How often the supervisor is told that this process serves.
const PULSE: Duration = Duration::from_secs(10);

/// Runs until the supervisor says stop.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    jaunt_layerfs::fuse::spare_buffers();
    let supervisor = Handle::from_env()?;
    // The supervisor kills a worker whose connection has ended: so it ends with the process, not before, and an
    // error is told first.
    std::mem::forget(supervisor.connection().map_err(system("share the supervisor's connection"))?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let served = runtime.block_on(serve(config, supervisor, KeptLogins::open(Handle::memory().as_deref())));
    // What is to be kept has been. A read that waits dies with the process, and the kernel asks the next one for it: a
    // runtime that is shut down would drop it, which is an error to who reads. Nor does a dead disk hold the process.
    std::mem::forget(runtime);
    served
}

async fn serve(config: &Config, supervisor: Handle, logins: KeptLogins) -> Result<(), DaemonError> {
    let mut stop = signal(SignalKind::terminate()).map_err(system("catch SIGTERM"))?;
    let listener = supervisor.listener().map_err(system("take the socket"))?;
    listener.set_nonblocking(true).map_err(system("take the socket"))?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(system("take the socket"))?;

    let health = Arc::new(Health::begin(&config.run_dir));
    let (store, Parts { snapshotter, sent, worth, observed, originals, mounts, records, ahead }) =
        match open(config, supervisor.clone(), logins.logins().clone()).await {
            Ok(opened) => opened,
            Err(error) if error.lasts() => {
                let why = error_chain(&error);
                supervisor.unfit(&why)?;
                if let Some(address) = config.metrics.address.0 {
                    tokio::spawn(figures::refuse(address, why.clone()));
                }
                unfit::refuse(supervisor, listener, why, &mut stop).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
    let pruner = Pruner { store: store.clone(), index_dir: config.root.join("index") };
    tokio::spawn(pulse(supervisor));
    tokio::spawn(upkeep::upkeep(store.clone(), mounts.clone()));
    let scrub = config.store.scrub().map(|settings| Scrub::start(&store, settings));
    let _scrub = scrub.transpose().map_err(system("start a thread"))?;
    if config.originals == OriginalsPolicy::Background {
        tokio::spawn(originals.clone().in_background());
    }
    tokio::spawn(image_calls(config.clone(), Arc::new(logins), ahead, health.clone()));
    if let Some(address) = config.metrics.address.0 {
        let readiness = Readiness::new(config.socket.clone(), config.root.clone(), health.clone());
        tokio::spawn(figures::serve(
            address,
            snapshotter.clone(),
            observed.clone(),
            (sent, worth.counter()),
            readiness,
        ));
    }
    tracing::info!(socket = %config.socket.display(), version = env!("CARGO_PKG_VERSION"), "worker serves");

    let policy = config.originals;
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .add_service(SnapshotsServer::new(SnapshotsService(Arc::clone(&snapshotter))))
        .add_service(OriginalsServer::new(OriginalsService(originals.clone())))
        .add_service(AdminServer::new(AdminService { records, snapshotter: snapshotter.clone(), pruner }))
        .add_service(StatusServer::new(StatusService {
            snapshotter,
            observed,
            originals,
            policy,
            health,
            worth,
        }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            let _ = drained.await;
        });
    let mut server = std::pin::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        _ = stop.recv() => {
            let _ = drain.send(());
            tokio::time::timeout(DRAIN, server).await.unwrap_or(Ok(()))
        }
    };
    upkeep::once(&store, &mounts).await;
    Ok(served?)
}

/// Opens all that is kept, and serves again what was served before.
async fn open(
    config: &Config,
    supervisor: Handle,
    logins: GivenLogins,
) -> Result<(Arc<Store>, Parts), DaemonError> {
    let store = Store::open(&config.root.join("layers")).map_err(state(config))?;
    let store = Arc::new(store.with_cap(config.store.cap()));
    let parts = assemble(config, supervisor, store.clone(), logins)?;
    parts.snapshotter.restore().await.map_err(state(config))?;
    Ok((store, parts))
}

/// Tells the supervisor that requests are served, for as long as the runtime runs what it is given.
async fn pulse(supervisor: Handle) {
    let mut ticks = tokio::time::interval(PULSE);
    loop {
        ticks.tick().await;
        let supervisor = supervisor.clone();
        let told = tokio::task::spawn_blocking(move || supervisor.serving()).await;
        if let Ok(Err(error)) = told {
            tracing::warn!(%error, "the supervisor does not listen");
        }
    }
}

/// What containerd calls, what is told of it, what brings it the rest, and what it is on.
struct Parts {
    snapshotter: Arc<Snapshotter>,
    sent: SendCounters,
    worth: Arc<Worth>,
    observed: Arc<Observed>,
    originals: Arc<Originals>,
    mounts: Arc<Mounts>,
    records: MetaStore,
    ahead: Arc<Ahead>,
}

/// Takes the kubelet's image calls, where that is configured.
async fn image_calls(config: Config, logins: Arc<KeptLogins>, ahead: Arc<Ahead>, health: Arc<Health>) {
    let socket = &config.credentials.cri_socket;
    if socket.as_os_str().is_empty() {
        return;
    }
    let note = |trouble: &str| {
        if health.note_image_calls(trouble) && !trouble.is_empty() {
            tracing::error!(error = trouble, "the kubelet's image calls are not taken");
        }
    };
    let announce: Announce = Arc::new(move |image| ahead.announce(image));
    credentials::keep_serving(socket, &config.containerd, (logins, announce), note).await;
}

fn assemble(
    config: &Config,
    supervisor: Handle,
    kept: Arc<Store>,
    given_logins: GivenLogins,
) -> Result<Parts, DaemonError> {
    let root = &config.root;
    // The supervisor made the directory, and its mounts are known by its real path.
    let run_dir = config.run_dir.canonicalize().map_err(system("find the run directory"))?;
    let store = open_metadata(root).map_err(|source| DaemonError::State { root: root.clone(), source })?;
    let indexes = IndexStore::open(root).map_err(state(config))?;
    let client = Client::new(ClientConfig { given_logins, ..config.client(patience()) })?;
    let preparing = client.clone();
    tokio::spawn(async move { preparing.prepare().await });
    let catalog: Arc<dyn Catalog> = Arc::new(store.clone());
    let records = store.clone();
    let (trace, settings) = traced(config);
    let layers = Layers::new(kept.clone(), settings);
    let index_dir = indexes.directory().to_owned();
    let observed = Observed::new(layers.clone());
    if let Some(file) = config.trace.path() {
        trace_file::follow(trace.clone(), observed.clone(), file).map_err(system("write the trace"))?;
    }
    let completion = config.completion.settings();
    let completion = completion.map(|settings| Completion::new(kept.clone(), settings));
    completion.iter().for_each(|completion| observed.watch_completion(completion.counters()));
    let packs = BootPacks::open(root, layers.clone(), config.boot.clone()).map_err(state(config))?;
    let layers = (layers, observed.clone());
    let limit = NonZeroU64::new(config.originals_limit_mb_per_second.saturating_mul(1_000_000));
    let known = Box::new(store.clone());
    let originals = Arc::new(Originals::new(client.clone(), known, config.containerd.clone(), limit));
    let mounts = Mounts::open(supervisor, client.clone(), catalog, index_dir, layers, completion);
    mounts.avoid(&config.avoid_kernel_features);
    mounts.serve_always(config.direct_io.clone());
    mounts.use_packs(packs.clone());
    let (sent, worth) = (packs.send_counters().clone(), packs.worth().clone());
    if let Some(traces) = packs.traces() {
        let directory = boot::traces_directory(root);
        let sender = Sender::start(&directory, &config.boot, &client, records.clone(), sent.clone());
        sender.map_err(state(config))?.into_iter().for_each(|sender| traces.send_with(sender));
        tokio::spawn(traces.clone().write());
    }
    let limits = ResolveLimits {
        timeout: Duration::from_secs(config.resolve_timeout_seconds),
        ..ResolveLimits::default()
    };
    let resolver = Resolver::new(client.clone(), store.clone(), indexes, limits).with_trust(config.trust()?);
    let resolver = Arc::new(resolver.with_verdicts(kept).with_packs(packs).with_trace(trace.clone()));
    let ahead = Ahead::new(client, resolver.clone());
    let snapshotter =
        Snapshotter::new(root, &run_dir, store, Arc::new(mounts.clone()), resolver).map_err(state(config))?;
    let snapshotter = Arc::new(snapshotter.with_trace(trace));
    Ok(Parts { snapshotter, sent, worth, observed, originals, mounts, records, ahead })
}

/// Opens the metadata. Where it is gone and snapshots are not, nothing is begun anew: they would be removed as unknown.
fn open_metadata(root: &Path) -> Result<MetaStore, Box<dyn std::error::Error + Send + Sync>> {
    let (file, snapshots) = (root.join("meta.redb"), root.join("snapshots"));
    let has_snapshots = std::fs::read_dir(&snapshots).is_ok_and(|mut entries| entries.next().is_some());
    if has_snapshots && !file.try_exists()? {
        let (file, snapshots) = (file.display(), snapshots.display());
        return Err(format!("{file} is missing, but {snapshots} is not empty").into());
    }
    Ok(MetaStore::open(&file)?)
}

/// The settings of whoever reads for containers, but for those that are configured.
pub(crate) fn patience() -> ClientConfig {
    ClientConfig {
        user_agent: concat!("jaunt-snapshotter/", env!("CARGO_PKG_VERSION")).to_owned(),
        read_timeout: SILENCE,
        attempts: ATTEMPTS,
        ..ClientConfig::default()
    }
}

/// How layers are read.
pub(crate) fn reading(config: &Config) -> Settings {
    let read_deadline = Duration::from_secs(config.read_deadline_seconds);
    let background_limit = config.completion.limit();
    Settings { read_deadline, silence: SILENCE, background_limit, ..Settings::default() }
}

/// The same, telling what happens where that is to be written down.
fn traced(config: &Config) -> (Trace, Settings) {
    let trace = if config.trace.path().is_some() { Trace::on() } else { Trace::default() };
    (trace.clone(), Settings { trace, ..reading(config) })
}

impl Catalog for MetaStore {
    fn sources(&self, index: &Digest) -> Vec<Repository> {
        Self::sources(self, index).into_iter().collect()
    }

    fn chains(&self) -> Vec<LazyChain> {
        self.read().lazy_chains()
    }

    fn used(&self) -> HashSet<u64> {
        self.read().used_chains()
    }
}

impl Known for MetaStore {
    fn repositories(&self, layer: &Digest) -> Vec<Repository> {
        let (state, layer) = (self.read(), layer.to_string());
        let mut found = Vec::new();
        for snapshot in state.all().filter(|s| s.labels.get(labels::LAYER_DIGEST) == Some(&layer)) {
            let image = snapshot.labels.get(labels::IMAGE_REF).and_then(|image| image.parse().ok());
            found.extend(image.as_ref().map(|image: &Reference| Repository::from(image)));
            if let Backing::Lazy { index, .. } = snapshot.backing {
                found.extend(Self::sources(self, &index));
            }
        }
        let mut seen = BTreeSet::new();
        found.retain(|repository| seen.insert(repository.clone()));
        found
    }

    fn lazy_chains(&self) -> BTreeSet<String> {
        self.read().lazy_chains().iter().map(|chain| chain.chain_id.to_string()).collect()
    }
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> DaemonError {
    move |source| DaemonError::System { what, source }
}

fn state<E: std::error::Error + Send + Sync + 'static>(config: &Config) -> impl FnOnce(E) -> DaemonError {
    let root = config.root.clone();
    move |source| DaemonError::State { root, source: source.into() }
}
