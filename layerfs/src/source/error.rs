//! Why a source gave nothing, told apart by what helps.

use std::ops::Range;
use std::time::Duration;

use jaunt_formats::Digest;

/// Why a range could not be had from one place.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch bytes {}..{} of {blob} from {place}", range.start, range.end)]
pub struct SourceError {
    /// Who was asked.
    pub place: String,
    /// The blob.
    pub blob: Digest,
    /// The range, in bytes of the blob.
    pub range: Range<u64>,
    /// What kind of trouble it is.
    pub trouble: Trouble,
    /// What stood in the way.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Kinds of trouble, the hopeful first: a place with a lesser one is asked earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// The network or the server failed: it may be over soon.
    Broken,
    /// It wants to be left alone for a while.
    Busy {
        /// How long.
        rest: Duration,
    },
    /// The server took the request and kept silent, or all but silent.
    Silent,
    /// It wants other credentials than there are.
    Refused,
    /// It answered with what no span can be: another range, another length, other bytes.
    Wrong,
    /// It gives whole blobs alone: each range would cost all that lies in front of it.
    Whole,
    /// It does not have the blob.
    Gone,
}

impl Trouble {
    /// Whether the same request may succeed a little later, nothing being changed.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Broken | Self::Busy { .. } | Self::Silent)
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Busy { .. } => "busy",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Wrong => "wrong",
            Self::Whole => "whole",
            Self::Gone => "gone",
        }
    }
}
