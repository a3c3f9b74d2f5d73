//! What containerd asks for, in our own terms: the semantics of the snapshots service without gRPC.
//!
//! Eager snapshots behave as those of containerd's overlayfs snapshotter. A lazy snapshot is a committed
//! record and no directory; it stands for everything beneath it, since the launch index's tree is merged,
//! so a chain's lower directories are its eager snapshots down to the topmost lazy one, and that one's
//! mount.

mod clean_up;
mod directories;
mod error;
mod lazy_layer;
mod overlay;

use std::path::Path;
use std::sync::Arc;

pub use error::Error;
pub(crate) use error::io_error;
use jaunt_layerfs::trace::Trace;
pub use overlay::Mount;

use crate::disk_usage::disk_usage;
use crate::fallback::FallbackLog;
use crate::filters::Filters;
use crate::labels;
use crate::lazy::{LazyMounts, RootAttributes, Usage};
use crate::mapped::IdMaps;
use crate::metastore::{Backing, Creation, Kind, Labels, MetaStore, Snapshot, State};
use crate::resolve::Resolve;
use clean_up::Releases;
use directories::Directories;

/// The root directory of a snapshot that has no parent.
const FRESH_ROOT: RootAttributes = RootAttributes { mode: 0o755, uid: 0, gid: 0 };

/// Keys come with their namespace, and this is CRI's: nothing is committed or built there.
const PODS: &str = "k8s.io/";

/// The snapshotter; cheap to share, all methods may run concurrently.
pub struct Snapshotter {
    store: MetaStore,
    lazy: Arc<dyn LazyMounts>,
    resolver: Arc<dyn Resolve>,
    directories: Directories,
    options: overlay::HostOptions,
    fallbacks: FallbackLog,
    trace: Trace,
    releases: Arc<Releases>,
}

impl Snapshotter {
    /// A snapshotter over `store`, with eager snapshots below `root`.
    pub fn new(
        root: &Path,
        run_dir: &Path,
        store: MetaStore,
        lazy: Arc<dyn LazyMounts>,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, Error> {
        Ok(Self {
            store,
            releases: Releases::new(lazy.clone()),
            lazy,
            resolver,
            directories: Directories::open(root, run_dir)?,
            options: overlay::host_options(),
            fallbacks: FallbackLog::default(),
            trace: Trace::default(),
        })
    }

    /// The same, telling what happens.
    #[must_use]
    pub fn with_trace(self, trace: Trace) -> Self {
        Self { trace, ..self }
    }

    /// Serves again what was served before; needs no network. To be called once, before any request.
    pub async fn restore(&self) -> Result<(), Error> {
        self.lazy.restore(&self.store.read().lazy_chains()).await?;
        self.clean_up().await
    }

    /// Prepare: an active snapshot, or [`Error::TargetReady`] when the layer is present lazily.
    pub async fn prepare(
        &self,
        key: String,
        parent: Option<String>,
        labels: Labels,
    ) -> Result<Vec<Mount>, Error> {
        let _step = self.trace.step("prepare", || key.clone());
        if let Some(target) = labels.get(labels::TARGET).cloned()
            && self.lazily(&key, &target, parent.as_deref(), &labels).await?
        {
            return Err(Error::TargetReady(target));
        }
        self.create(Kind::Active, key, parent, labels).await
    }

    /// View: a read-only snapshot of `parent`.
    pub async fn view(
        &self,
        key: String,
        parent: Option<String>,
        labels: Labels,
    ) -> Result<Vec<Mount>, Error> {
        let _step = self.trace.step("view", || key.clone());
        self.create(Kind::View, key, parent, labels).await
    }

    /// The mounts of an active snapshot or a view.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Error> {
        let _step = self.trace.step("mounts", || key.to_owned());
        let state = self.store.read();
        let snapshot = state.get(key)?;
        if snapshot.kind == Kind::Committed {
            return Err(crate::metastore::Error::NotMountable(key.to_owned()).into());
        }
        self.mounts_of(&state, snapshot).await
    }

    /// Commit: measures what the snapshot occupies and renames it.
    pub async fn commit(
        &self,
        name: String,
        key: String,
        parent: Option<String>,
        mut labels: Labels,
    ) -> Result<(), Error> {
        let _step = self.trace.step("commit", || key.clone());
        let active = Arc::clone(self.store.read().get(&key)?);
        let usage =
            if active.kind == Kind::Active { self.measure(active.id).await? } else { Usage::default() };
        if labels::is_remap(&key, &name) {
            labels.insert(labels::REMAPPED.to_owned(), "true".to_owned());
        }
        self.store.commit(key, name, parent, labels, usage).await?;
        Ok(())
    }

    /// What is on record of a snapshot.
    pub fn stat(&self, key: &str) -> Result<Arc<Snapshot>, Error> {
        Ok(Arc::clone(self.store.read().get(key)?))
    }

    /// Changes labels; `paths` is the field mask.
    pub async fn update(
        &self,
        name: String,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<Arc<Snapshot>, Error> {
        Ok(self.store.update(name, labels, paths).await?)
    }

    /// The snapshots that any of the filters selects, by name.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Arc<Snapshot>>, Error> {
        let filters = Filters::parse(filters)?;
        Ok(self.store.read().all().filter(|snapshot| filters.select(snapshot)).cloned().collect())
    }

    /// What a snapshot occupies, without its parents.
    pub async fn usage(&self, key: &str) -> Result<Usage, Error> {
        let snapshot = self.stat(key)?;
        match (snapshot.kind, snapshot.lazy_chain()) {
            (_, Some(chain)) => Ok(self.lazy.usage(&chain).await?),
            (Kind::Committed, None) => Ok(snapshot.usage),
            (Kind::Active | Kind::View, None) => self.measure(snapshot.id).await,
        }
    }

    /// The fallbacks of this run.
    pub fn fallbacks(&self) -> &FallbackLog {
        &self.fallbacks
    }

    /// Where a lazy snapshot is mounted now.
    pub async fn mounted(&self, snapshot: &Snapshot) -> Option<std::path::PathBuf> {
        self.lazy.mounted(&snapshot.lazy_chain()?).await
    }

    async fn create(
        &self,
        kind: Kind,
        name: String,
        parent: Option<String>,
        labels: Labels,
    ) -> Result<Vec<Mount>, Error> {
        let state = self.store.read();
        let parent_record = parent.as_deref().map(|name| state.parent(name)).transpose()?;
        if state.find(&name).is_some() {
            return Err(crate::metastore::Error::AlreadyExists(name).into());
        }
        let attributes = self.root_attributes(parent_record.map(|record| &**record), &labels).await?;
        let reservation = self.store.reserve();
        let id = reservation.id();
        self.blocking(move |directories| directories.create(id, kind == Kind::Active, attributes)).await?;
        let step = self.trace.step("record", || name.clone());
        let creation = Creation { name, id, kind, parent, labels, backing: Backing::Eager };
        let created = self.store.create(creation).await;
        drop(step);
        match created {
            Ok(snapshot) => {
                let mounts = self.mounts_of(&self.store.read(), &snapshot).await;
                if let Err(Error::Unmappable) = mounts {
                    self.remove(snapshot.name.clone()).await?;
                }
                mounts
            }
            Err(error) => {
                self.discard(id).await?;
                Err(error.into())
            }
        }
    }

    /// The upper directory of an overlay is what its root directory looks like: so it repeats its
    /// parent's, or belongs to the root of the user namespace that will use it.
    async fn root_attributes(
        &self,
        parent: Option<&Snapshot>,
        labels: &Labels,
    ) -> Result<RootAttributes, Error> {
        let mut attributes = match parent.map(|parent| (parent, parent.lazy_chain())) {
            None => FRESH_ROOT,
            Some((_, Some(chain))) => self.lazy.root(&chain).await?,
            Some((parent, None)) => {
                let fs = self.directories.fs(parent.id);
                tokio::task::spawn_blocking(move || attributes_of(&fs))
                    .await
                    .map_err(|_| Error::Stopping)??
            }
        };
        if let (Some(uid), Some(gid)) =
            (mapped_root(labels, labels::UID_MAPPING)?, mapped_root(labels, labels::GID_MAPPING)?)
        {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        Ok(attributes)
    }

    async fn mounts_of(&self, state: &State, snapshot: &Snapshot) -> Result<Vec<Mount>, Error> {
        let mut eager = Vec::new();
        let mut lazy = None;
        let ancestors = state.ancestors(snapshot)?;
        let mut maps = id_maps(snapshot, &ancestors);
        for ancestor in ancestors {
            if let Some(chain) = ancestor.lazy_chain() {
                let _step = self.trace.step("mount", || chain.chain_id.to_string());
                let for_pod = is_for_pod(&snapshot.name);
                let given = if for_pod { self.lazy.ensure_for_pod(&chain) } else { self.lazy.ensure(&chain) };
                lazy = Some(given.await?);
                break;
            }
            eager.push(ancestor.id);
        }
        let beside_lazy = lazy.is_some();
        if beside_lazy && maps.is_some() && !self.options.maps_lazy() {
            return Err(Error::Unmappable);
        }
        let mut lowers = self
            .blocking(move |directories| {
                let lower = |id| match beside_lazy {
                    true => directories.lower_beside_lazy(id),
                    false => Ok(directories.fs(id)),
                };
                eager.into_iter().map(lower).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        lowers.extend(lazy);
        // containerd maps what one file system has.
        if beside_lazy && let Some(maps) = maps.take() {
            let id = snapshot.id;
            lowers = self.blocking(move |directories| directories.mapped(id, &maps, &lowers)).await?;
        }
        let layers = overlay::Layers {
            kind: snapshot.kind,
            upper: self.directories.fs(snapshot.id),
            work: self.directories.work(snapshot.id),
            lowers,
            lazy: beside_lazy,
            id_maps: maps.map_or_else(Vec::new, IdMaps::into_options),
        };
        Ok(vec![layers.mount(&self.options)])
    }

    async fn measure(&self, id: u64) -> Result<Usage, Error> {
        self.blocking(move |directories| {
            let fs = directories.fs(id);
            disk_usage(&fs).map_err(io_error("measure", &fs))
        })
        .await
    }

    /// Runs file system work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directories) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let directories = self.directories.clone();
        tokio::task::spawn_blocking(move || work(&directories)).await.map_err(|_| Error::Stopping)?
    }
}

fn is_for_pod(key: &str) -> bool {
    key.starts_with(PODS)
}

fn attributes_of(fs: &Path) -> Result<RootAttributes, Error> {
    use std::os::unix::fs::MetadataExt as _;
    let stat = std::fs::symlink_metadata(fs).map_err(io_error("look at", fs))?;
    Ok(RootAttributes { mode: stat.mode() & 0o7777, uid: stat.uid(), gid: stat.gid() })
}

fn mapped_root(labels: &Labels, label: &'static str) -> Result<Option<u32>, Error> {
    let Some(value) = labels.get(label) else { return Ok(None) };
    match labels::mapped_root(value) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::Mapping { label, value: value.clone() }),
    }
}

/// What a snapshot's ids are to be mapped with: nothing where the files below have their new owners already.
fn id_maps(snapshot: &Snapshot, ancestors: &[Arc<Snapshot>]) -> Option<IdMaps> {
    if ancestors.first().is_some_and(|parent| parent.labels.contains_key(labels::REMAPPED)) {
        return None;
    }
    let map = |label| snapshot.labels.get(label).cloned();
    Some(IdMaps { uids: map(labels::UID_MAPPING)?, gids: map(labels::GID_MAPPING)? })
}
