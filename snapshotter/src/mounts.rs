//! Lazy chains as FUSE mounts: the supervisor mounts them, this process serves them.
//!
//! A mount is made when a container first needs its chain, and stays until the chain's snapshot is removed: a
//! container that starts again finds the kernel's caches warm. A worker that takes over serves every mount
//! that the supervisor holds before it answers its first request. Layers that no snapshot has any more are
//! deleted from the store.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jaunt_distribution::{Client, Repository};
use jaunt_formats::{DiffId, Digest};
use jaunt_layerfs::completion::Completion;
use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::{self, SessionHandle};
use jaunt_layerfs::index_file::{MappedIndex, open_index};
use jaunt_layerfs::layers::Layers;
use jaunt_layerfs::observed::Observed;
use jaunt_layerfs::source::{RegistrySource, Source};
use jaunt_layerfs::store::{LargeFiles, Store};
use tokio::sync::OnceCell;

use crate::fallback::error_chain;
use crate::lazy::{Cause, LazyChain, LazyError, LazyMounts, RootAttributes, Usage};
use crate::passthrough;
use crate::supervisor::{Handle, HandleError, HeldMount, MountKey, MountNeeds, Unmounted};

/// FUSE threads a mount: one that waits for the disk must not keep the others' lookups waiting.
pub(crate) const THREADS: usize = 2;
/// How long an unmounted file system's session may take to notice: microseconds, on a busy machine more.
const SETTLE: Duration = Duration::from_secs(1);

/// What is on record, as the mounts need it.
pub trait Catalog: Send + Sync + 'static {
    /// Repositories that hold an index's converted layers.
    fn sources(&self, index: &Digest) -> Vec<Repository>;
    /// Every committed lazy snapshot.
    fn chains(&self) -> Vec<LazyChain>;
}

/// The mounts of this node.
pub struct Mounts {
    supervisor: Handle,
    store: Arc<Store>,
    layers: Layers,
    completion: Option<Completion>,
    observed: Arc<Observed>,
    index_dir: PathBuf,
    client: Client,
    catalog: Arc<dyn Catalog>,
    served: Mutex<HashMap<u64, Arc<OnceCell<Served>>>>,
    /// Mounts whose readers get errors from this worker: nobody else may answer on them.
    failing: Mutex<HashSet<MountKey>>,
    diff_ids: Mutex<HashMap<Digest, Arc<[DiffId]>>>,
}

struct Served {
    fs: Arc<LayerFs>,
    session: SessionHandle,
    root: PathBuf,
}

impl Mounts {
    /// Mounts made by `supervisor`, over indexes in `index_dir` and layers kept by `layers`, which can be looked at in
    /// `observed`, and filled by `completion`.
    pub fn open(
        supervisor: Handle,
        client: Client,
        catalog: Arc<dyn Catalog>,
        index_dir: PathBuf,
        (layers, observed): (Layers, Arc<Observed>),
        completion: Option<Completion>,
    ) -> Arc<Self> {
        let store = layers.store().clone();
        let (served, failing, diff_ids) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self {
            supervisor,
            store,
            layers,
            completion,
            observed,
            index_dir,
            client,
            catalog,
            served,
            failing,
            diff_ids,
        })
    }

    fn cell(&self, snapshot_id: u64) -> Arc<OnceCell<Served>> {
        let mut served = lock(&self.served);
        let ended =
            |cell: &Arc<OnceCell<Served>>| cell.get().is_some_and(|served| served.session.is_finished());
        if served.get(&snapshot_id).is_some_and(ended) {
            served.remove(&snapshot_id);
        }
        served.entry(snapshot_id).or_default().clone()
    }

    fn index_path(&self, index: &Digest) -> PathBuf {
        self.index_dir.join(index.hex())
    }

    fn open_index(&self, index: Digest) -> Result<MappedIndex, LazyError> {
        open_index(&self.index_path(&index))
            .map_err(|source| LazyError::Index { index, source: source.into() })
    }

    /// Opens the chain's file system and has the supervisor mount it.
    fn serve(&self, chain: &LazyChain) -> Result<Served, LazyError> {
        let fs = self.open_chain(chain)?;
        let needs = MountNeeds { posix_acl: fs.has_acls(), passthrough: passthrough::suits(&fs) };
        let (held, is_new) =
            self.mount(chain.snapshot_id, needs).map_err(|source| mount_error(chain, source.into()))?;
        let adapter = passthrough::adapter(fs.clone(), &held, is_new);
        let (key, root) = (held.key, held.path.join(ROOT_NAME));
        match fuse::serve(adapter, held.device, &held.negotiated, THREADS) {
            Ok(session) => Ok(Served { fs, session, root }),
            Err(error) => {
                // Nobody would ever answer on that mount.
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
        let index = self.open_index(chain.index)?;
        let fs = LayerFs::new(index, chain.prefix, name, &self.layers, &sources);
        let fs = Arc::new(fs.map_err(|source| mount_error(chain, source.into()))?);
        if let Some(completion) = &self.completion {
            completion.add(&fs, chain.index);
        }
        self.observed.watch(&fs);
        Ok(fs)
    }

    /// The repositories that are known to have what the chain's index names.
    fn sources(&self, chain: &LazyChain) -> Vec<Arc<dyn Source>> {
        let repositories = self.catalog.sources(&chain.index).into_iter();
        let source = |repository| Arc::new(RegistrySource::new(self.client.clone(), repository)) as _;
        repositories.map(source).collect()
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
        let adapter = passthrough::adapter(fs.clone(), &held, false);
        match fuse::serve(adapter, held.device, &held.negotiated, THREADS) {
            Ok(session) => {
                tracing::info!(snapshot = chain.snapshot_id, chain = %chain.chain_id, "serves a mount anew");
                let served = Served { fs, session, root: held.path.join(ROOT_NAME) };
                let cell = Arc::new(OnceCell::new_with(Some(served)));
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
            outcome => {
                tracing::warn!(mount = %held.key, ?outcome, "still in use though its snapshot is gone: reads fail");
                self.fail_readers(held);
            }
        }
    }

    /// Answers everything on a mount with an error, until the next worker.
    fn fail_readers(&self, held: HeldMount) {
        lock(&self.failing).insert(held.key.clone());
        if let Err(error) = fuse::serve(fuse::Orphan, held.device, &held.negotiated, 1) {
            tracing::error!(mount = %held.key, %error, "cannot answer for it");
        }
    }

    /// Deletes layers that no snapshot on record has.
    fn sweep(&self) {
        let chains = self.catalog.chains();
        let mut wanted: HashSet<DiffId> = HashSet::new();
        for chain in &chains {
            match self.diff_ids(chain.index) {
                Ok(diff_ids) => wanted.extend(diff_ids.iter().take(chain.prefix.into())),
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(index = %chain.index, error, "layers are kept: it cannot be told which are in use");
                    return;
                }
            }
        }
        let in_use: HashSet<Digest> = chains.iter().map(|chain| chain.index).collect();
        lock(&self.diff_ids).retain(|index, _| in_use.contains(index));
        if let Err(error) = self.store.retain(|diff_id| wanted.contains(&diff_id)) {
            tracing::warn!(%error, cause = %error.source, "unused layers could not be deleted");
        }
        if let Err(error) = self.store.forget_checked(|index| in_use.contains(index)) {
            tracing::warn!(%error, cause = %error.source, "what was found of unused images is kept");
        }
    }

    fn diff_ids(&self, index: Digest) -> Result<Arc<[DiffId]>, LazyError> {
        if let Some(known) = lock(&self.diff_ids).get(&index) {
            return Ok(known.clone());
        }
        let diff_ids: Arc<[DiffId]> = self.open_index(index)?.diff_ids().into();
        lock(&self.diff_ids).insert(index, diff_ids.clone());
        Ok(diff_ids)
    }
}

#[tonic::async_trait]
impl LazyMounts for Arc<Mounts> {
    async fn ensure(&self, chain: &LazyChain) -> Result<PathBuf, LazyError> {
        if let Some(why) = self.store.quarantined_index(&chain.index) {
            return Err(LazyError::Quarantined { index: chain.index, why });
        }
        let cell = self.cell(chain.snapshot_id);
        if let Some(served) = cell.get() {
            // Another repository with the same image may have come to be known since it was mounted.
            served.fs.learn(&self.sources(chain));
            return Ok(served.root.clone());
        }
        let served = cell.get_or_try_init(|| async {
            let (this, chain) = (self.clone(), *chain);
            blocking(chain.snapshot_id, move || this.serve(&chain)).await?
        });
        Ok(served.await?.root.clone())
    }

    async fn root(&self, chain: &LazyChain) -> Result<RootAttributes, LazyError> {
        let (this, chain) = (self.clone(), *chain);
        blocking(chain.snapshot_id, move || {
            let index = this.open_index(chain.index)?;
            let malformed = |source: Cause| LazyError::Index { index: chain.index, source };
            let view = index.view(chain.prefix).ok_or_else(|| malformed("it has fewer layers".into()))?;
            let root = view.root().and_then(|root| index.attributes(root));
            let root = root.map_err(|source| malformed(source.into()))?;
            Ok(RootAttributes { mode: root.mode, uid: root.uid, gid: root.gid })
        })
        .await?
    }

    async fn release(&self, chain: &LazyChain) -> Result<(), LazyError> {
        let (this, id) = (self.clone(), chain.snapshot_id);
        blocking(id, move || {
            let outcome = this.supervisor.unmount(&id.into());
            match outcome.map_err(|source| other(id, "unmount", source.into()))? {
                Unmounted::Busy => return Err(LazyError::Busy { snapshot_id: id }),
                // The session's threads go on by themselves until the last user is gone.
                Unmounted::Done => {
                    let served = lock(&this.served).remove(&id);
                    served.as_ref().and_then(|cell| cell.get()).inspect(|served| {
                        served.settle();
                        served.root.parent().inspect(|mount| passthrough::forget(mount));
                    });
                }
                // The session's threads go on by themselves until the last user is gone.
                Unmounted::Lingers => drop(lock(&this.served).remove(&id)),
            }
            this.sweep();
            Ok(())
        })
        .await?
    }

    async fn restore(&self, chains: &[LazyChain]) -> Result<(), LazyError> {
        let chains: HashMap<MountKey, LazyChain> =
            chains.iter().map(|chain| (chain.snapshot_id.into(), *chain)).collect();
        let this = self.clone();
        blocking(0, move || {
            let held =
                this.supervisor.mounts().map_err(|source| other(0, "ask what is mounted", source.into()))?;
            held.into_iter().for_each(|held| this.take_over(held, &chains));
            this.sweep();
            Ok(())
        })
        .await?
    }

    async fn usage(&self, chain: &LazyChain) -> Result<Usage, LazyError> {
        let (this, chain) = (self.clone(), *chain);
        blocking(chain.snapshot_id, move || {
            let index = this.open_index(chain.index)?;
            let top = usize::from(chain.prefix).saturating_sub(1);
            let Some(layer) = index.layers().get(top) else { return Ok(Usage::default()) };
            let inodes = index.layer_stats(top).unwrap_or_default().inodes.into();
            let large = LargeFiles::of_layers(&index);
            let bytes = large.get(top).map_or(0, |large| this.store.present_bytes(layer, large));
            Ok(Usage { bytes, inodes })
        })
        .await?
    }

    async fn mounted(&self, chain: &LazyChain) -> Option<PathBuf> {
        let served = lock(&self.served);
        let served = served.get(&chain.snapshot_id)?.get().filter(|served| !served.session.is_finished())?;
        Some(served.root.clone())
    }
}

impl Served {
    /// Waits a moment for the session of an unmounted file system to end, so that its layers are free.
    fn settle(&self) {
        let deadline = Instant::now() + SETTLE;
        while !self.session.is_finished() && Instant::now() < deadline {
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
