//! The metadata store: snapshots by name, and which launch index was found for which image, and where.
//!
//! Invariants: what a caller was told is durable; a reader sees only durable state; ids are never
//! reused; a lazy snapshot on record is ready. Readers take an [`Arc`] of the whole state, so nothing
//! is locked while they work.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};

use jaunt_distribution::Repository;
use jaunt_formats::Digest;
use tokio::sync::oneshot;

mod error;
mod inspect;
#[cfg(test)]
mod power_cut;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use error::Error;
pub use inspect::{Rows, Table, drop_rows, inspect, read_rows};
pub use record::{Backing, Kind, Learnt, Snapshot, Voucher};
pub use state::{Creation, State};

use crate::lazy::Usage;

/// Labels as containerd sends them.
pub type Labels = BTreeMap<String, String>;

/// containerd's limit for a label's key and value together.
pub const LABEL_MAX: usize = 4096;

/// Bytes of a snapshot's key or name: what containerd's database takes for a key.
pub const NAME_MAX: usize = 32 << 10;

/// What a launch index was found for: an image manifest *in a repository*. Whoever may push there may
/// attach an index there, so one repository's finding says nothing about another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin {
    /// Where.
    pub repository: Repository,
    /// Digest of the image manifest.
    pub manifest: Digest,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.manifest)
    }
}

impl FromStr for Pin {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (repository, manifest) = text.rsplit_once('@').ok_or("no @ in a pin")?;
        Ok(Self { repository: repository.parse()?, manifest: manifest.parse()? })
    }
}

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct MetaStore {
    shared: Arc<RwLock<Arc<State>>>,
    jobs: mpsc::Sender<writer::Job>,
    ids: Arc<Mutex<Ids>>,
}

struct Ids {
    next: u64,
    reserved: HashSet<u64>,
}

/// An id that is taken while its directory is being made and its record is not yet durable.
pub struct Reservation {
    id: u64,
    ids: Arc<Mutex<Ids>>,
}

impl Reservation {
    /// The id.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).reserved.remove(&self.id);
    }
}

impl MetaStore {
    /// Opens or creates the store at `path` and starts its writer.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (disk, state) = writer::Disk::open(path)?;
        Self::start(disk, state)
            .map_err(|error| Error::Open { path: path.to_owned(), source: Box::new(redb::Error::Io(error)) })
    }

    fn start(disk: writer::Disk, state: State) -> std::io::Result<Self> {
        let ids = Ids { next: state.next_id, reserved: HashSet::new() };
        let shared = Arc::new(RwLock::new(Arc::new(state)));
        let (jobs, queue) = mpsc::channel();
        let for_writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("metastore".to_owned())
            .spawn(move || writer::run(disk, &queue, &for_writer))?;
        Ok(Self { shared, jobs, ids: Arc::new(Mutex::new(ids)) })
    }

    /// The durable state of this moment.
    pub fn read(&self) -> Arc<State> {
        writer::read(&self.shared)
    }

    /// Takes the next id.
    pub fn reserve(&self) -> Reservation {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ids.next;
        ids.next += 1;
        ids.reserved.insert(id);
        Reservation { id, ids: Arc::clone(&self.ids) }
    }

    /// Whether a [`Reservation`] of that id is alive.
    pub fn is_reserved(&self, id: u64) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).reserved.contains(&id)
    }

    /// Records a new snapshot.
    pub async fn create(&self, new: Creation) -> Result<Arc<Snapshot>, Error> {
        self.change(|state| state.create(new)).await?
    }

    /// Records a lazy snapshot, what was learnt of its image, and as far as they are missing those of the layers `above` it, from the
    /// lowest: with one commit.
    pub async fn create_lazy(
        &self,
        (pin, learnt): (Pin, Learnt),
        new: Creation,
        above: Vec<Creation>,
    ) -> Result<Arc<Snapshot>, Error> {
        self.change(move |state| {
            let created = state.create(new);
            // Whoever comes second may know another place to fetch it from.
            if matches!(created, Ok(_) | Err(Error::AlreadyExists(_))) {
                state.learn(pin, learnt);
            }
            let created = created?;
            // Nobody has asked for them: one that cannot be made is the next call's matter.
            above.into_iter().try_for_each(|layer| state.complete(layer)).ok();
            Ok(created)
        })
        .await?
    }

    /// Renames an active snapshot to a committed one. Its labels are replaced, not inherited; a parent
    /// may be given only where Prepare had none.
    pub async fn commit(
        &self,
        key: String,
        name: String,
        parent: Option<String>,
        labels: Labels,
        usage: Usage,
    ) -> Result<Arc<Snapshot>, Error> {
        self.change(move |state| state.commit(&key, name, parent, labels, usage)).await?
    }

    /// Forgets a snapshot without children; returns what it was.
    pub async fn remove(&self, name: String) -> Result<Arc<Snapshot>, Error> {
        self.change(move |state| state.remove(&name)).await?
    }

    /// Changes labels by field mask.
    pub async fn update(
        &self,
        name: String,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<Arc<Snapshot>, Error> {
        self.change(move |state| state.update(&name, &labels, &paths)).await?
    }

    /// Records which index serves `pin`, and that `pin`'s repository is a source of its blobs, for a snapshot that is on record
    /// already.
    pub async fn learn(&self, pin: Pin, learnt: Learnt) -> Result<(), Error> {
        self.change(move |state| state.learn(pin, learnt)).await
    }

    /// Forgets an index unless a snapshot uses it; whether it was forgotten.
    pub async fn forget_index(&self, index: Digest) -> Result<bool, Error> {
        self.change(move |state| state.forget_index(index)).await
    }

    /// The index that was found for an image.
    pub fn pinned(&self, pin: &Pin) -> Option<Learnt> {
        self.read().catalog.pins.get(pin).copied()
    }

    /// Images for which this index was found.
    pub fn pins_of(&self, index: &Digest) -> Vec<Pin> {
        let catalog = &self.read().catalog;
        catalog.pins.iter().filter(|(_, learnt)| learnt.index == *index).map(|(pin, _)| pin.clone()).collect()
    }

    /// Repositories known to hold an index's converted layers.
    pub fn sources(&self, index: &Digest) -> BTreeSet<Repository> {
        self.read().catalog.sources.get(index).cloned().unwrap_or_default()
    }

    /// Runs `change` on the writer's state and waits until it is durable. Cancel-safe: once sent, the
    /// change happens whether or not the caller still waits.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job: writer::Job = Box::new(move |state| {
            let value = change(state);
            Box::new(move |durable: Result<(), Error>| {
                let _ = reply.send(durable.map(|()| value));
            })
        });
        self.jobs.send(job).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    match name.len() {
        0 => Err(Error::EmptyName),
        1..=NAME_MAX => Ok(()),
        len => Err(Error::NameTooLong(len)),
    }
}

fn check_labels(labels: &Labels) -> Result<(), Error> {
    match labels.iter().find(|(key, value)| key.len() + value.len() > LABEL_MAX) {
        Some((key, value)) => {
            Err(Error::LabelTooLong { key: key.chars().take(64).collect(), len: key.len() + value.len() })
        }
        None => Ok(()),
    }
}
