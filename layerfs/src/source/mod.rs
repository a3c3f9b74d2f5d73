//! Where compressed bytes come from. A source promises nothing about them: `verify` decides.

mod memory;
mod registry;

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jaunt_formats::Digest;

pub use memory::MemorySource;
pub use registry::RegistrySource;

/// Reads ranges of blobs.
pub trait Source: Send + Sync + 'static {
    /// Exactly the bytes of `range`, unverified. Dropping the future abandons the fetch.
    fn fetch(&self, blob: Digest, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, SourceError>>;
}

/// Why a range could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch bytes {}..{} of {blob}", range.start, range.end)]
pub struct SourceError {
    /// The blob.
    pub blob: Digest,
    /// The range, in bytes of the blob.
    pub range: Range<u64>,
    /// What stood in the way.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}
