//! Blobs held in memory: for tests and for content that is at hand already.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use jaunt_formats::Digest;

use super::{ByteStream, Source, SourceError, Trouble};

/// Blobs by digest, and a count of what was asked of them.
pub struct MemorySource {
    name: String,
    blobs: HashMap<Digest, Bytes>,
    fetches: AtomicU64,
}

impl MemorySource {
    /// A source of these blobs, named as the caller says: their digests are not checked.
    pub fn new(blobs: impl IntoIterator<Item = (Digest, Bytes)>) -> Self {
        Self::named("memory", blobs)
    }

    /// The same under a name of its own: sources of one name count as one.
    pub fn named(name: &str, blobs: impl IntoIterator<Item = (Digest, Bytes)>) -> Self {
        let name = name.to_owned();
        Self { name, blobs: blobs.into_iter().collect(), fetches: AtomicU64::new(0) }
    }

    /// How many ranges were asked for.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    fn slice(&self, blob: Digest, range: Range<u64>) -> Result<Bytes, SourceError> {
        let failed = |trouble, cause: &str| SourceError {
            place: self.name.clone(),
            blob,
            range: range.clone(),
            trouble,
            cause: cause.into(),
        };
        let bytes = self.blobs.get(&blob).ok_or_else(|| failed(Trouble::Gone, "not in memory"))?;
        let within = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let within = within.filter(|(start, end)| start <= end && *end <= bytes.len());
        let (start, end) = within.ok_or_else(|| failed(Trouble::Wrong, "outside the blob"))?;
        Ok(bytes.slice(start..end))
    }
}

impl Source for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &str {
        &self.name
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        stream::iter([self.slice(blob, range)]).boxed()
    }
}
