//! Blobs in one repository of a registry.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use jaunt_distribution::{Client, Error, Repository};
use jaunt_formats::Digest;

use super::{ByteStream, Source, SourceError, Trouble};

/// The longest pause that is waited for within a request: after a longer one it may be another host's turn.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What is skipped of a blob where a registry ignores ranges: about what a span takes.
const LONGEST_SKIP: u64 = 512 << 10;
/// Spoilt blobs that are remembered.
const SPOILT: usize = 1024;

/// A repository, asked through the node's client.
pub struct RegistrySource {
    client: Client,
    repository: Repository,
    name: String,
    /// Blobs of which a mirror may have given wrong bytes: asked of the registry itself.
    spoilt: Mutex<HashSet<Digest>>,
}

impl RegistrySource {
    /// A source of what `repository` holds.
    pub fn new(client: Client, repository: Repository) -> Self {
        let client = client.pausing_at_most(LONGEST_PAUSE).skipping_at_most(LONGEST_SKIP);
        let name = repository.to_string();
        Self { client, repository, name, spoilt: Mutex::default() }
    }

    fn spoilt(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // One call under the lock at a time.
        self.spoilt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for RegistrySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &str {
        self.repository.host()
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        let spoilt = self.spoilt().contains(&blob);
        let client = if spoilt { self.client.without_mirrors() } else { self.client.clone() };
        let pieces = client.blob_range_stream(&self.repository, &blob, range.clone());
        let place = self.name.clone();
        pieces
            .map_err(move |error| SourceError {
                place: place.clone(),
                blob,
                range: range.clone(),
                trouble: trouble(&error),
                cause: error.into(),
            })
            .boxed()
    }

    fn gave_wrong(&self, blob: &Digest) {
        let mut spoilt = self.spoilt();
        if spoilt.len() >= SPOILT {
            spoilt.clear();
        }
        spoilt.insert(*blob);
    }

    fn kept_silent(&self, blob: &Digest, start: u64) {
        self.client.kept_silent(&self.repository, blob, start);
    }
}

/// What kind of trouble the client met.
fn trouble(error: &Error) -> Trouble {
    if let Some(rest) = error.retry_after().filter(|_| error.is_transient()) {
        return Trouble::Busy { rest };
    }
    match error {
        Error::NotFound { .. } => Trouble::Gone,
        Error::RangesIgnored { .. } => Trouble::Whole,
        Error::TimedOut { .. } | Error::TooSlow { .. } | Error::Deadline { .. } => Trouble::Silent,
        error if error.is_transient() => Trouble::Broken,
        Error::Unauthorized { .. } | Error::Auth { .. } => Trouble::Refused,
        _ => Trouble::Wrong,
    }
}
