//! Who was asked for bytes last, for those who give up waiting for them: a reader sees a blob, and not which host keeps it waiting.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::hosts::Route;
use crate::limits;
use crate::whereabouts::BlobKey;

/// A blob, and where what was asked for of it begins.
type Bytes = (BlobKey, u64);

/// The newest are kept.
pub(crate) struct Asked(Mutex<LruCache<Bytes, Arc<Route>>>);

impl Asked {
    pub(crate) fn new() -> Self {
        let capacity = NonZeroUsize::new(limits::ASKED).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(capacity)))
    }

    /// It is this host's turn.
    pub(crate) fn note(&self, blob: &BlobKey, start: u64, route: &Arc<Route>) {
        self.lock().put((blob.clone(), start), Arc::clone(route));
    }

    /// Whose turn it was, once.
    pub(crate) fn take(&self, blob: &BlobKey, start: u64) -> Option<Arc<Route>> {
        self.lock().pop(&(blob.clone(), start))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Bytes, Arc<Route>>> {
        // A panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
