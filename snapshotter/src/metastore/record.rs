//! What is known of one snapshot: the record that is persisted, and its encoding.
//!
//! Encoding: JSON, one object a record, read once at start and written on every change; at a few
//! hundred bytes a record its cost vanishes beside the commit's fsync, and a person can read it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jaunt_formats::{ChainId, Digest};
use serde::{Deserialize, Serialize};

use crate::lazy::{LazyChain, Usage};

/// containerd's three kinds of snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, never committed.
    View,
    /// Writable; becomes committed under another name.
    Active,
    /// Immutable; may be a parent.
    Committed,
}

impl Kind {
    /// The word that filters and `status` use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// Where a snapshot's own files come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backing {
    /// A directory that containerd (or a container) filled.
    Eager,
    /// The first layers of a launch index; always committed. Once on record it is ready: its index
    /// was on disk, checked and synced, before the record was made.
    Lazy {
        /// Chain ID of those layers.
        chain_id: ChainId,
        /// Digest of the launch index.
        index: Digest,
        /// How many of the index's layers.
        prefix: u16,
    },
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// containerd's key (active, view) or name (committed): one name space.
    pub name: String,
    /// Names the directory or mount; rises monotonically and is never given twice.
    pub id: u64,
    /// What containerd may do with it.
    pub kind: Kind,
    /// Name of the committed snapshot beneath, if any.
    pub parent: Option<String>,
    /// containerd's labels; none has an empty value.
    pub labels: BTreeMap<String, String>,
    /// When it was made, or committed.
    pub created: SystemTime,
    /// When its labels last changed.
    pub updated: SystemTime,
    /// Where its files come from.
    pub backing: Backing,
    /// What an eager committed snapshot occupies, measured when it was committed.
    pub usage: Usage,
}

/// Why a launch index is believed to describe an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Voucher {
    /// It came from the image's repository, and whoever may push there was trusted.
    Registry,
    /// The artifact that names it was signed by the key with this fingerprint.
    Key(Digest),
    /// It was made on this node, of nothing but what the image's own manifest covers.
    Image,
}

/// The launch index that was found for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LearntRecord")]
pub struct Learnt {
    /// Its digest.
    pub index: Digest,
    /// On whose word.
    pub by: Voucher,
}

/// A bare digest is a record from before anybody was asked who vouches.
#[derive(Deserialize)]
#[serde(untagged)]
enum LearntRecord {
    Vouched { index: Digest, by: Voucher },
    Bare(Digest),
}

impl From<LearntRecord> for Learnt {
    fn from(record: LearntRecord) -> Self {
        match record {
            LearntRecord::Vouched { index, by } => Self { index, by },
            LearntRecord::Bare(index) => Self { index, by: Voucher::Registry },
        }
    }
}

impl Snapshot {
    /// The chain that a lazy snapshot stands for.
    pub fn lazy_chain(&self) -> Option<LazyChain> {
        match self.backing {
            Backing::Eager => None,
            Backing::Lazy { chain_id, index, prefix } => {
                Some(LazyChain { snapshot_id: self.id, chain_id, index, prefix })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_reads_back_with_who_vouched_and_old_records_without() {
        let index = Digest::of(b"index");
        for by in [Voucher::Registry, Voucher::Key(Digest::of(b"key")), Voucher::Image] {
            let learnt = Learnt { index, by };
            let json = serde_json::to_vec(&learnt).unwrap();
            assert_eq!(serde_json::from_slice::<Learnt>(&json).unwrap(), learnt);
        }
        let bare: Learnt = serde_json::from_str(&format!("\"{index}\"")).unwrap();
        assert_eq!(bare, Learnt { index, by: Voucher::Registry });
    }
}
