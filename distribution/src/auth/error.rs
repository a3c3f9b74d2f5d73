//! Why there is no authorization to send.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

use crate::credentials::CredentialsError;
use crate::hosts::HostsError;
use crate::http::{BodyError, Failure};
use crate::limits;

/// Why a registry's demand for authentication could not be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The challenge cannot be acted upon.
    #[error("the registry's authentication challenge is unusable: {reason}")]
    Challenge {
        /// What is wrong with it.
        reason: String,
    },
    /// A registry on HTTPS sent us to a token service on plain HTTP.
    #[error("the registry's token service {host} is on plain HTTP: no credentials are sent there")]
    InsecureRealm {
        /// The token service.
        host: String,
    },
    /// The credentials exist but cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The registry wants a password, and the login left a token.
    #[error("the registry wants a password, but the configured login for {registry} is a token")]
    NoPassword {
        /// The registry.
        registry: String,
    },
    /// The token service refused.
    #[error("token service {host} answered {status}{}", advice(*status))]
    Refused {
        /// The token service.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// Whether the status tells of a passing trouble.
        passes: bool,
        /// How long it wants to be left alone, where it says so.
        retry_after: Option<Duration>,
    },
    /// The token service cannot be reached.
    #[error("token service {host}: cannot connect: {reason}")]
    Unreachable {
        /// The token service.
        host: String,
        /// The innermost cause.
        reason: String,
        /// The whole cause.
        source: reqwest::Error,
    },
    /// The token service was connected to, and then silent.
    #[error("token service {host}: no answer within {after:?}")]
    TimedOut {
        /// The token service.
        host: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The token service sends, but so slowly that it would hold its reader for ever.
    #[error("token service {host} sends less than {} bytes a second", limits::SLOWEST_DOWNLOAD)]
    TooSlow {
        /// The token service.
        host: String,
    },
    /// The connection to the token service broke.
    #[error("token service {host}: the connection broke: {reason}")]
    Interrupted {
        /// The token service.
        host: String,
        /// The innermost cause.
        reason: String,
        /// The whole cause.
        source: reqwest::Error,
    },
    /// The settings of the token service's host cannot be used.
    #[error("token service: {source}")]
    Hosts {
        /// The cause.
        source: Arc<HostsError>,
    },
    /// The token service's answer makes no sense.
    #[error("the token answer {reason}")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
}

impl AuthError {
    /// Whether another try may succeed without anything being changed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooSlow { .. }
            | Self::Interrupted { .. } => true,
            Self::Refused { passes, .. } => *passes,
            _ => false,
        }
    }

    /// How long the token service wants to be left alone, where it says so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether another login may be good where this one is not.
    pub(crate) fn is_of_the_login(&self) -> bool {
        match self {
            Self::NoPassword { .. } => true,
            Self::Refused { status, .. } => {
                [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status)
            }
            _ => false,
        }
    }

    pub(crate) fn from_failure(host: &str, failure: Failure) -> Self {
        match failure {
            Failure::Connect { host, reason, source, .. } => Self::Unreachable { host, reason, source },
            Failure::Silent { host, after } => Self::TimedOut { host, after },
            Failure::Trickling { host } => Self::TooSlow { host },
            Failure::Broken { host, reason, source } => Self::Interrupted { host, reason, source },
            Failure::Settings { source } => Self::Hosts { source },
            Failure::Redirect(reason) => {
                Self::Answer { reason: format!("from {host} is a redirect: {reason}") }
            }
        }
    }

    pub(crate) fn from_body(host: &str, error: BodyError) -> Self {
        match error {
            BodyError::TooLong { .. } => Self::Answer { reason: format!("from {host} is {error}") },
            BodyError::Failed(failure) => Self::from_failure(host, failure),
        }
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ": the login is wrong or has no such right",
        _ => "",
    }
}
