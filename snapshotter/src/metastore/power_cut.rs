//! The store over a disk that loses what was not synced: what a caller was told survives, whatever else does.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use redb::{Database, StorageBackend};

use super::*;

/// A disk with a cache of writes that a power cut empties, in part.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// What readers see.
    seen: Vec<u8>,
    /// What is on it for good.
    durable: Vec<u8>,
    /// Since the last sync, in order.
    cached: Vec<Write>,
    /// How often it was written to, or synced.
    written: usize,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

/// More than a change writes and syncs.
const WRITES: u64 = 16;
/// What a disk writes whole.
const SECTOR: usize = 512;

impl Write {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, bytes) => {
                to.resize(to.len().max(offset + bytes.len()), 0);
                to[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::Len(len) => to.resize(*len, 0),
        }
    }

    /// The same, in the parts that may be lost one by one.
    fn sectors(&self) -> Vec<Self> {
        match self {
            Self::Bytes(offset, bytes) => {
                let parts = bytes.chunks(SECTOR).enumerate();
                parts.map(|(n, part)| Self::Bytes(offset + n * SECTOR, part.to_vec())).collect()
            }
            Self::Len(_) => vec![self.clone()],
        }
    }
}

impl Disk {
    /// What is left after a cut in which `survives` decides for each sector of the cache.
    fn after_cut(&self, mut survives: impl FnMut() -> bool) -> Self {
        let platter = self.0.lock().unwrap();
        let mut left = platter.durable.clone();
        for write in platter.cached.iter().flat_map(Write::sectors) {
            // A length is the file system's own, whose journal keeps it.
            if matches!(write, Write::Len(_)) || survives() {
                write.apply(&mut left);
            }
        }
        Self(Arc::new(Mutex::new(Platter {
            seen: left.clone(),
            durable: left,
            cached: Vec::new(),
            written: 0,
        })))
    }

    fn note(&self, write: Write) {
        let mut platter = self.0.lock().unwrap();
        write.apply(&mut platter.seen);
        platter.cached.push(write);
        platter.written += 1;
    }

    fn open(&self) -> MetaStore {
        let db = Database::builder().create_with_backend(self.clone()).unwrap();
        let (disk, state) = writer::Disk::over(db, Path::new("memory")).unwrap();
        MetaStore::start(disk, state).unwrap()
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let bytes = platter.seen.get(place(offset)..place(offset) + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Write::Len(place(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.durable = platter.seen.clone();
        platter.cached.clear();
        platter.written += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Write::Bytes(place(offset), data.to_vec()));
        Ok(())
    }
}

/// xorshift64: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn creation(store: &MetaStore, name: String) -> Creation {
    let (kind, backing) = (Kind::Active, Backing::Eager);
    Creation { name, id: store.reserve().id(), kind, parent: None, labels: Labels::new(), backing }
}

fn names(store: &MetaStore) -> BTreeSet<String> {
    store.read().all().map(|snapshot| snapshot.name.clone()).collect()
}

/// Some changes, then a cut while another one is under way, and so on over what is left.
#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    for seed in 1..=40_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut disk = Disk::default();
        let mut told = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for cut in 0..6 {
            let store = disk.open();
            let on_disk = names(&store);
            assert!(on_disk.is_superset(&told), "seed {seed}, cut {cut}: {on_disk:?} of {told:?}");
            // A change that was under way may be there as well; nothing that was removed is.
            let (half_made, more): (Vec<_>, Vec<_>) =
                on_disk.difference(&told).partition(|name| name.starts_with("under-way"));
            assert!(more.is_empty(), "seed {seed}, cut {cut}: {more:?} is back");
            for name in half_made {
                store.remove(name.clone()).await.unwrap();
            }
            for n in 0..dice.below(5) {
                let made = store.create(creation(&store, format!("{cut}-{n}"))).await.unwrap();
                assert!(ids.insert(made.id), "seed {seed}: id {} given twice", made.id);
                told.insert(made.name.clone());
            }
            if let Some(name) = told.iter().nth(place(dice.below(8))).cloned() {
                store.remove(name.clone()).await.unwrap();
                told.remove(&name);
            }
            let under_way = creation(&store, format!("under-way-{cut}"));
            let writing = tokio::spawn({
                let store = store.clone();
                async move { store.create(under_way).await }
            });
            for _ in 0..dice.below(4) {
                tokio::task::yield_now().await;
            }
            disk = disk.after_cut(|| dice.below(2) == 0);
            let _ = writing.await;
        }
    }
}

/// What a store has of a change that may or may not have got to the disk: all of before, or all of after.
#[derive(Clone, Copy, Debug)]
enum Change {
    Remove,
    Commit,
    Update,
}

/// The names there are, and the labels of the one that is updated.
fn seen(store: &MetaStore) -> (BTreeSet<String>, Labels) {
    let updated = store.read().all().find(|snapshot| snapshot.name == "updated").map(|it| it.labels.clone());
    (names(store), updated.unwrap_or_default())
}

/// Removals, commits (which give another name) and updates: whole or not at all, and whole once they were acknowledged.
#[tokio::test]
async fn a_change_that_a_power_cut_interrupts_is_whole_or_not_there() {
    let (mut whole, mut none) = (0, 0);
    for seed in 1..=120_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let disk = Disk::default();
        let store = disk.open();
        for name in ["kept", "removed", "active", "updated"] {
            store.create(creation(&store, name.to_owned())).await.unwrap();
        }
        let change = [Change::Remove, Change::Commit, Change::Update][place(dice.below(3))];
        let on_disk = disk.0.lock().unwrap().written;
        let labels = Labels::from([("key".to_owned(), "value".to_owned())]);
        let before = seen(&store);
        let mut after = before.clone();
        match change {
            Change::Remove => drop(after.0.remove("removed")),
            Change::Commit => {
                after.0.remove("active");
                after.0.insert("committed".to_owned());
            }
            Change::Update => after.1 = labels.clone(),
        }
        let writing = tokio::spawn({
            let store = store.clone();
            async move {
                let name = |name: &str| name.to_owned();
                match change {
                    Change::Remove => store.remove(name("removed")).await.map(drop),
                    Change::Commit => store
                        .commit(name("active"), name("committed"), None, Labels::new(), Usage::default())
                        .await
                        .map(drop),
                    Change::Update => {
                        store.update(name("updated"), labels, vec![name("labels")]).await.map(drop)
                    }
                }
            }
        });
        let under_way = place(dice.below(WRITES));
        while !writing.is_finished() && disk.0.lock().unwrap().written < on_disk + under_way {
            tokio::task::yield_now().await;
        }
        let acknowledged = writing.is_finished();
        let left = seen(&disk.after_cut(|| dice.below(2) == 0).open());
        assert!(left == after || (!acknowledged && left == before), "seed {seed}, {change:?}: {left:?}");
        *(if left == after { &mut whole } else { &mut none }) += 1;
        writing.await.unwrap().unwrap();
        let left = seen(&disk.after_cut(|| dice.below(2) == 0).open());
        assert!(left == after, "seed {seed}, {change:?} was acknowledged: {left:?}");
    }
    assert!(whole > 0 && none > 0, "{whole} whole, {none} not there: no cut was in the middle");
}
