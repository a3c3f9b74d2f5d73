//! What stands under each name of each directory: one table for all directories, found by directory and name, and
//! listed by directory.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use hashbrown::HashTable;

use super::number;
use super::pool::{Text, Texts};

/// Ends a directory's list.
const END: u32 = u32::MAX;

/// A name of a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<V> {
    pub name: Text,
    dir: u32,
    /// The slot that was added to the directory before.
    next: u32,
    pub value: V,
}

pub(super) struct Names<V> {
    slots: Vec<Slot<V>>,
    /// The slot that was last added to each directory.
    last: Vec<u32>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl<V> Default for Names<V> {
    fn default() -> Self {
        let (slots, last, table) = (Vec::new(), Vec::new(), HashTable::new());
        Self { slots, last, table, hasher: RandomState::new() }
    }
}

impl<V: Copy> Names<V> {
    /// One more directory, without a name in it; its number.
    pub fn add_directory(&mut self) -> u32 {
        self.last.push(END);
        number(self.last.len() - 1)
    }

    /// Names over all directories.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Directories, whether or not anything is in them.
    pub fn directories(&self) -> usize {
        self.last.len()
    }

    /// The number of a name's slot.
    pub fn find(&self, texts: &Texts, dir: u32, name: &[u8]) -> Option<u32> {
        let is_it = |&slot: &u32| {
            let slot = &self.slots[slot as usize];
            slot.dir == dir && texts.get(slot.name) == name
        };
        self.table.find(hash(&self.hasher, dir, name), is_it).copied()
    }

    /// Adds a name that is not there; the number of its slot.
    pub fn add(&mut self, texts: &Texts, dir: u32, name: Text, value: V) -> u32 {
        let Self { slots, last, table, hasher } = self;
        let new = number(slots.len());
        let next = std::mem::replace(&mut last[dir as usize], new);
        slots.push(Slot { name, dir, next, value });
        let hash_of = |slot: &Slot<V>| hash(hasher, slot.dir, texts.get(slot.name));
        table.insert_unique(hash(hasher, dir, texts.get(name)), new, |&slot| hash_of(&slots[slot as usize]));
        new
    }

    pub fn slot(&self, slot: u32) -> &Slot<V> {
        &self.slots[slot as usize]
    }

    pub fn slot_mut(&mut self, slot: u32) -> &mut Slot<V> {
        &mut self.slots[slot as usize]
    }

    /// The slots of a directory, the last added first.
    pub fn of(&self, dir: u32) -> impl Iterator<Item = u32> {
        let known = |slot: u32| (slot != END).then_some(slot);
        let first = self.last.get(dir as usize).copied().and_then(known);
        std::iter::successors(first, move |&slot| known(self.slots[slot as usize].next))
    }

    /// The slots of a directory in the order of their names.
    pub fn sorted(&self, texts: &Texts, dir: u32) -> Vec<u32> {
        let mut slots: Vec<u32> = self.of(dir).collect();
        slots.sort_unstable_by_key(|&slot| texts.get(self.slots[slot as usize].name));
        slots
    }

    /// Nothing is to be found any more, only listed.
    pub fn close(&mut self) {
        self.table = HashTable::new();
    }
}

fn hash(hasher: &RandomState, dir: u32, name: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u32(dir);
    hasher.write(name);
    hasher.finish()
}
