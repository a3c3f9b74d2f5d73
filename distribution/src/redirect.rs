//! Where blobs really are: the signed URLs that registries redirect to, kept until they expire or are refused.
//!
//! They are secrets for as long as they are valid: never printed, never sent an `Authorization`.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jaunt_formats::Digest;
use lru::LruCache;
use reqwest::{StatusCode, Url};

use crate::http::Elsewhere;
use crate::limits;
use crate::repository::Repository;

/// A blob of one repository: a signature may be bound to the repository's rights.
pub(crate) type BlobKey = (Repository, Digest);

/// The signed URLs in use, the least recently used forgotten first.
pub(crate) struct SignedUrls(Mutex<LruCache<BlobKey, Elsewhere>>);

impl SignedUrls {
    pub(crate) fn new() -> Self {
        let capacity = NonZeroUsize::new(limits::SIGNED_URLS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(capacity)))
    }

    /// Where the blob was last found, if that is still good.
    pub(crate) fn of(&self, blob: &BlobKey) -> Option<Url> {
        let mut urls = self.lock();
        let found = urls.get(blob)?;
        if found.expires.is_some_and(|expires| expires <= Instant::now()) {
            urls.pop(blob);
            return None;
        }
        Some(found.url.clone())
    }

    pub(crate) fn remember(&self, blob: BlobKey, found: Elsewhere) {
        self.lock().put(blob, found);
    }

    /// Forgets a URL that was refused, unless another request has already replaced it.
    pub(crate) fn forget(&self, blob: &BlobKey, refused: &Url) {
        let mut urls = self.lock();
        if urls.peek(blob).is_some_and(|found| found.url == *refused) {
            urls.pop(blob);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<BlobKey, Elsewhere>> {
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

    fn found(url: &str, expires: Option<Instant>) -> Elsewhere {
        Elsewhere { url: url.parse().unwrap(), expires }
    }

    #[test]
    fn forgets_only_the_url_that_was_refused() {
        let urls = SignedUrls::new();
        let blob = ("r.example/a".parse().unwrap(), Digest::of(b"a"));
        urls.remember(blob.clone(), found("https://s.example/?2", None));
        urls.forget(&blob, &"https://s.example/?1".parse().unwrap());
        let kept: Url = urls.of(&blob).unwrap();
        urls.forget(&blob, &kept);
        assert_eq!(urls.of(&blob), None);
    }

    #[test]
    fn offers_no_url_that_has_expired() {
        let urls = SignedUrls::new();
        let blob = ("r.example/a".parse().unwrap(), Digest::of(b"a"));
        let now = Instant::now();
        urls.remember(
            blob.clone(),
            found("https://s.example/", now.checked_add(std::time::Duration::from_secs(60))),
        );
        assert!(urls.of(&blob).is_some());
        urls.remember(blob.clone(), found("https://s.example/", Some(now)));
        assert_eq!(urls.of(&blob), None);
    }
}
