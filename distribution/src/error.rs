//! Every way a call can fail.
//!
//! An error's text is complete on one line: it names the registry, the repository, the object and the
//! cause. `source` keeps the cause for those who match on it. No URL, token or password is in either.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::Digest;
use reqwest::StatusCode;

use crate::auth::AuthError;
use crate::hosts::HostsError;
use crate::http::{BodyError, Failure};
use crate::limits;
use crate::target::Target;

/// Why a call to a registry failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client: {source}")]
    Setup {
        /// The cause.
        source: reqwest::Error,
    },
    /// The settings of the registry, or of a host it leads to, cannot be used.
    #[error("registry {}: {source}", target.repository.host())]
    Hosts {
        /// What was asked for.
        target: Box<Target>,
        /// The cause, shared by the calls that met it.
        source: Arc<HostsError>,
    },
    /// No host of the registry may be asked for this.
    #[error("{target}: by its settings no host of the registry may be asked {what}")]
    Incapable {
        /// What was asked for.
        target: Box<Target>,
        /// The capability that is missing.
        what: &'static str,
    },
    /// A manifest's name is neither a tag nor a SHA-256 digest, or a host no URL can be made of.
    #[error("{target}: {reason}")]
    InvalidName {
        /// What was asked for.
        target: Box<Target>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No connection to the registry, or to where it redirected.
    #[error("registry {}: cannot connect{}: {reason}", target.repository.host(), other_host(target, host))]
    Unreachable {
        /// What was asked for.
        target: Box<Target>,
        /// The host that could not be reached.
        host: String,
        /// The innermost cause.
        reason: String,
        /// The whole cause.
        source: reqwest::Error,
    },
    /// The server was connected to, and then silent.
    #[error("{target}: no answer from {host} within {after:?}")]
    TimedOut {
        /// What was asked for.
        target: Box<Target>,
        /// The silent host.
        host: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server sends, but so slowly that it would hold its reader for ever.
    #[error("{target}: {host} sends less than {} bytes a second", limits::SLOWEST_DOWNLOAD)]
    TooSlow {
        /// What was asked for.
        target: Box<Target>,
        /// The slow host.
        host: String,
    },
    /// The call took longer than its caller allows. See [`Client::within`](crate::Client::within).
    #[error("{target}: not done within {after:?}")]
    Deadline {
        /// What was asked for.
        target: Box<Target>,
        /// The time allowed.
        after: Duration,
    },
    /// The connection broke in the middle.
    #[error("{target}: the connection to {host} broke: {reason}")]
    Interrupted {
        /// What was asked for.
        target: Box<Target>,
        /// The other end.
        host: String,
        /// The innermost cause.
        reason: String,
        /// The whole cause.
        source: reqwest::Error,
    },
    /// The body ended early, though the connection did not break.
    #[error("{target}: the answer ended at byte {ended}, before byte {end}")]
    Truncated {
        /// What was asked for.
        target: Box<Target>,
        /// The blob offset where it should have ended.
        end: u64,
        /// The blob offset where it did.
        ended: u64,
    },
    /// The registry does not have it.
    #[error("registry {}: repository {} has no {} (404)", target.repository.host(), target.repository.name(), target.object)]
    NotFound {
        /// What was asked for.
        target: Box<Target>,
    },
    /// The registry wants other credentials than there are.
    #[error("{target}: access denied ({}{}{message})", status.as_u16(), separator(message))]
    Unauthorized {
        /// What was asked for.
        target: Box<Target>,
        /// 401 or 403.
        status: StatusCode,
        /// The registry's own words, or what we know better.
        message: String,
    },
    /// No token or credentials could be had.
    #[error("{target}: {source}")]
    Auth {
        /// What was asked for.
        target: Box<Target>,
        /// The cause, shared by all that waited for the same token.
        source: Arc<AuthError>,
    },
    /// The blob is shorter than the range.
    #[error("{target}: bytes {}..{} lie outside the blob", range.start, range.end)]
    RangeNotSatisfiable {
        /// What was asked for.
        target: Box<Target>,
        /// The range asked for.
        range: Range<u64>,
    },
    /// The server answered with another range than the one asked for.
    #[error("{target}: asked for bytes {}..{}, answered with {answered:?}", range.start, range.end)]
    WrongRange {
        /// What was asked for.
        target: Box<Target>,
        /// The range asked for.
        range: Range<u64>,
        /// What the answer says it is.
        answered: String,
    },
    /// The bytes are not the ones that were named.
    #[error("{target}: digest is {actual}, expected {expected}")]
    DigestMismatch {
        /// What was asked for.
        target: Box<Target>,
        /// The digest asked for or announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// More bytes than the limit.
    #[error("{target}: longer than the limit of {limit} bytes")]
    TooLarge {
        /// What was asked for.
        target: Box<Target>,
        /// The limit.
        limit: u64,
    },
    /// The registry has forgotten an upload, as after a restart: what was sent is lost.
    #[error("{target}: the registry knows nothing of the upload any more")]
    UploadLost {
        /// What was on its way.
        target: Box<Target>,
    },
    /// The server answers a range with the whole blob, and the range lies further in than is worth skipping.
    #[error(
        "{target}: the server gives whole blobs alone, and {skipped} bytes of it would have to be skipped"
    )]
    RangesIgnored {
        /// The blob.
        target: Box<Target>,
        /// Bytes in front of the range.
        skipped: u64,
    },
    /// An upload was finished with another length than was written.
    #[error("{target}: {written} bytes were written, {expected} announced")]
    WrongLength {
        /// The upload.
        target: Box<Target>,
        /// Bytes announced by the caller.
        expected: u64,
        /// Bytes written by the caller.
        written: u64,
    },
    /// A redirect that cannot be followed.
    #[error("{target}: {reason}")]
    Redirect {
        /// What was asked for.
        target: Box<Target>,
        /// What is wrong with it.
        reason: String,
    },
    /// An answer that breaks the protocol.
    #[error("{target}: {reason}")]
    Malformed {
        /// What was asked for.
        target: Box<Target>,
        /// What is wrong with it.
        reason: String,
    },
    /// Any other status.
    #[error("{target}: the registry answered {status}{}{message}", separator(message))]
    Status {
        /// What was asked for.
        target: Box<Target>,
        /// The status.
        status: StatusCode,
        /// The registry's own words.
        message: String,
        /// How long it wants to be left alone, where it says so.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// Whether the registry says that it does not have the object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the registry does not allow what it was asked for, however often it is asked.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unauthorized { .. } => true,
            Self::Status { status, .. } => status.is_client_error() && !self.is_transient(),
            _ => false,
        }
    }

    /// Whether the registry says that what a push depended on does not hold any more.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::PRECONDITION_FAILED)
    }

    /// Whether the same call may succeed later without anything being changed: the network or the
    /// registry was in trouble. Retries within the call have already been made.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooSlow { .. }
            | Self::Deadline { .. }
            | Self::Interrupted { .. }
            | Self::Truncated { .. }
            | Self::UploadLost { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 429),
            Self::Auth { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// How long the registry, or its token service, wants to be left alone, where it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Auth { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    /// What a registry that does not find an upload means.
    pub(crate) fn of_session(self) -> Self {
        match self {
            Self::NotFound { target } => Self::UploadLost { target },
            error => error,
        }
    }

    pub(crate) fn from_failure(target: &Target, failure: Failure) -> Self {
        let target = Box::new(target.clone());
        match failure {
            Failure::Connect { host, reason, source, .. } => {
                Self::Unreachable { target, host, reason, source }
            }
            Failure::Silent { host, after } => Self::TimedOut { target, host, after },
            Failure::Trickling { host } => Self::TooSlow { target, host },
            Failure::Broken { host, reason, source } => Self::Interrupted { target, host, reason, source },
            Failure::Redirect(reason) => Self::Redirect { target, reason },
            Failure::Settings { source } => Self::Hosts { target, source },
        }
    }

    pub(crate) fn from_body(target: &Target, error: BodyError) -> Self {
        match error {
            BodyError::TooLong { limit } => Self::TooLarge { target: Box::new(target.clone()), limit },
            BodyError::Failed(failure) => Self::from_failure(target, failure),
        }
    }

    pub(crate) fn malformed(target: &Target, reason: impl Into<String>) -> Self {
        Self::Malformed { target: Box::new(target.clone()), reason: reason.into() }
    }
}

/// Names the host only when it is not the registry that the error starts with.
fn other_host(target: &Target, host: &str) -> String {
    if target.repository.host() == host { String::new() } else { format!(" to {host}") }
}

fn separator(message: &str) -> &'static str {
    if message.is_empty() { "" } else { ": " }
}
