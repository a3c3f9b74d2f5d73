//! Blobs held in memory: for tests and for content that is at hand already.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use jaunt_formats::Digest;

use super::{Source, SourceError};

/// Blobs by digest, and a count of what was asked of them.
#[derive(Default)]
pub struct MemorySource {
    blobs: HashMap<Digest, Bytes>,
    fetches: AtomicU64,
}

impl MemorySource {
    /// A source of these blobs, named as the caller says: their digests are not checked.
    pub fn new(blobs: impl IntoIterator<Item = (Digest, Bytes)>) -> Self {
        Self { blobs: blobs.into_iter().collect(), fetches: AtomicU64::new(0) }
    }

    /// How many ranges were asked for.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }
}

impl Source for MemorySource {
    fn fetch(&self, blob: Digest, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let slice = self.blobs.get(&blob).and_then(|bytes| {
            let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
            (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
        });
        let result = slice.ok_or_else(|| SourceError { blob, range, cause: "not in memory".into() });
        async move { result }.boxed()
    }
}
