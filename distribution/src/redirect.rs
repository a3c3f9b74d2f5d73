//! Where blobs really are: the signed URLs that registries redirect to, kept until refused.
//!
//! They are secrets for as long as they are valid: never printed, never sent an `Authorization`.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jaunt_formats::Digest;
use lru::LruCache;
use reqwest::{StatusCode, Url};

use crate::limits;
use crate::repository::Repository;

/// A blob of one repository: a signature may be bound to the repository's rights.
pub(crate) type BlobKey = (Repository, Digest);

/// The signed URLs in use, the least recently used forgotten first.
pub(crate) struct SignedUrls(Mutex<LruCache<BlobKey, Url>>);

impl SignedUrls {
    pub(crate) fn new() -> Self {
        let capacity = NonZeroUsize::new(limits::SIGNED_URLS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(capacity)))
    }

    pub(crate) fn of(&self, blob: &BlobKey) -> Option<Url> {
        self.lock().get(blob).cloned()
    }

    pub(crate) fn remember(&self, blob: BlobKey, url: Url) {
        self.lock().put(blob, url);
    }

    /// Forgets a URL that was refused, unless another request has already replaced it.
    pub(crate) fn forget(&self, blob: &BlobKey, refused: &Url) {
        let mut urls = self.lock();
        if urls.peek(blob) == Some(refused) {
            urls.pop(blob);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<BlobKey, Url>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a status means that a signed URL has expired: 403 mostly, but stores differ (Google's
/// answers 400), and an object may have moved.
pub(crate) fn is_spent(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_only_the_url_that_was_refused() {
        let urls = SignedUrls::new();
        let blob = ("r.example/a".parse().unwrap(), Digest::of(b"a"));
        let (old, new) = ("https://s.example/?1".parse().unwrap(), "https://s.example/?2".parse().unwrap());
        urls.remember(blob.clone(), new);
        urls.forget(&blob, &old);
        let kept: Url = urls.of(&blob).unwrap();
        urls.forget(&blob, &kept);
        assert_eq!(urls.of(&blob), None);
    }
}
