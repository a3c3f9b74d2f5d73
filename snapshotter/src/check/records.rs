//! What is on record: from the database, or from the daemon that has it open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jaunt_formats::{ChainId, Digest};

use super::finding::{Action, Code, Finding, Remedy};
use super::layout::Layout;
use crate::fallback::error_chain;
use crate::metastore::{self, Backing, Kind, Rows, Table};
use crate::proto::jaunt::status::v1 as api;

/// One snapshot, as far as a check needs it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub name: String,
    pub id: u64,
    pub kind: Kind,
    pub parent: Option<String>,
    pub lazy: Option<Lazy>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lazy {
    pub index: Digest,
    pub prefix: u16,
    pub chain_id: ChainId,
}

/// All of them, by name.
#[derive(Default)]
pub(super) struct Records {
    pub by_name: BTreeMap<String, Record>,
    /// Whether these are all: what none of them has is then nobody's.
    pub is_whole: bool,
    /// Indexes whose repositories are known, if that was asked.
    pub sources: Option<BTreeSet<Digest>>,
}

impl Records {
    /// Those of a database, and what is wrong with it. None, if it cannot be told what is on record.
    pub fn read(layout: &Layout, findings: &mut Vec<Finding>) -> Option<Self> {
        let database = layout.database();
        let what = database.display().to_string();
        let aside = |mut actions: Vec<Action>| {
            actions.push(Action::MoveAside(layout.snapshots()));
            Remedy::GiveUp(actions)
        };
        if !database.exists() {
            let any = super::layout::children(&layout.snapshots()).is_ok_and(|found| !found.is_empty());
            if any {
                let detail = "it is gone, and a daemon would delete all snapshots as strays".to_owned();
                findings.push(Finding {
                    code: Code::DatabaseMissing,
                    what,
                    detail,
                    remedy: aside(Vec::new()),
                });
                return None;
            }
            return Some(Self { sources: Some(BTreeSet::new()), ..Self::default() });
        }
        match inspect(&database) {
            Ok(rows) => Some(Self::of_rows(rows, findings)),
            Err(detail) => {
                let remedy = aside(vec![Action::MoveAside(database)]);
                findings.push(Finding { code: Code::DatabaseUnreadable, what, detail, remedy });
                None
            }
        }
    }

    /// Those that a daemon tells.
    pub fn told(status: &api::GetResponse) -> Self {
        let by_name = status.snapshots.iter().filter_map(|told| {
            let kind =
                [Kind::View, Kind::Active, Kind::Committed].into_iter().find(|k| k.as_str() == told.kind)?;
            let lazy = match told.backing.as_str() {
                "lazy" => Some(Lazy {
                    index: told.index.parse().ok()?,
                    prefix: u16::try_from(told.prefix).ok()?,
                    chain_id: ChainId(told.chain_id.parse().ok()?),
                }),
                _ => None,
            };
            let parent = Some(told.parent.clone()).filter(|parent| !parent.is_empty());
            let (name, id) = (told.name.clone(), told.id);
            Some((name.clone(), Record { name, id, kind, parent, lazy }))
        });
        let by_name: BTreeMap<_, _> = by_name.collect();
        let is_whole = by_name.len() == status.snapshots.len();
        Self { by_name, is_whole, sources: None }
    }

    fn of_rows(rows: Rows, findings: &mut Vec<Finding>) -> Self {
        let is_whole = !rows.unread.iter().any(|(table, ..)| *table == Table::Snapshots);
        for (table, key, error) in rows.unread {
            let drop = vec![Action::Drop(table, key.clone())];
            let remedy = match table {
                Table::Snapshots => Remedy::GiveUp(drop),
                // What was found before, to be found again with the next pull.
                Table::Pins | Table::Sources => Remedy::Safe(drop),
            };
            let detail = format!("record in the {}: {}", table.name(), error_chain(&*error));
            findings.push(Finding { code: Code::RecordUnreadable, what: key, detail, remedy });
        }
        let by_name = rows.snapshots.into_iter().map(|snapshot| {
            let lazy = match snapshot.backing {
                Backing::Eager => None,
                Backing::Lazy { chain_id, index, prefix } => Some(Lazy { index, prefix, chain_id }),
            };
            let metastore::Snapshot { name, id, kind, parent, .. } = snapshot;
            (name.clone(), Record { name, id, kind, parent, lazy })
        });
        Self { by_name: by_name.collect(), is_whole, sources: Some(rows.sources.into_iter().collect()) }
    }

    /// Whether names, parents and ids make sense.
    pub fn check(&self, findings: &mut Vec<Finding>) {
        let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
        for record in self.by_name.values() {
            if let Some(other) = ids.insert(record.id, &record.name) {
                let detail = format!("its id {} is also that of {other:?}", record.id);
                findings.push(Finding {
                    code: Code::IdTwice,
                    what: record.name.clone(),
                    detail,
                    remedy: Remedy::None,
                });
            }
            if let Some((code, detail)) = self.wrong_parent(record) {
                let remedy = Remedy::GiveUp(vec![Action::Drop(Table::Snapshots, record.name.clone())]);
                let detail = format!("{detail}{}", self.standing_on(&record.name));
                findings.push(Finding { code, what: record.name.clone(), detail, remedy });
            }
        }
    }

    /// How many snapshots would go with one, in words.
    pub fn standing_on(&self, name: &str) -> String {
        let stands =
            |record: &&Record| record.name != name && self.ancestors(record).any(|below| below.name == name);
        match self.by_name.values().filter(stands).count() {
            0 => String::new(),
            count => format!("; {count} snapshots stand on it"),
        }
    }

    /// A record's ancestors, its parent first; each once, should they form a ring.
    fn ancestors<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a Record> {
        let mut seen = BTreeSet::new();
        std::iter::successors(self.parent(record), |below| self.parent(below))
            .take_while(move |below| seen.insert(&below.name))
    }

    fn parent(&self, record: &Record) -> Option<&Record> {
        self.by_name.get(record.parent.as_deref()?)
    }

    fn wrong_parent(&self, record: &Record) -> Option<(Code, String)> {
        let name = record.parent.as_deref()?;
        match self.by_name.get(name) {
            None => Some((Code::ParentMissing, format!("its parent {name:?} is not on record"))),
            Some(parent) if parent.kind != Kind::Committed => {
                Some((Code::ParentNotCommitted, format!("its parent {name:?} is {}", parent.kind.as_str())))
            }
            Some(_) if self.ancestors(record).any(|below| below.name == record.name) => {
                Some((Code::ParentRing, "it stands on itself".to_owned()))
            }
            Some(_) => None,
        }
    }
}

/// A database may be damaged in ways that its reader does not expect.
fn inspect(database: &Path) -> Result<Rows, String> {
    match std::panic::catch_unwind(|| metastore::inspect(database)) {
        Ok(rows) => rows.map_err(|error| error_chain(&error)),
        Err(_) => Err("it is damaged: its reader gave up".to_owned()),
    }
}
