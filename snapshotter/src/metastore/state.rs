//! containerd's rules for snapshots, over records in memory. No I/O.
//!
//! Every method checks before it changes, so that a refused request leaves no trace; what it changed
//! it notes in `changes`, which the writer persists.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use jaunt_distribution::Repository;
use jaunt_formats::Digest;

use super::record::{Backing, Kind, Learnt, Snapshot};
use super::{Error, Labels, Pin};
use crate::lazy::{LazyChain, Usage};

/// Everything on record. Cloned for readers after each durable change: clones share the records.
#[derive(Clone, Default)]
pub struct State {
    pub(super) snapshots: BTreeMap<Arc<str>, Arc<Snapshot>>,
    /// Number of children by parent id.
    children: HashMap<u64, u32>,
    pub(super) next_id: u64,
    pub(super) catalog: Arc<Catalog>,
    pub(super) changes: Vec<Change>,
}

/// Which launch index serves which image, and where each index was learnt. Shared between clones of [`State`].
#[derive(Clone, Default)]
pub(super) struct Catalog {
    pub pins: HashMap<Pin, Learnt>,
    pub sources: HashMap<Digest, BTreeSet<Repository>>,
}

/// One row to write or delete.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Arc<Snapshot>),
    Delete(Arc<str>),
    NextId(u64),
    PutPin(Pin, Learnt),
    DeletePin(Pin),
    PutSources(Digest, BTreeSet<Repository>),
    DeleteSources(Digest),
}

/// What a new snapshot is to be.
pub struct Creation {
    /// Its key or name.
    pub name: String,
    /// An id from [`super::MetaStore::reserve`].
    pub id: u64,
    /// View, active, or (lazy) committed.
    pub kind: Kind,
    /// Parent's name.
    pub parent: Option<String>,
    /// Labels.
    pub labels: Labels,
    /// Eager, or the lazy chain it stands for.
    pub backing: Backing,
}

impl State {
    pub(super) fn insert_loaded(&mut self, snapshot: Snapshot) {
        self.next_id = self.next_id.max(snapshot.id + 1);
        self.snapshots.insert(snapshot.name.as_str().into(), Arc::new(snapshot));
    }

    /// Counts children once all snapshots are loaded.
    pub(super) fn link_loaded(&mut self) {
        self.children.clear();
        let parents: Vec<u64> =
            self.snapshots.values().filter_map(|s| self.find(s.parent.as_deref()?)).map(|p| p.id).collect();
        for parent in parents {
            *self.children.entry(parent).or_default() += 1;
        }
    }

    /// The snapshot of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Snapshot>> {
        self.snapshots.get(name)
    }

    /// The snapshot of that name, or [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<&Arc<Snapshot>, Error> {
        self.find(name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    /// All snapshots, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.snapshots.values()
    }

    /// A snapshot's ancestors, its parent first.
    pub fn ancestors(&self, snapshot: &Snapshot) -> Result<Vec<Arc<Snapshot>>, Error> {
        let mut chain = Vec::new();
        let mut next = snapshot.parent.as_deref();
        while let Some(name) = next {
            let parent = self.find(name).ok_or_else(|| Error::ParentNotFound(name.to_owned()))?;
            next = parent.parent.as_deref();
            chain.push(Arc::clone(parent));
        }
        Ok(chain)
    }

    /// A committed snapshot that may be a parent.
    pub fn parent(&self, name: &str) -> Result<&Arc<Snapshot>, Error> {
        let parent = self.find(name).ok_or_else(|| Error::ParentNotFound(name.to_owned()))?;
        match parent.kind {
            Kind::Committed => Ok(parent),
            kind => Err(Error::ParentNotCommitted { name: name.to_owned(), kind }),
        }
    }

    /// Every lazy chain on record.
    pub fn lazy_chains(&self) -> Vec<LazyChain> {
        self.all().filter_map(|snapshot| snapshot.lazy_chain()).collect()
    }

    /// The lazy chains that a container or a view is on, by id.
    pub fn used_chains(&self) -> HashSet<u64> {
        let on = |snapshot: &Arc<Snapshot>| {
            let ancestors = self.ancestors(snapshot).unwrap_or_default();
            ancestors.iter().find_map(|ancestor| ancestor.lazy_chain()).map(|chain| chain.snapshot_id)
        };
        self.all().filter(|snapshot| snapshot.kind != Kind::Committed).filter_map(on).collect()
    }

    /// Whether a snapshot with that id exists: a scan, for clean-up only.
    pub fn ids(&self) -> BTreeSet<u64> {
        self.all().map(|snapshot| snapshot.id).collect()
    }

    pub(super) fn create(&mut self, new: Creation) -> Result<Arc<Snapshot>, Error> {
        super::check_labels(&new.labels)?;
        super::check_name(&new.name)?;
        let parent_id = new.parent.as_deref().map(|name| self.parent(name)).transpose()?.map(|p| p.id);
        if self.find(&new.name).is_some() {
            return Err(Error::AlreadyExists(new.name));
        }
        let now = SystemTime::now();
        let snapshot = Arc::new(Snapshot {
            name: new.name,
            id: new.id,
            kind: new.kind,
            parent: new.parent,
            labels: without_empty(new.labels),
            created: now,
            updated: now,
            backing: new.backing,
            usage: Usage::default(),
        });
        if let Some(parent) = parent_id {
            *self.children.entry(parent).or_default() += 1;
        }
        self.next_id = self.next_id.max(new.id + 1);
        self.changes.push(Change::NextId(self.next_id));
        self.put(&snapshot);
        Ok(snapshot)
    }

    /// The same of a committed one, unless it is there.
    pub(super) fn complete(&mut self, new: Creation) -> Result<(), Error> {
        match self.find(&new.name) {
            Some(known) if known.kind == Kind::Committed && known.parent == new.parent => Ok(()),
            _ => self.create(new).map(drop),
        }
    }

    pub(super) fn commit(
        &mut self,
        key: &str,
        name: String,
        parent: Option<String>,
        labels: Labels,
        usage: Usage,
    ) -> Result<Arc<Snapshot>, Error> {
        super::check_labels(&labels)?;
        super::check_name(&name)?;
        if self.find(&name).is_some() {
            return Err(Error::AlreadyExists(name));
        }
        let active = Arc::clone(self.get(key)?);
        if active.kind != Kind::Active {
            return Err(Error::NotActive(key.to_owned()));
        }
        let parent = match (&active.parent, parent) {
            (Some(fixed), Some(asked)) if *fixed != asked => {
                return Err(Error::ParentFixed(key.to_owned()));
            }
            (None, Some(asked)) => {
                let id = self.parent(&asked)?.id;
                *self.children.entry(id).or_default() += 1;
                Some(asked)
            }
            (fixed, _) => fixed.clone(),
        };
        let now = SystemTime::now();
        let committed = Arc::new(Snapshot {
            name,
            kind: Kind::Committed,
            parent,
            labels: without_empty(labels),
            created: now,
            updated: now,
            usage,
            ..Snapshot::clone(&active)
        });
        self.delete(key);
        self.put(&committed);
        Ok(committed)
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<Arc<Snapshot>, Error> {
        let snapshot = Arc::clone(self.get(name)?);
        if self.children.contains_key(&snapshot.id) {
            return Err(Error::HasChildren(name.to_owned()));
        }
        if let Some(parent) = snapshot.parent.as_deref().and_then(|name| self.find(name)).map(|p| p.id)
            && let Some(count) = self.children.get_mut(&parent)
        {
            *count -= 1;
            if *count == 0 {
                self.children.remove(&parent);
            }
        }
        self.delete(name);
        Ok(snapshot)
    }

    /// `paths` are the field mask: none means every mutable field, which is the labels.
    pub(super) fn update(
        &mut self,
        name: &str,
        labels: &Labels,
        paths: &[String],
    ) -> Result<Arc<Snapshot>, Error> {
        super::check_labels(labels)?;
        let mut updated = Snapshot::clone(self.get(name)?);
        if paths.is_empty() {
            updated.labels.clone_from(labels);
        }
        for path in paths {
            if path == "labels" {
                updated.labels.clone_from(labels);
            } else if let Some(key) = path.strip_prefix("labels.") {
                updated.labels.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
            } else {
                return Err(Error::ImmutableField { field: path.clone(), name: name.to_owned() });
            }
        }
        updated.labels = without_empty(updated.labels);
        updated.updated = SystemTime::now();
        let updated = Arc::new(updated);
        self.put(&updated);
        Ok(updated)
    }

    pub(super) fn learn(&mut self, pin: Pin, learnt: Learnt) {
        let index = learnt.index;
        let catalog = Arc::make_mut(&mut self.catalog);
        let sources = catalog.sources.entry(index).or_default();
        if sources.insert(pin.repository.clone()) {
            self.changes.push(Change::PutSources(index, sources.clone()));
        }
        if catalog.pins.insert(pin.clone(), learnt) != Some(learnt) {
            self.changes.push(Change::PutPin(pin, learnt));
        }
    }

    /// Forgets an index that no snapshot uses; `false` when one does.
    pub(super) fn forget_index(&mut self, index: Digest) -> bool {
        if self.all().any(|s| matches!(s.backing, Backing::Lazy { index: used, .. } if used == index)) {
            return false;
        }
        let catalog = Arc::make_mut(&mut self.catalog);
        if catalog.sources.remove(&index).is_some() {
            self.changes.push(Change::DeleteSources(index));
        }
        let pins: Vec<Pin> =
            catalog.pins.iter().filter(|(_, of)| of.index == index).map(|(pin, _)| pin.clone()).collect();
        for pin in pins {
            catalog.pins.remove(&pin);
            self.changes.push(Change::DeletePin(pin));
        }
        true
    }

    fn put(&mut self, snapshot: &Arc<Snapshot>) {
        self.snapshots.insert(snapshot.name.as_str().into(), Arc::clone(snapshot));
        self.changes.push(Change::Put(Arc::clone(snapshot)));
    }

    fn delete(&mut self, name: &str) {
        if let Some((name, _)) = self.snapshots.remove_entry(name) {
            self.changes.push(Change::Delete(name));
        }
    }
}

/// containerd drops labels whose value is empty; that is how one is removed.
fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}
