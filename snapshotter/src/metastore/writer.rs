//! The one thread that changes the metastore, and the database beneath it.
//!
//! Requests are closures over [`State`], run in order. Those that wait together share one redb
//! transaction, so that one fsync acknowledges them all; none is answered, and no reader sees its
//! effect, before it is durable. A plain durable commit costs one fdatasync, what an append to a log would:
//! measured 0.28 ms on an idle disk, 4 ms on a busy one. `quick_repair` costs two; `Durability::None`, 0.02 ms,
//! loses acknowledged records with the process, and `kill -9` is to cost nothing.
//!
//! When a commit fails (a full disk), its requests fail, and the database, which redb does not use any
//! more after an I/O error, is opened and read anew for the next ones.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, mpsc};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;

use super::state::{Change, State};
use super::{Error, Pin};
use crate::fallback::error_chain;

pub(super) const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots.v1");
pub(super) const PINS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pins.v1");
pub(super) const SOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sources.v1");
pub(super) const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters.v1");
pub(super) const NEXT_ID: &str = "next_id";

/// Requests that share a commit, at most: bounds how long the first of them waits.
const BATCH_MAX: usize = 256;

/// A request to the writer: runs on the state, then learns whether that became durable.
pub(super) type Job = Box<dyn FnOnce(&mut State) -> Done + Send>;
/// Called once the job's batch is durable, or not.
pub(super) type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The database's file: open, or to be opened again.
pub(super) struct Disk {
    path: PathBuf,
    db: Option<Database>,
}

type Failed = Arc<dyn std::error::Error + Send + Sync>;

impl Disk {
    /// Opens the database, which is made if there is none, and reads everything in it.
    pub fn open(path: &Path) -> Result<(Self, State), Error> {
        let missing = std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if missing {
            create(path).map_err(|source| Error::Open { path: path.to_owned(), source: Box::new(source) })?;
        }
        Self::open_existing(path)
    }

    fn open_existing(path: &Path) -> Result<(Self, State), Error> {
        let opened = || {
            let failed =
                |source: redb::Error| Error::Open { path: path.to_owned(), source: Box::new(source) };
            Self::over(Database::open(path).map_err(|error| failed(error.into()))?, path)
        };
        // A damaged file must be an error that says so, whatever it makes the library do.
        std::panic::catch_unwind(opened).unwrap_or_else(|_| {
            let source = redb::Error::Corrupted("the database library gave up on it".to_owned());
            Err(Error::Open { path: path.to_owned(), source: Box::new(source) })
        })
    }

    /// Reads everything in `db`.
    pub(super) fn over(db: Database, path: &Path) -> Result<(Self, State), Error> {
        create_tables(&db)
            .map_err(|source| Error::Open { path: path.to_owned(), source: Box::new(source) })?;
        let state = load(&db)?;
        Ok((Self { path: path.to_owned(), db: Some(db) }, state))
    }

    /// What is on disk, if the database had to be opened anew.
    fn recover(&mut self) -> Result<Option<State>, Error> {
        if self.db.is_some() {
            return Ok(None);
        }
        let (disk, state) = Self::open_existing(&self.path)?;
        *self = disk;
        tracing::info!("metadata store: writable again");
        Ok(Some(state))
    }

    fn persist(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        match &self.db {
            _ if changes.is_empty() => Ok(()),
            Some(db) => persist(db, changes).inspect_err(|_| self.db = None),
            None => Err(redb::Error::DatabaseClosed),
        }
    }
}

/// Serves jobs until every sender is gone.
pub(super) fn run(mut disk: Disk, jobs: &mpsc::Receiver<Job>, shared: &RwLock<Arc<State>>) {
    let mut state = State::clone(&read(shared));
    while let Ok(first) = jobs.recv() {
        let recovered = disk.recover().map(|on_disk| {
            if let Some(on_disk) = on_disk {
                publish(shared, &on_disk);
                state = on_disk;
            }
        });
        let batch = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1));
        let done: Vec<Done> = batch.map(|job| job(&mut state)).collect();
        let changes = std::mem::take(&mut state.changes);
        let written: Result<(), Failed> = match recovered {
            Ok(()) => disk.persist(&changes).map_err(|error| Arc::new(error) as Failed),
            Err(error) => Err(Arc::new(error)),
        };
        match &written {
            Ok(()) if changes.is_empty() => {}
            Ok(()) => publish(shared, &state),
            Err(error) => {
                tracing::error!(error = error_chain(error), "metadata store: changes were not written");
                state = State::clone(&read(shared));
            }
        }
        for done in done {
            done(written.clone().map_err(Error::Write));
        }
    }
}

pub(super) fn read(shared: &RwLock<Arc<State>>) -> Arc<State> {
    Arc::clone(&shared.read().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn publish(shared: &RwLock<Arc<State>>, state: &State) {
    let published = Arc::new(state.clone());
    *shared.write().unwrap_or_else(std::sync::PoisonError::into_inner) = published;
}

/// Makes an empty database, there whole or not at all: an empty file in its place is damage, not a beginning.
fn create(path: &Path) -> Result<(), redb::Error> {
    let new = path.with_extension("new");
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error.into());
    }
    create_tables(&Database::create(&new)?)?;
    std::fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?)
}

fn create_tables(db: &Database) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    for table in [SNAPSHOTS, PINS, SOURCES] {
        transaction.open_table(table)?;
    }
    transaction.open_table(COUNTERS)?;
    transaction.commit()?;
    Ok(())
}

fn persist(db: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut snapshots = transaction.open_table(SNAPSHOTS)?;
        let mut pins = transaction.open_table(PINS)?;
        let mut sources = transaction.open_table(SOURCES)?;
        let mut counters = transaction.open_table(COUNTERS)?;
        for change in changes {
            match change {
                Change::Put(snapshot) => {
                    snapshots.insert(snapshot.name.as_str(), encode(&**snapshot)?.as_slice())?;
                }
                Change::Delete(name) => {
                    snapshots.remove(&**name)?;
                }
                Change::NextId(next) => {
                    counters.insert(NEXT_ID, next)?;
                }
                Change::PutPin(pin, learnt) => {
                    pins.insert(pin.to_string().as_str(), encode(learnt)?.as_slice())?;
                }
                Change::DeletePin(pin) => {
                    pins.remove(pin.to_string().as_str())?;
                }
                Change::PutSources(index, repositories) => {
                    let names: Vec<_> = repositories.iter().map(ToString::to_string).collect();
                    sources.insert(index.hex().as_str(), encode(&names)?.as_slice())?;
                }
                Change::DeleteSources(index) => {
                    sources.remove(index.hex().as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

fn load(db: &Database) -> Result<State, Error> {
    let mut state = State::default();
    each(db, SNAPSHOTS, "snapshots", |_, snapshot| {
        state.insert_loaded(snapshot);
        Ok(())
    })?;
    state.link_loaded();
    let catalog = Arc::make_mut(&mut state.catalog);
    each(db, PINS, "pins", |key, learnt| {
        catalog.pins.insert(key.parse::<Pin>()?, learnt);
        Ok(())
    })?;
    each(db, SOURCES, "sources", |key, names: Vec<String>| {
        let repositories = names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        catalog.sources.insert(digest_of_hex(key)?, repositories);
        Ok(())
    })?;
    let counted = next_id(db).map_err(|error| Error::Write(Arc::new(error)))?;
    state.next_id = state.next_id.max(counted).max(1);
    Ok(state)
}

fn next_id(db: &Database) -> Result<u64, redb::Error> {
    let counters = db.begin_read()?.open_table(COUNTERS)?;
    Ok(counters.get(NEXT_ID)?.map_or(0, |value| value.value()))
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn digest_of_hex(hex: &str) -> Result<jaunt_formats::Digest, Boxed> {
    Ok(format!("sha256:{hex}").parse()?)
}

fn each<T: DeserializeOwned>(
    db: &Database,
    table: TableDefinition<'_, &str, &[u8]>,
    name: &'static str,
    mut take: impl FnMut(&str, T) -> Result<(), Boxed>,
) -> Result<(), Error> {
    let unread =
        |error: redb::Error| Error::Corrupt { table: name, key: String::new(), source: error.into() };
    let rows =
        db.begin_read().map_err(|e| unread(e.into()))?.open_table(table).map_err(|e| unread(e.into()))?;
    for row in rows.iter().map_err(|e| unread(e.into()))? {
        let (key, value) = row.map_err(|e| unread(e.into()))?;
        let corrupt = |source| Error::Corrupt { table: name, key: key.value().to_owned(), source };
        let value = serde_json::from_slice(value.value()).map_err(|error| corrupt(error.into()))?;
        take(key.value(), value).map_err(corrupt)?;
    }
    Ok(())
}
