//! Why a chain is not complete yet.

use std::error::Error as _;

use super::Chain;
use crate::read_error::{OriginalError, ReadErrors};
use crate::store::StoreError;

/// Why no more is done for a chain.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is not mounted any more.
    Unneeded,
    /// Its index is in quarantine.
    Condemned,
    /// It is tried again later.
    Trouble(Trouble),
}

/// What may be better later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the store has no room for {0} bytes more")]
    NoRoom(u64),
    #[error("the store does not keep what is fetched")]
    NotKept,
    #[error("no thread can be had, or it failed")]
    Thread,
    #[error(transparent)]
    Read(#[from] ReadErrors),
    #[error("the layer cannot be had whole")]
    Whole(#[source] OriginalError),
    #[error("the layer's tar cannot be kept")]
    Keep(#[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<T: Into<Trouble>> From<T> for Stop {
    fn from(trouble: T) -> Self {
        Self::Trouble(trouble.into())
    }
}

impl Trouble {
    /// Whether it may be over soon, nothing being changed.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(self, Self::Whole(OriginalError::Source(error)) if !error.trouble.may_pass())
    }

    /// Aloud the first time, and then no more until the chain is mounted anew.
    pub(super) fn tell(&self, chain: &Chain) {
        let (index, cause) = (&chain.index, self.source().map(ToString::to_string));
        match chain.failures {
            0 => {
                tracing::warn!(%index, error = %self, cause, "an image cannot be completed for now: it is tried again")
            }
            failures => {
                tracing::debug!(%index, error = %self, cause, failures, "an image still cannot be completed")
            }
        }
    }
}
