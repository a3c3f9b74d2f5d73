//! DiffIDs and the chain IDs containerd derives from them.
//!
//! Spec: OCI image-spec, config.md, "Layer ChainID". A chain ID names a stack of layers applied in
//! order; containerd asks a snapshotter for chain IDs, never for layers.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// SHA-256 of one layer's uncompressed tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// Digest of a stack of layers, bottom to top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain ID of a stack, or `None` for an empty one, which has none.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        Self::prefixes(diff_ids).last()
    }

    /// The chain IDs of every prefix of a stack, the one-layer prefix first.
    pub fn prefixes(diff_ids: &[DiffId]) -> impl Iterator<Item = Self> {
        diff_ids.iter().scan(None, |below, diff_id| {
            let chain = match *below {
                None => Self(diff_id.0),
                Some(Self(parent)) => {
                    Self(Digest::from_bytes(Sha256::digest(format!("{parent} {}", diff_id.0)).into()))
                }
            };
            *below = Some(chain);
            Some(chain)
        })
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_hashes_its_parent_and_the_next_diff_id() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        let two = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::prefixes(&[a, b]).collect::<Vec<_>>(), [ChainId(a.0), ChainId(two)]);
        assert_eq!(ChainId::of(&[]), None);
    }
}
