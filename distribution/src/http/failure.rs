//! Why a request has no answer, or an answer no whole body.
//!
//! A URL may carry a signature, so none is ever part of a failure: only the host is named.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use crate::hosts::{HostsError, host_of};
use crate::limits;

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No connection: nothing was sent.
    #[error("cannot connect to {host}: {reason}")]
    Connect { host: String, reason: String, hopeless: bool, source: reqwest::Error },
    /// The server took the request and kept silent.
    #[error("no answer from {host} within {after:?}")]
    Silent { host: String, after: Duration },
    /// The server sends, but so little that it might as well be silent.
    #[error("{host} sends less than {} bytes a second", limits::SLOWEST_DOWNLOAD)]
    Trickling { host: String },
    /// The connection broke before the answer was complete.
    #[error("the connection to {host} broke: {reason}")]
    Broken { host: String, reason: String, source: reqwest::Error },
    /// A redirect that cannot be followed.
    #[error("{0}")]
    Redirect(String),
    /// The settings of a host that a redirect led to cannot be used.
    #[error(transparent)]
    Settings { source: Arc<HostsError> },
}

/// No whole body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// More bytes than the caller is prepared to hold.
    #[error("longer than {limit} bytes")]
    TooLong { limit: u64 },
    /// It broke off.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Failure {
    /// Sorts an error met before the answer's headers were there.
    pub(crate) fn sending(url: &Url, error: reqwest::Error) -> Self {
        let (host, source) = (host_of(url), error.without_url());
        if !source.is_connect() {
            return Self::Broken { host, reason: root_cause(&source), source };
        }
        let tls = tls_error(&source);
        let reason = match tls {
            _ if source.is_timeout() => "timed out".to_owned(),
            Some(rustls::Error::InvalidMessage(_)) => {
                "the server does not speak TLS (name it as a plain HTTP registry if that is meant)".to_owned()
            }
            _ => root_cause(&source),
        };
        let hopeless = tls.is_some();
        Self::Connect { host, reason, hopeless, source }
    }

    /// Makes a failure of a pool of connections that cannot be made: nothing was sent.
    pub(crate) fn dialling(url: &Url, error: reqwest::Error) -> Self {
        Self::Connect { host: host_of(url), reason: root_cause(&error), hopeless: true, source: error }
    }

    /// Sorts an error met in the middle of a body.
    pub(crate) fn receiving(url: &Url, error: reqwest::Error) -> Self {
        let (host, source) = (host_of(url), error.without_url());
        Self::Broken { host, reason: root_cause(&source), source }
    }

    pub(crate) fn silent(url: &Url, after: Duration) -> Self {
        Self::Silent { host: host_of(url), after }
    }

    pub(crate) fn trickling(url: &Url) -> Self {
        Self::Trickling { host: host_of(url) }
    }

    /// Whether another try makes sense; what was never sent can always be sent again.
    pub(crate) fn may_repeat(&self, repeatable: bool) -> bool {
        match self {
            Self::Connect { hopeless, .. } => !hopeless,
            Self::Silent { .. } | Self::Trickling { .. } | Self::Broken { .. } => repeatable,
            Self::Redirect(_) | Self::Settings { .. } => false,
        }
    }
}

/// The innermost cause, in the plainest words there are for it.
fn root_cause(error: &reqwest::Error) -> String {
    let root = causes(error).last().unwrap_or(error);
    match root.downcast_ref::<io::Error>() {
        Some(io) if io.raw_os_error().is_some() => plain(io),
        _ => root.to_string(),
    }
}

/// "connection refused" rather than "Connection refused (os error 111)"; but where the standard library
/// has no kind for an error, the system's words are the better ones.
fn plain(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    if matches!(kind.as_str(), "other error" | "uncategorized error") { error.to_string() } else { kind }
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// The error and what caused it, outermost first. An `io::Error` hides what it wraps from `source`.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}
