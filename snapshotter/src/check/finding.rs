//! What a check finds, and what can be done about it.

use std::fmt;
use std::path::{Path, PathBuf};

use jaunt_formats::Digest;

use crate::metastore::Table;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something that was promised does not hold.
    Fault,
    /// Room that is lost, or what the daemon puts right by itself.
    Minor,
}

/// Kinds of findings. Their words, [`Code::as_str`], are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The database is gone, and snapshots are there.
    DatabaseMissing,
    /// The database is damaged beyond what it repairs by itself.
    DatabaseUnreadable,
    /// A record of it is no record of this version.
    RecordUnreadable,
    /// Two snapshots have one id, and so one directory.
    IdTwice,
    /// A snapshot's parent is not on record.
    ParentMissing,
    /// A snapshot's parent is not committed.
    ParentNotCommitted,
    /// A snapshot stands on itself.
    ParentRing,
    /// An unpacked snapshot's files are gone.
    FilesMissing,
    /// A writable snapshot's work directory is gone.
    WorkMissing,
    /// A lazy snapshot's launch index is gone.
    IndexMissing,
    /// A launch index is not what was written.
    IndexDamaged,
    /// A lazy snapshot is not the chain that its index has.
    ChainMismatch,
    /// No repository is known that has an index's layers.
    SourcesMissing,
    /// An index in use is in quarantine.
    Quarantined,
    /// A layer's record of what is present is no such record.
    LayerRecord,
    /// A layer is marked complete and is not.
    LayerIncomplete,
    /// A layer's bytes are not what was written, and the kernel may read them unchecked.
    LayerDamaged,
    /// The same, of a layer that is checked with every read.
    LayerStale,
    /// A metadata image is not what was written.
    ImageDamaged,
    /// A directory of no snapshot.
    StrayDirectory,
    /// A file that nothing of Jaunt's made.
    Unknown,
    /// A snapshot that was removed, and whose files were not.
    Discarded,
    /// A launch index that no snapshot has.
    UnusedIndex,
    /// A layer that no snapshot has.
    UnusedLayer,
    /// A metadata image of no snapshot.
    UnusedImage,
    /// What an interrupted write has left.
    LeftOver,
    /// A mount, or the record of one, of no snapshot.
    StrayMount,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which kind.
    pub code: Code,
    /// The snapshot, index, or path.
    pub what: String,
    /// In words.
    pub detail: String,
    /// What can be done.
    pub remedy: Remedy,
}

/// What can be done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing that a check could do.
    None,
    /// This, and nothing is lost by it.
    Safe(Vec<Action>),
    /// This, and containerd loses what it was promised: it must pull again.
    GiveUp(Vec<Action>),
}

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drops a record.
    Drop(Table, String),
    /// Removes a file, or a directory with all that is in it.
    Remove(PathBuf),
    /// Moves a file or directory to a name beside it.
    MoveAside(PathBuf),
    /// Makes a work directory.
    MakeWork(PathBuf),
    /// Takes a layer's damaged bytes away: they are fetched again.
    Mend {
        /// An index that has it.
        index: Digest,
        /// Its number there.
        layer: usize,
    },
}

impl Code {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DatabaseMissing => "database-missing",
            Self::DatabaseUnreadable => "database-unreadable",
            Self::RecordUnreadable => "record-unreadable",
            Self::IdTwice => "id-twice",
            Self::ParentMissing => "parent-missing",
            Self::ParentNotCommitted => "parent-not-committed",
            Self::ParentRing => "parent-ring",
            Self::FilesMissing => "files-missing",
            Self::WorkMissing => "work-missing",
            Self::IndexMissing => "index-missing",
            Self::IndexDamaged => "index-damaged",
            Self::ChainMismatch => "chain-mismatch",
            Self::SourcesMissing => "sources-missing",
            Self::Quarantined => "quarantined",
            Self::LayerRecord => "layer-record",
            Self::LayerIncomplete => "layer-incomplete",
            Self::LayerDamaged => "layer-damaged",
            Self::LayerStale => "layer-stale",
            Self::ImageDamaged => "image-damaged",
            Self::StrayDirectory => "stray-directory",
            Self::Unknown => "unknown",
            Self::Discarded => "discarded",
            Self::UnusedIndex => "unused-index",
            Self::UnusedLayer => "unused-layer",
            Self::UnusedImage => "unused-image",
            Self::LeftOver => "left-over",
            Self::StrayMount => "stray-mount",
        }
    }

    /// How bad it is.
    pub const fn level(self) -> Level {
        match self {
            Self::LayerStale
            | Self::LayerRecord
            | Self::ImageDamaged
            | Self::StrayDirectory
            | Self::Unknown
            | Self::Discarded
            | Self::UnusedIndex
            | Self::UnusedLayer
            | Self::UnusedImage
            | Self::LeftOver
            | Self::StrayMount => Level::Minor,
            _ => Level::Fault,
        }
    }
}

impl Level {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Minor => "minor",
        }
    }
}

impl Finding {
    /// Something that is left alone.
    pub fn unknown(path: &Path, detail: &str) -> Self {
        let (what, detail) = (path.display().to_string(), detail.to_owned());
        Self { code: Code::Unknown, what, detail, remedy: Remedy::None }
    }

    /// Whether another look found the same.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.code, &self.what) == (other.code, &other.what)
    }

    /// Of what no snapshot has: the record that cannot be read may be of one that has it. What a container may have
    /// written is kept whatever is given up.
    pub fn may_be_somebodys(&mut self) {
        let remedy = match (self.code, &self.remedy) {
            (Code::StrayDirectory, Remedy::Safe(actions)) => {
                let aside = |action: &Action| match action {
                    Action::Remove(path) => Action::MoveAside(path.clone()),
                    other => other.clone(),
                };
                Remedy::GiveUp(actions.iter().map(aside).collect())
            }
            (
                Code::Discarded
                | Code::UnusedIndex
                | Code::UnusedLayer
                | Code::UnusedImage
                | Code::LeftOver
                | Code::StrayMount,
                _,
            ) => Remedy::None,
            _ => return,
        };
        self.remedy = remedy;
        self.detail.push_str("; it is not known whose it is, as not all records can be read");
    }
}

impl Remedy {
    /// Its steps.
    pub fn actions(&self) -> &[Action] {
        match self {
            Self::None => &[],
            Self::Safe(actions) | Self::GiveUp(actions) => actions,
        }
    }

    /// The word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Safe(_) => "repair",
            Self::GiveUp(_) => "give-up",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop(table, key) => write!(f, "drop {key:?} from the {}", table.name()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::MoveAside(path) => write!(f, "move {} aside", path.display()),
            Self::MakeWork(path) => write!(f, "make {}", path.display()),
            Self::Mend { index, layer } => {
                write!(f, "take away what is damaged of layer {layer} of {index}, to be fetched again")
            }
        }
    }
}
