//! The root directories of chains, looked up once: to open an index is to check the whole of it, and every Prepare asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jaunt_formats::Digest;
use tokio::sync::OnceCell;

use super::lock;
use crate::lazy::{LazyChain, LazyError, RootAttributes};

/// A chain, as far as its tree depends on it: the index, and how many of its layers.
type Tree = (Digest, u16);

/// What is known of root directories; no more than there are chains on record.
#[derive(Debug, Default)]
pub(super) struct Roots(Mutex<HashMap<Tree, Arc<OnceCell<RootAttributes>>>>);

impl Roots {
    /// The chain's: known, or looked up by one of those who ask at once while the others wait. A look that failed is no answer for
    /// the next one who asks.
    pub async fn of(
        &self,
        chain: &LazyChain,
        look: impl AsyncFnOnce() -> Result<RootAttributes, LazyError>,
    ) -> Result<RootAttributes, LazyError> {
        let cell = lock(&self.0).entry((chain.index, chain.prefix)).or_default().clone();
        cell.get_or_try_init(|| look()).await.copied()
    }

    /// Forgets the trees of all other indexes.
    pub fn retain(&self, in_use: impl Fn(&Digest) -> bool) {
        lock(&self.0).retain(|(index, _), _| in_use(index));
    }
}

#[cfg(test)]
mod tests {
    use jaunt_formats::{ChainId, DiffId};

    use super::*;

    fn chain(content: &[u8]) -> LazyChain {
        let index = Digest::of(content);
        let chain_id = ChainId::prefixes(&[DiffId(index)]).last().unwrap();
        LazyChain { snapshot_id: 1, chain_id, index, prefix: 1 }
    }

    #[tokio::test]
    async fn a_root_is_looked_up_once_until_its_index_is_gone_and_again_where_that_failed() {
        let (roots, chain) = (Roots::default(), chain(b"an index"));
        let found = |mode| RootAttributes { mode, uid: 0, gid: 0 };
        let failed = LazyError::Index { index: chain.index, source: "damaged".into() };
        assert!(roots.of(&chain, async || Err(failed)).await.is_err());
        assert_eq!(roots.of(&chain, async || Ok(found(0o755))).await.unwrap(), found(0o755));
        assert_eq!(roots.of(&chain, async || Ok(found(0o700))).await.unwrap(), found(0o755));
        roots.retain(|index| *index != chain.index);
        assert_eq!(roots.of(&chain, async || Ok(found(0o700))).await.unwrap(), found(0o700));
    }
}
