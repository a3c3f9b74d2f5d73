//! Lazy chains as FUSE mounts: the supervisor mounts them, this process serves them.
//!
//! A mount is made when a container first needs its chain, and stays until the chain's snapshot is removed: a
//! container that starts again finds the kernel's caches warm. A worker that takes over serves every mount
//! that the supervisor holds before it answers its first request. Layers that no snapshot has any more are
//! deleted from the store. Chains that are complete get mounts that nobody serves ([`complete`]).

mod calls;
mod complete;
mod condemned;
mod direct;
mod idle;
mod known;
mod push;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jaunt_distribution::{Client, Repository};
use jaunt_formats::{DiffId, Digest};
use jaunt_layerfs::completion::Completion;
use jaunt_layerfs::erofs;
use jaunt_layerfs::fs::{CompleteChain, LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::{self, READ_AHEAD_KIB, ReadAhead, SessionError, SessionHandle};
use jaunt_layerfs::layers::Layers;
use jaunt_layerfs::observed::Observed;
use jaunt_layerfs::source::{RegistrySource, Source};
use jaunt_layerfs::store::Store;
use tokio::sync::OnceCell;

use crate::boot::{Beside, BootPacks, Start};
use crate::config::{KernelFeature, RepositoryPrefix};
use crate::fallback::error_chain;
use crate::lazy::{Cause, LazyChain, LazyError};
use crate::passthrough;
use crate::supervisor::{Connection, Handle, HandleError, HeldMount, MountKey, MountNeeds, Unmounted};
use known::Indexes;
use push::Pusher;

/// FUSE threads a mount: one that waits for the disk must not keep the others' lookups waiting.
pub(crate) const THREADS: usize = 2;
/// How long an unmounted file system's session may take to notice: microseconds, on a busy machine more.
const SETTLE: Duration = Duration::from_secs(1);
/// How long after a sweep another one looks at what somebody held.
const SWEEP_AGAIN: Duration = Duration::from_secs(5);

/// What is on record, as the mounts need it.
pub trait Catalog: Send + Sync + 'static {
    /// Repositories that hold an index's converted layers.
    fn sources(&self, index: &Digest) -> Vec<Repository>;
    /// Every committed lazy snapshot.
    fn chains(&self) -> Vec<LazyChain>;
    /// Those of them that a container or a view is on.
    fn used(&self) -> HashSet<u64>;
}

/// The mounts of this node.
pub struct Mounts {
    supervisor: Handle,
    store: Arc<Store>,
    layers: Layers,
    completion: Option<Completion>,
    packs: OnceLock<Arc<BootPacks>>,
    observed: Arc<Observed>,
    indexes: Indexes,
    image_dir: PathBuf,
    client: Client,
    catalog: Arc<dyn Catalog>,
    /// What new containers get.
    served: Mutex<HashMap<u64, Arc<OnceCell<Served>>>>,
    /// Snapshots that are mounted ahead of their containers: nothing is completed for them before one comes.
    expected: Mutex<HashSet<u64>>,
    /// Snapshots of which no container was given the mount yet, and its first start is prepared for.
    starts: Mutex<HashMap<u64, Start>>,
    /// FUSE mounts that some containers still use, of chains that have become complete since.
    earlier: Mutex<HashMap<u64, Arc<OnceCell<Served>>>>,
    /// One chain at a time is given another mount.
    changing: tokio::sync::Mutex<()>,
    /// Held shared while somebody is given a mount.
    giving: tokio::sync::RwLock<()>,
    /// Repositories whose images are served, complete or not.
    served_always: OnceLock<Vec<RepositoryPrefix>>,
    /// Whether the kernel may be asked for complete mounts.
    uses_erofs: AtomicBool,
    /// Whether new FUSE mounts may have passthrough.
    uses_passthrough: AtomicBool,
    /// Snapshots that an image cannot show.
    unfit: Mutex<HashSet<u64>>,
    /// Snapshots that could not be mounted as complete the last time, which has been told.
    troubled: Mutex<HashSet<u64>>,
    /// Mounts that are to be ended once nobody is in them.
    leftover: Mutex<HashSet<MountKey>>,
    /// Mounts whose readers get errors from this worker: nobody else may answer on them.
    failing: Mutex<HashSet<MountKey>>,
    /// Whether a sweep is to come.
    sweeps_again: AtomicBool,
}

struct Served {
    fs: Arc<LayerFs>,
    server: Server,
    root: PathBuf,
    /// Whether the kernel reads of it by itself, so that its layers are held complete for as long as it is there.
    holds: bool,
    /// Its layers, held complete for containers that are on it ([`idle`]).
    kept: Mutex<Option<CompleteChain>>,
}

/// Who answers.
enum Server {
    /// This process.
    Session(SessionHandle),
    /// The kernel, from files that are held as they are.
    Kernel(CompleteChain),
}

impl Mounts {
    /// Mounts made by `supervisor`, over indexes in `index_dir` and layers kept by `layers`, which can be looked at in
    /// `observed`, and filled by `completion`. Images of complete chains are kept beside the indexes.
    pub fn open(
        supervisor: Handle,
        client: Client,
        catalog: Arc<dyn Catalog>,
        index_dir: PathBuf,
        (layers, observed): (Layers, Arc<Observed>),
        completion: Option<Completion>,
    ) -> Arc<Self> {
        Arc::new(Self {
            supervisor,
            store: layers.store().clone(),
            layers,
            completion,
            packs: OnceLock::new(),
            observed,
            image_dir: index_dir.with_file_name("erofs"),
            indexes: Indexes::new(index_dir),
            client,
            catalog,
            served: Mutex::default(),
            expected: Mutex::default(),
            starts: Mutex::default(),
            earlier: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            giving: tokio::sync::RwLock::default(),
            served_always: OnceLock::new(),
            uses_erofs: AtomicBool::new(true),
            uses_passthrough: AtomicBool::new(true),
            unfit: Mutex::default(),
            troubled: Mutex::default(),
            leftover: Mutex::default(),
            failing: Mutex::default(),
            sweeps_again: AtomicBool::new(false),
        })
    }

    /// Does without some of the kernel's features from now on.
    pub fn avoid(&self, features: &BTreeSet<KernelFeature>) {
        self.uses_erofs.fetch_and(!features.contains(&KernelFeature::Erofs), Ordering::Relaxed);
        self.uses_passthrough.fetch_and(!features.contains(&KernelFeature::Passthrough), Ordering::Relaxed);
    }

    /// Has chains read from boot packs as well from now on.
    pub fn use_packs(&self, packs: Arc<BootPacks>) {
        let _ = self.packs.set(packs);
    }

    fn cell(&self, snapshot_id: u64) -> Arc<OnceCell<Served>> {
        let mut served = lock(&self.served);
        let ended = |cell: &Arc<OnceCell<Served>>| cell.get().is_some_and(Served::has_ended);
        if served.get(&snapshot_id).is_some_and(ended) {
            served.remove(&snapshot_id);
        }
        served.entry(snapshot_id).or_default().clone()
    }

    /// Opens the chain's file system and has the supervisor mount it.
    fn serve(&self, chain: &LazyChain, for_pod: bool) -> Result<Served, LazyError> {
        let fs = self.open_chain(chain)?;
        fs.answer_xattrs(!for_pod);
        if let Some(served) = self.complete(chain, &fs) {
            return Ok(served);
        }
        let complete = fs.hold_checked(&self.store, &chain.index);
        let needs = MountNeeds {
            posix_acl: fs.has_acls(),
            passthrough: self.uses_passthrough.load(Ordering::Relaxed)
                && passthrough::suits(&fs, complete.as_ref()),
        };
        let (held, is_new) =
            self.mount(chain.snapshot_id, needs).map_err(|source| mount_error(chain, source.into()))?;
        let (key, root, holds) = (held.key, held.path.join(ROOT_NAME), complete.is_some());
        let Some(connection) = held.connection else {
            return Err(mount_error(chain, "what is mounted is not FUSE".into()));
        };
        let packs = self.packs.get().filter(|_| is_new);
        let (beside, start) =
            packs.map(|packs| packs.begin_start(&fs, chain.index, &held.path, holds)).unzip();
        let holds = holds && connection.negotiated.has_passthrough();
        let adapter = passthrough::adapter(fs.clone(), complete, &held.path, &connection, is_new);
        let pusher = (beside == Some(Beside::Push) && !holds).then(|| pusher(&root, &connection)).flatten();
        match adapter.map_err(SessionError::from).and_then(|adapter| connection.serve(adapter, THREADS)) {
            Ok(session) => {
                if let Some(pusher) = pusher {
                    session.push(&fs, Box::new(pusher));
                }
                if let Some(start) = start.flatten() {
                    lock(&self.starts).insert(chain.snapshot_id, start);
                }
                Ok(Served::new(fs, Server::Session(session), root, holds))
            }
            Err(error) => {
                // Nobody would ever answer on that mount, nor the pusher, which has it in use.
                drop(pusher);
                let _ = self.supervisor.unmount(&key);
                Err(mount_error(chain, error.into()))
            }
        }
    }

    fn open_chain(&self, chain: &LazyChain) -> Result<Arc<LayerFs>, LazyError> {
        let sources = self.sources(chain);
        let name = match sources.first() {
            Some(source) => format!("{} (chain {})", source.name(), chain.chain_id),
            None => format!("chain {}", chain.chain_id),
        };
        let index = self.indexes.open(chain.index)?;
        let boot = self.packs.get().and_then(|packs| packs.of(&chain.index, &index));
        let fs = LayerFs::new(index, chain.prefix, name, &self.layers, &sources);
        let fs = Arc::new(fs.map_err(|source| mount_error(chain, source.into()))?.with_boot(boot));
        // An earlier worker may have promised it. Where none has, the kernel does not ask again.
        fs.answer_xattrs(true);
        if !lock(&self.expected).contains(&chain.snapshot_id) {
            self.fill(&fs, chain);
        }
        self.observed.watch(&fs);
        Ok(fs)
    }

    /// Has a chain completed in its turn.
    fn fill(&self, fs: &Arc<LayerFs>, chain: &LazyChain) {
        if let Some(completion) = &self.completion {
            completion.add(fs, chain.index);
        }
    }

    /// The repositories that are known to have what the chain's index names.
    fn sources(&self, chain: &LazyChain) -> Vec<Arc<dyn Source>> {
        let repositories = self.catalog.sources(&chain.index).into_iter();
        let source = |repository| Arc::new(RegistrySource::new(self.client.clone(), repository)) as _;
        repositories.map(source).collect()
    }

    /// Has nothing of this process in a chain's mounts any more.
    fn leave(&self, snapshot_id: u64) {
        for cells in [&self.served, &self.earlier] {
            let cell = lock(cells).get(&snapshot_id).cloned();
            cell.as_ref().and_then(|cell| cell.get()).inspect(|served| served.leave());
        }
    }

    fn forget(&self, snapshot_id: u64) -> Vec<Arc<OnceCell<Served>>> {
        lock(&self.expected).remove(&snapshot_id);
        lock(&self.starts).remove(&snapshot_id);
        lock(&self.unfit).remove(&snapshot_id);
        lock(&self.troubled).remove(&snapshot_id);
        let (now, earlier) =
            (lock(&self.served).remove(&snapshot_id), lock(&self.earlier).remove(&snapshot_id));
        now.into_iter().chain(earlier).collect()
    }

    /// A new mount, or the one that is held already because an earlier attempt to serve it failed; whether it is new.
    fn mount(&self, snapshot_id: u64, needs: MountNeeds) -> Result<(HeldMount, bool), HandleError> {
        let key = snapshot_id.into();
        self.supervisor.mount(&key, needs).map(|held| (held, true)).or_else(|refused| {
            let ours = |held: &HeldMount| held.key == key && held.attached;
            let held = self.supervisor.mounts()?.into_iter().find(ours);
            let held = held.filter(|_| !lock(&self.failing).contains(&key));
            held.map(|held| (held, false)).ok_or(refused)
        })
    }

    /// Serves what the supervisor holds, for the worker that takes over.
    fn take_over(&self, held: HeldMount, chains: &HashMap<MountKey, LazyChain>) {
        let Some(chain) = chains.get(&held.key) else { return self.let_go(held) };
        let fs = match self.open_chain(chain) {
            Ok(fs) => fs,
            Err(error) => {
                let (mount, error) = (&held.key, error_chain(&error));
                tracing::error!(%mount, error, "a mount cannot be served anew: reads fail; the others are served");
                return self.fail_readers(held);
            }
        };
        let Some(connection) = held.connection else {
            if let Some(served) = self.take_up(&held, chain, fs) {
                self.replace(chain.snapshot_id, served);
            }
            return;
        };
        if held.attached {
            // The worker before may have narrowed it for a start, which goes on without that.
            let _ = ReadAhead::at(&held.path).and_then(|read_ahead| read_ahead.set(READ_AHEAD_KIB));
        }
        let complete = fs.hold_checked(&self.store, &chain.index);
        let holds = complete.is_some() && connection.negotiated.has_passthrough();
        let adapter = match passthrough::adapter(fs.clone(), complete, &held.path, &connection, false) {
            Ok(adapter) => adapter,
            Err(error) => {
                let mount = &held.key;
                tracing::error!(%mount, %error, "a mount cannot be served anew: reads fail; the others are served");
                return self.fail_readers(HeldMount { connection: Some(connection), ..held });
            }
        };
        match connection.serve(adapter, THREADS) {
            Ok(session) => {
                tracing::info!(snapshot = chain.snapshot_id, chain = %chain.chain_id, "serves a mount anew");
                let (server, root) = (Server::Session(session), held.path.join(ROOT_NAME));
                let cell = Arc::new(OnceCell::new_with(Some(Served::new(fs, server, root, holds))));
                lock(&self.served).insert(chain.snapshot_id, cell);
            }
            Err(error) => {
                let (mount, error) = (&held.key, error_chain(&error));
                tracing::error!(%mount, error, "a mount cannot be served anew; the others are");
            }
        }
    }

    /// Ends a mount that is not on record, or answers its last users with errors instead of silence.
    fn let_go(&self, held: HeldMount) {
        match self.supervisor.unmount(&held.key) {
            Ok(Unmounted::Done) => tracing::info!(mount = %held.key, "unmounted: its snapshot is gone"),
            outcome if held.connection.is_none() => {
                tracing::warn!(mount = %held.key, ?outcome, "still in use though its snapshot is gone: it goes on until its last user is gone");
                lock(&self.leftover).insert(held.key);
            }
            outcome => {
                tracing::warn!(mount = %held.key, ?outcome, "still in use though its snapshot is gone: reads fail");
                self.fail_readers(held);
            }
        }
    }

    /// Answers everything on a mount with an error, until the next worker.
    fn fail_readers(&self, held: HeldMount) {
        // What the kernel reads by itself goes on.
        let Some(connection) = held.connection else { return };
        lock(&self.failing).insert(held.key.clone());
        if let Err(error) = connection.serve(fuse::Orphan, 1) {
            tracing::error!(mount = %held.key, %error, "cannot answer for it");
        }
    }

    /// Deletes layers that no snapshot on record has. Those of a read or a fetch that is on its way go once that has ended.
    fn sweep(self: &Arc<Self>) {
        if self.sweep_once() == 0 || self.sweeps_again.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(SWEEP_AGAIN).await;
            let Some(this) = this.upgrade() else { return };
            this.sweeps_again.store(false, Ordering::Release);
            // A panic there has been reported by its own thread.
            let _ = tokio::task::spawn_blocking(move || this.sweep()).await;
        });
    }

    /// How many of them somebody holds.
    fn sweep_once(&self) -> usize {
        let chains = self.catalog.chains();
        self.sweep_images(&chains);
        let mut wanted: HashSet<DiffId> = HashSet::new();
        for chain in &chains {
            match self.indexes.of(chain.index) {
                Ok(known) => wanted.extend(known.diff_ids(chain.prefix)),
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(index = %chain.index, error, "layers are kept: it cannot be told which are in use");
                    return 0;
                }
            }
        }
        let in_use: HashSet<Digest> = chains.iter().map(|chain| chain.index).collect();
        self.indexes.retain(|index| in_use.contains(index));
        if let Some(packs) = self.packs.get() {
            packs.retain(|index| in_use.contains(index));
        }
        let held = self.store.retain(|diff_id| wanted.contains(&diff_id)).unwrap_or_else(|error| {
            tracing::warn!(%error, cause = %error.source, "unused layers could not be deleted");
            0
        });
        if let Err(error) = self.store.forget_checked(|index| in_use.contains(index)) {
            tracing::warn!(%error, cause = %error.source, "what was found of unused images is kept");
        }
        held
    }
}

impl Served {
    fn new(fs: Arc<LayerFs>, server: Server, root: PathBuf, holds: bool) -> Self {
        Self { fs, server, root, holds, kept: Mutex::default() }
    }

    /// Whether this process serves it.
    fn is_ours(&self) -> bool {
        matches!(self.server, Server::Session(_))
    }

    fn has_ended(&self) -> bool {
        matches!(&self.server, Server::Session(session) if session.is_finished())
    }

    /// Whether it is what a container should get: still there, and over files that are known to be what they must be.
    fn is_sound(&self) -> bool {
        match &self.server {
            Server::Session(session) => !session.is_finished(),
            Server::Kernel(chain) => chain.is_sound() && self.root.parent().is_some_and(erofs::is_mounted_on),
        }
    }

    /// Has nothing of this process in the mount any more.
    fn leave(&self) {
        if let Server::Session(session) = &self.server {
            session.stop_pushing();
        }
    }

    /// Waits a moment for the session of an unmounted file system to end, so that its layers are free.
    fn settle(&self) {
        let deadline = Instant::now() + SETTLE;
        while self.is_ours() && !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs what blocks (files, mmap, the supervisor's socket) off the threads that serve requests.
async fn blocking<T: Send + 'static>(
    snapshot_id: u64,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LazyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| other(snapshot_id, "finish what was begun", panic.into()))
}

/// What stores a boot pack's pages, where a request that it waits for would be answered by the next worker, too.
fn pusher(root: &Path, connection: &Connection) -> Option<Pusher> {
    let started = connection
        .negotiated
        .can_resend()
        .then(|| connection.device.try_clone().and_then(|device| Pusher::start(root, device)))?;
    started
        .inspect_err(
            |error| tracing::warn!(%error, "what boot packs bring is not pushed into the page cache"),
        )
        .ok()
}

fn mount_error(chain: &LazyChain, source: Cause) -> LazyError {
    LazyError::Mount { snapshot_id: chain.snapshot_id, chain_id: chain.chain_id, source }
}

fn other(snapshot_id: u64, what: &'static str, source: Cause) -> LazyError {
    LazyError::Other { snapshot_id, what, source }
}

/// No invariant spans two statements under these locks: a panic elsewhere leaves them sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
