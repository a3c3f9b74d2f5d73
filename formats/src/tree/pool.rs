//! What the files of a tree have in common, each once: bytes of names and targets in one buffer, sets of attributes,
//! extents of sparse files.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use super::attributes::Attributes;
use crate::{SparseExtent, Timestamp, Xattr};

/// A name or a target: its offset in the buffer, and in the low bits its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text(u64);

impl Text {
    /// No byte.
    pub const EMPTY: Self = Self(0);
}

/// Bits of a text's length: many times what Linux allows a path.
const LEN_BITS: u32 = 24;

/// Names and targets, one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts(Vec<u8>);

impl Texts {
    /// Keeps a text. Longer ones than 16 MiB, which no tar has, are cut.
    pub fn add(&mut self, text: &[u8]) -> Text {
        let text = &text[..text.len().min((1 << LEN_BITS) - 1)];
        let at = self.0.len() as u64;
        self.0.extend_from_slice(text);
        Text(at << LEN_BITS | text.len() as u64)
    }

    pub fn get(&self, Text(text): Text) -> &[u8] {
        let (start, len) = (text >> LEN_BITS, text & ((1 << LEN_BITS) - 1));
        // In range: a text is made by `add` alone, and nothing is ever taken away.
        let range = usize::try_from(start).ok().zip(usize::try_from(start + len).ok());
        range.and_then(|(start, end)| self.0.get(start..end)).unwrap_or_default()
    }
}

/// Mode, owner and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttributeSet {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: Vec<Xattr>,
}

/// Number of a set of attributes: equal sets have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetId(u32);

/// The sets there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttributeSets {
    sets: Vec<AttributeSet>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl AttributeSets {
    pub fn get(&self, SetId(id): SetId) -> &AttributeSet {
        &self.sets[id as usize]
    }

    fn number(&mut self, set: AttributeSet) -> SetId {
        let Self { sets, table, hasher } = self;
        let hash = hasher.hash_one(&set);
        if let Some(&known) = table.find(hash, |&known| sets[known as usize] == set) {
            return SetId(known);
        }
        let new = super::number(sets.len());
        sets.push(set);
        table.insert_unique(hash, new, |&known| hasher.hash_one(&sets[known as usize]));
        SetId(new)
    }
}

/// Everything that files share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    pub texts: Texts,
    pub sets: AttributeSets,
    /// Of each sparse file.
    pub extents: Vec<Vec<SparseExtent>>,
}

/// A file's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pooled {
    pub set: SetId,
    pub nanoseconds: u32,
    pub seconds: i64,
}

impl Pooled {
    pub fn mtime(self) -> Timestamp {
        Timestamp { seconds: self.seconds, nanoseconds: self.nanoseconds }
    }
}

impl Pool {
    pub fn add(&mut self, attributes: Attributes) -> Pooled {
        let Attributes { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds }, xattrs } = attributes;
        let set = self.sets.number(AttributeSet { mode, uid, gid, xattrs });
        Pooled { set, nanoseconds, seconds }
    }

    pub fn attributes(&self, pooled: Pooled) -> Attributes {
        let AttributeSet { mode, uid, gid, ref xattrs } = *self.sets.get(pooled.set);
        Attributes { mode, uid, gid, mtime: pooled.mtime(), xattrs: xattrs.clone() }
    }
}
