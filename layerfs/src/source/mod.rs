//! Where compressed bytes come from. A source promises nothing about them: `verify` decides.

mod error;
#[cfg(test)]
mod faulty;
mod memory;
mod registry;
mod set;

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt as _};
use jaunt_formats::Digest;

pub use error::{SourceError, Trouble};
#[cfg(test)]
pub(crate) use faulty::{Faulty, error};
pub use memory::MemorySource;
pub use registry::RegistrySource;
pub use set::SourceSet;

/// A blob's bytes as they arrive.
pub type ByteStream = BoxStream<'static, Result<Bytes, SourceError>>;

/// One place that blobs can be read from.
pub trait Source: Send + Sync + 'static {
    /// Its name in messages. Two sources of one name are the same place.
    fn name(&self) -> &str;

    /// Who answers for it. Sources of one host share its troubles.
    fn host(&self) -> &str;

    /// The bytes of `range`, in order and unverified: all of them, or an error at the end. Nothing is asked of
    /// the place before the stream is polled; dropping it abandons the rest.
    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream;

    /// What it gave of a blob was wrong: where the place has it from several hands, another one is to be asked.
    fn gave_wrong(&self, _blob: &Digest) {}

    /// What it was asked for of a blob, from `start` on, was waited for in vain: the same.
    fn kept_silent(&self, _blob: &Digest, _start: u64) {}
}

/// What a source gives of a range, all at once. Too little of it is no error here: a span that is not whole fails its
/// verification.
///
/// # Errors
/// The source failed.
pub async fn whole(source: &dyn Source, blob: Digest, range: Range<u64>) -> Result<Bytes, SourceError> {
    let expected = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let mut stream = source.fetch(blob, range);
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.next().await.transpose()? {
        if bytes.is_empty() && piece.len() >= expected {
            return Ok(piece);
        }
        bytes.extend_from_slice(&piece);
        if bytes.len() >= expected {
            break;
        }
    }
    Ok(bytes.freeze())
}
