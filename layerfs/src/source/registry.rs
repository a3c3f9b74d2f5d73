//! Blobs in one repository of a registry.

use std::ops::Range;

use futures_util::stream::{self, StreamExt as _};
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
        let (client, repository, place) = (self.client.clone(), self.repository.clone(), self.name.clone());
        stream::once(async move {
            client.blob_range(&repository, &blob, range.clone()).await.map_err(|error| SourceError {
                place,
                blob,
                range,
                trouble: trouble(&error),
                cause: error.into(),
            })
        })
        .boxed()
    }
}

/// What kind of trouble the client met.
fn trouble(error: &Error) -> Trouble {
    match error {
        Error::NotFound { .. } => Trouble::Gone,
        Error::TimedOut { .. } => Trouble::Silent,
        error if error.is_transient() => Trouble::Broken,
        Error::Unauthorized { .. } | Error::Auth { .. } => Trouble::Refused,
        _ => Trouble::Wrong,
    }
}
