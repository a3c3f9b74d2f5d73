//! Why the metastore refuses or fails.

use std::path::PathBuf;

use super::Kind;

/// A rule of containerd's snapshot model that a request breaks, or a failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such snapshot.
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    /// The name is taken.
    #[error("snapshot {0:?} already exists")]
    AlreadyExists(String),
    /// The parent named does not exist.
    #[error("parent snapshot {0:?} does not exist")]
    ParentNotFound(String),
    /// Only committed snapshots may be parents.
    #[error("parent {name:?} is {kind:?}, not committed", kind = .kind.as_str())]
    ParentNotCommitted {
        /// The parent.
        name: String,
        /// What it is.
        kind: Kind,
    },
    /// Only an active snapshot can be committed.
    #[error("snapshot {0:?} is not active")]
    NotActive(String),
    /// A committed snapshot has no mounts of its own.
    #[error("snapshot {0:?} is neither active nor a view")]
    NotMountable(String),
    /// A snapshot that others stand on stays.
    #[error("cannot remove snapshot {0:?}: it has children")]
    HasChildren(String),
    /// The parent was fixed by Prepare.
    #[error("cannot change the parent of snapshot {0:?} on commit")]
    ParentFixed(String),
    /// Only labels can be updated.
    #[error("cannot update field {field:?} of snapshot {name:?}")]
    ImmutableField {
        /// The field mask's path.
        field: String,
        /// The snapshot.
        name: String,
    },
    /// Empty where a name must be.
    #[error("a snapshot needs a name")]
    EmptyName,
    /// A name longer than containerd's own metadata allows.
    #[error("a snapshot's name of {0} bytes is longer than {max}", max = super::NAME_MAX)]
    NameTooLong(usize),
    /// A label longer than containerd allows.
    #[error("label {key:?} of {len} bytes is longer than {max}", max = super::LABEL_MAX)]
    LabelTooLong {
        /// Its key, shortened.
        key: String,
        /// Key and value together.
        len: usize,
    },
    /// The database cannot be opened.
    #[error("cannot open the metadata store {path}", path = .path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record on disk is not what this version writes.
    #[error("metadata store: record {key:?} of table {table} cannot be read")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The record's key.
        key: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A change could not be made durable; nothing of it was kept.
    #[error("metadata store: cannot write")]
    Write(#[source] std::sync::Arc<dyn std::error::Error + Send + Sync>),
    /// The store is closing.
    #[error("metadata store: closed")]
    Closed,
}
