//! Why a range of a layer cannot be read.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::{Digest, Span};

use crate::source::SourceError;
use crate::store::StoreError;
use crate::verify::VerifyError;

/// Why a range of a layer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be fetched.
    #[error(transparent)]
    Source(#[from] Arc<SourceError>),
    /// What was fetched is not what the index says, from every source, twice.
    #[error("span at tar offset {} of layer {diff_id}: bytes {}..{} of blob {blob} from {place} are wrong", span.tar_offset, span.blob_range().start, span.blob_range().end)]
    Wrong {
        /// The layer's diffID.
        diff_id: Digest,
        /// The blob.
        blob: Digest,
        /// Who gave them last.
        place: String,
        /// The span.
        span: Box<Span>,
        /// In what way.
        #[source]
        source: VerifyError,
    },
    /// The converted blob cannot be had, or is not the layer, and the original cannot be had either.
    #[error("layer {diff_id} can be had neither converted ({converted}) nor from its original {original}")]
    Original {
        /// The layer's diffID.
        diff_id: Digest,
        /// The original blob.
        original: Digest,
        /// What is wrong with the converted one.
        converted: ReadErrors,
        /// What is wrong with the original.
        #[source]
        source: Arc<OriginalError>,
    },
    /// The converted blob is not asked for.
    #[error("the original of layer {diff_id} is on its way")]
    OriginalUnderWay {
        /// The layer's diffID.
        diff_id: Digest,
    },
    /// Its converted blob is not what it claims to be.
    #[error("layer {diff_id} is in quarantine: {why}")]
    Quarantined {
        /// The layer's diffID.
        diff_id: Digest,
        /// What was found.
        why: Arc<str>,
    },
    /// The sources were tried until the reader's time was up.
    #[error("layer {diff_id} could not be fetched within {after:?}")]
    Deadline {
        /// The layer's diffID.
        diff_id: Digest,
        /// The time a read may take.
        after: Duration,
        /// What the last source said, if one said anything.
        #[source]
        last: Option<Arc<SourceError>>,
    },
    /// The range lies beyond the layer, or in a part of it that no span covers.
    #[error("bytes {}..{} lie outside what the spans of layer {diff_id} cover", range.start, range.end)]
    OutOfRange {
        /// The layer's diffID.
        diff_id: Digest,
        /// The range.
        range: Range<u64>,
    },
    /// The store lost it as fast as it was fetched.
    #[error("layer {diff_id} does not stay in the store")]
    Store {
        /// The layer's diffID.
        diff_id: Digest,
    },
    /// A fetch ended without an outcome, again and again: the daemon is stopping.
    #[error("the fetch of layer {diff_id} was abandoned")]
    Abandoned {
        /// The layer's diffID.
        diff_id: Digest,
    },
}

/// Why a layer cannot be read from its original.
#[derive(Debug, thiserror::Error)]
pub enum OriginalError {
    /// No source gave it, or none the right one.
    #[error(transparent)]
    Source(Arc<SourceError>),
    /// The disk has no room for its tar, or fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No repository is known to hold it.
    #[error("no repository is known to hold it")]
    NoSource,
    /// The layer was let go meanwhile.
    #[error("nobody needs it any more")]
    Unneeded,
}

impl OriginalError {
    /// Whether it may be over soon, nothing being changed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Source(error) if error.trouble.may_pass())
    }
}

/// An error that several readers may share.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadErrors(Arc<ReadError>);

impl ReadErrors {
    /// The error itself.
    pub fn kind(&self) -> &ReadError {
        &self.0
    }
}

impl From<ReadError> for ReadErrors {
    fn from(error: ReadError) -> Self {
        Self(Arc::new(error))
    }
}
