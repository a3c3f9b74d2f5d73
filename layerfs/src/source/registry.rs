//! Blobs in one repository of a registry.

use std::ops::Range;

use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use jaunt_distribution::{Client, Error, Repository};
use jaunt_formats::Digest;

use super::{ByteStream, Source, SourceError, Trouble};

/// A repository, asked through the node's client.
pub struct RegistrySource {
    client: Client,
    repository: Repository,
    name: String,
}

impl RegistrySource {
    /// A source of what `repository` holds.
    pub fn new(client: Client, repository: Repository) -> Self {
        let name = repository.to_string();
        Self { client, repository, name }
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
        let pieces = self.client.blob_range_stream(&self.repository, &blob, range.clone());
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
}

/// What kind of trouble the client met.
fn trouble(error: &Error) -> Trouble {
    match error {
        Error::NotFound { .. } => Trouble::Gone,
        Error::TimedOut { .. } | Error::TooSlow { .. } | Error::Deadline { .. } => Trouble::Silent,
        error if error.is_transient() => Trouble::Broken,
        Error::Unauthorized { .. } | Error::Auth { .. } => Trouble::Refused,
        _ => Trouble::Wrong,
    }
}
