//! The database looked at by itself: every row, whether it can be read or not, and none of it changed.
//!
//! The file is read into memory and opened there, for a database that was not closed is repaired by opening it.

use std::path::Path;

use jaunt_formats::Digest;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend as _, TableDefinition};

use super::record::{Learnt, Snapshot};
use super::writer::{COUNTERS, NEXT_ID, PINS, SNAPSHOTS, SOURCES, digest_of_hex};
use super::{Error, Pin};

/// Something that a row should have been.
pub type Unread = Box<dyn std::error::Error + Send + Sync>;

type Take<'t> = &'t mut dyn FnMut(&str, &[u8]) -> Result<(), Unread>;

/// A table whose rows can be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Snapshots by name.
    Snapshots,
    /// Which index was found for an image.
    Pins,
    /// Where an index's layers are.
    Sources,
}

impl Table {
    /// Its name, as errors tell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshots => "snapshots",
            Self::Pins => "pins",
            Self::Sources => "sources",
        }
    }

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Snapshots => SNAPSHOTS,
            Self::Pins => PINS,
            Self::Sources => SOURCES,
        }
    }
}

/// Everything in a database.
#[derive(Default)]
pub struct Rows {
    /// Snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Indexes that were found for images.
    pub pins: Vec<(Pin, Learnt)>,
    /// Indexes whose repositories are known.
    pub sources: Vec<Digest>,
    /// Rows that cannot be read.
    pub unread: Vec<(Table, String, Unread)>,
    /// The id that the next snapshot gets at least.
    pub next_id: u64,
}

/// Reads all of a database that nobody has open. Blocking.
///
/// # Errors
/// The file cannot be read, or is damaged beyond what the database repairs by itself.
pub fn inspect(path: &Path) -> Result<Rows, Error> {
    let failed = |source: redb::Error| Error::Open { path: path.to_owned(), source: Box::new(source) };
    let db = in_memory(path).map_err(failed)?;
    let mut rows = Rows::default();
    let mut unread = Vec::new();
    let mut each = |table: Table, take: Take<'_>| {
        scan(&db, table, |key, value| {
            if let Err(error) = take(key, value) {
                unread.push((table, key.to_owned(), error));
            }
        })
    };
    each(Table::Snapshots, &mut |key, value| {
        let snapshot: Snapshot = serde_json::from_slice(value)?;
        if snapshot.name != key {
            return Err(format!("it is a record of {:?}", snapshot.name).into());
        }
        rows.snapshots.push(snapshot);
        Ok(())
    })
    .map_err(failed)?;
    each(Table::Pins, &mut |key, value| {
        rows.pins.push((key.parse()?, serde_json::from_slice(value)?));
        Ok(())
    })
    .map_err(failed)?;
    each(Table::Sources, &mut |key, value| {
        let names: Vec<String> = serde_json::from_slice(value)?;
        names.iter().try_for_each(|name| name.parse::<jaunt_distribution::Repository>().map(drop))?;
        rows.sources.push(digest_of_hex(key)?);
        Ok(())
    })
    .map_err(failed)?;
    rows.next_id = next_id(&db).map_err(failed)?;
    rows.unread = unread;
    Ok(rows)
}

/// What rows of a database that nobody has open hold. Blocking.
///
/// # Errors
/// The file cannot be read.
pub fn read_rows(path: &Path, rows: &[(Table, String)]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let failed = |source: redb::Error| Error::Open { path: path.to_owned(), source: Box::new(source) };
    let db = in_memory(path).map_err(failed)?;
    rows.iter().map(|(table, key)| read_row(&db, *table, key).map_err(failed)).collect()
}

fn read_row(db: &Database, table: Table, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = db.begin_read()?.open_table(table.definition())?;
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

/// Drops rows, all of them or none. Blocking.
///
/// # Errors
/// The database is in use, or cannot be written.
pub fn drop_rows(path: &Path, rows: &[(Table, String)]) -> Result<(), Error> {
    let failed = |source: redb::Error| Error::Open { path: path.to_owned(), source: Box::new(source) };
    try_drop(path, rows).map_err(failed)
}

fn try_drop(path: &Path, rows: &[(Table, String)]) -> Result<(), redb::Error> {
    let db = Database::open(path)?;
    let transaction = db.begin_write()?;
    for (table, key) in rows {
        transaction.open_table(table.definition())?.remove(key.as_str())?;
    }
    transaction.commit()?;
    Ok(())
}

fn in_memory(path: &Path) -> Result<Database, redb::Error> {
    let bytes = std::fs::read(path)?;
    let backend = redb::backends::InMemoryBackend::new();
    backend.set_len(bytes.len() as u64)?;
    backend.write(0, &bytes)?;
    let mut db = Database::builder().create_with_backend(backend)?;
    // Every page is compared with its checksum; what a crash left half done is rolled back.
    db.check_integrity()?;
    Ok(db)
}

fn scan(db: &Database, table: Table, mut take: impl FnMut(&str, &[u8])) -> Result<(), redb::Error> {
    let rows = match db.begin_read()?.open_table(table.definition()) {
        // Of a daemon that was killed before it had made it.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        rows => rows?,
    };
    for row in rows.iter()? {
        let (key, value) = row?;
        take(key.value(), value.value());
    }
    Ok(())
}

fn next_id(db: &Database) -> Result<u64, redb::Error> {
    match db.begin_read()?.open_table(COUNTERS) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        counters => Ok(counters?.get(NEXT_ID)?.map_or(0, |value| value.value())),
    }
}
