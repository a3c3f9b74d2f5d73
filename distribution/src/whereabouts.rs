//! Where blobs really are: the host that had one last, and the signed URL that it redirected to.
//!
//! Signed URLs are kept until they expire or are refused. They are secrets for as long as they are valid:
//! never printed, never sent an `Authorization`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jaunt_formats::Digest;
use lru::LruCache;
use reqwest::{StatusCode, Url};

use crate::hosts::Route;
use crate::http::Elsewhere;
use crate::limits;
use crate::repository::Repository;

/// How long the host that had a blob is asked for it before those that should be asked first.
const STICKS: Duration = Duration::from_secs(300);

/// A blob of one repository: a signature may be bound to the repository's rights.
pub(crate) type BlobKey = (Repository, Digest);

/// What is known of the blobs in use, the least recently used forgotten first.
pub(crate) struct Whereabouts(Mutex<LruCache<BlobKey, Found>>);

/// Where a blob was.
#[derive(Clone)]
pub(crate) struct Found {
    /// The API of the host that had it.
    pub(crate) api: String,
    /// Where that host redirected to.
    pub(crate) url: Option<Url>,
    expires: Option<Instant>,
    at: Instant,
    /// Held by who asks the host where the blob is now, for all who want to know.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether it is known to be elsewhere: then only the host's word is missing.
    pub(crate) redirects: bool,
}

impl Whereabouts {
    pub(crate) fn new() -> Self {
        let capacity = NonZeroUsize::new(limits::WHEREABOUTS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(capacity)))
    }

    /// Where a blob was last found, as far as that is still good.
    pub(crate) fn of(&self, blob: &BlobKey) -> Option<Found> {
        let mut all = self.lock();
        let found = all.get_mut(blob)?;
        if found.expires.is_some_and(|expires| expires <= Instant::now()) {
            (found.url, found.expires) = (None, None);
        }
        if found.url.is_none() && found.at.elapsed() > STICKS {
            all.pop(blob);
            return None;
        }
        Some(found.clone())
    }

    pub(crate) fn remember(&self, blob: BlobKey, route: &Route, elsewhere: Option<Elsewhere>) {
        let (url, expires) = elsewhere.map_or((None, None), |found| (Some(found.url), found.expires));
        let (api, redirects, mut all) = (route.api().to_string(), url.is_some(), self.lock());
        let turn = all.peek(&blob).map(|found| Arc::clone(&found.turn)).unwrap_or_default();
        all.put(blob, Found { api, url, expires, at: Instant::now(), turn, redirects });
    }

    /// Forgets all about a blob.
    pub(crate) fn forget_all(&self, blob: &BlobKey) {
        self.lock().pop(blob);
    }

    /// Forgets a URL that was refused, unless another request has already replaced it.
    pub(crate) fn forget(&self, blob: &BlobKey, refused: &Url) {
        if let Some(found) = self.lock().get_mut(blob).filter(|found| found.url.as_ref() == Some(refused)) {
            (found.url, found.expires) = (None, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<BlobKey, Found>> {
        // A panic elsewhere cannot leave the map half changed.
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
    use crate::hosts::{Dial, Route};

    fn route() -> Route {
        let api = "https://r.example/v2".parse().unwrap();
        let none = Default::default();
        let dial = Dial::load(&none, &none, Duration::from_secs(1), None).unwrap();
        Route::new("r.example", api, Default::default(), Default::default(), dial, Default::default())
    }

    fn signed(url: &str, expires: Option<Instant>) -> Option<Elsewhere> {
        Some(Elsewhere { url: url.parse().unwrap(), expires })
    }

    #[test]
    fn forgets_only_the_url_that_was_refused() {
        let all = Whereabouts::new();
        let blob = ("r.example/a".parse().unwrap(), Digest::of(b"a"));
        all.remember(blob.clone(), &route(), signed("https://s.example/?2", None));
        all.forget(&blob, &"https://s.example/?1".parse().unwrap());
        let kept = all.of(&blob).unwrap().url.unwrap();
        all.forget(&blob, &kept);
        let found = all.of(&blob).unwrap();
        assert!(found.url.is_none() && found.redirects);
    }

    #[test]
    fn offers_no_url_that_has_expired() {
        let all = Whereabouts::new();
        let blob = ("r.example/a".parse().unwrap(), Digest::of(b"a"));
        let now = Instant::now();
        all.remember(blob.clone(), &route(), signed("https://s.example/", now.checked_add(STICKS)));
        assert!(all.of(&blob).is_some());
        all.remember(blob.clone(), &route(), signed("https://s.example/", Some(now)));
        assert!(all.of(&blob).unwrap().url.is_none());
    }

    #[test]
    fn a_host_sticks_without_a_url() {
        let all = Whereabouts::new();
        let blob = ("r.example/a".parse().unwrap(), Digest::of(b"a"));
        all.remember(blob.clone(), &route(), None);
        assert_eq!(all.of(&blob).unwrap().api, "https://r.example/v2");
    }
}
