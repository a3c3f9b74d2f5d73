//! The client itself: what its calls share. The calls are in `manifest`, `blob`, `referrers`, `tags`,
//! `push` and `upload`; which host they go to is for `failover`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};

use crate::asked::Asked;
use crate::auth::Access;
use crate::config::ClientConfig;
use crate::credentials::Credentials;
use crate::ending::Endings;
use crate::error::Error;
use crate::hosts::Router;
use crate::http::{Answer, Http};
use crate::limits;
use crate::request::{Call, Transport};
use crate::target::Target;
use crate::turn::Turn;
use crate::whereabouts::Whereabouts;

/// A client of every registry. Cheap to clone; clones share connections, tokens and signed URLs.
///
/// Must be used within a tokio runtime. Dropping a call's future cancels it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// The time each call may take.
    limit: Option<Duration>,
    mirrors: bool,
    /// The longest pause that a registry may ask for.
    longest_pause: Duration,
    /// The most that is skipped of a blob for a range of it.
    longest_skip: u64,
}

struct Shared {
    transport: Transport,
    router: Router,
    whereabouts: Whereabouts,
    asked: Asked,
    attempts: u32,
    endings: Endings,
}

impl Client {
    /// A client with these settings. No connection is made yet, and no file is read.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let router = Router::new(config.hosts.clone(), config.plain_http.clone(), config.connect_timeout);
        let http = Http::new(&config, router.clone()).map_err(|source| Error::Setup { source })?;
        let credentials = Credentials::new(config.auth_files);
        let credentials = credentials.after(config.given_logins, config.pull_secrets);
        let transport = Transport::new(http, credentials);
        let attempts = config.attempts.max(1);
        let (whereabouts, asked, endings) = (Whereabouts::new(), Asked::new(), Endings::default());
        let shared = Shared { transport, router, whereabouts, asked, attempts, endings };
        let (longest_pause, longest_skip) = (limits::RETRY_AFTER, u64::MAX);
        Ok(Self { shared: Arc::new(shared), limit: None, mirrors: true, longest_pause, longest_skip })
    }

    /// The same client for calls that must be done within `limit`, tokens, retries, redirects and body
    /// included; else they end in [`Error::Deadline`]. Of a stream or an upload, it limits the opening.
    ///
    /// Without it a call ends as well, but only the silences in it are limited, and its slowness: see
    /// [`ClientConfig::read_timeout`] and [`limits::SLOWEST_DOWNLOAD`](crate::limits::SLOWEST_DOWNLOAD).
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self.clone() }
    }

    /// The same client for calls that ask no mirror: for those who write and must see what is there, and
    /// for those to whom a mirror gave bytes that were not what they should be.
    #[must_use]
    pub fn without_mirrors(&self) -> Self {
        Self { mirrors: false, ..self.clone() }
    }

    /// The same client for calls that end at once with [`Error::Status`] where a registry wants to be left alone for
    /// longer than `longest`: for those who can turn to another one meanwhile.
    #[must_use]
    pub fn pausing_at_most(&self, longest: Duration) -> Self {
        Self { longest_pause: longest, ..self.clone() }
    }

    /// The same client for calls that end with [`Error::RangesIgnored`] where a server that gives whole blobs alone would have to
    /// send more than `longest` bytes in front of a range: for those who can make use of the whole.
    #[must_use]
    pub fn skipping_at_most(&self, longest: u64) -> Self {
        Self { longest_skip: longest, ..self.clone() }
    }

    /// Makes ready what the first request to an HTTPS registry would wait for: the authorities that the system trusts, whose reading
    /// takes tens of milliseconds. What goes wrong is told by requests.
    pub async fn prepare(&self) {
        if let Err(error) = self.transport().http.prepare().await {
            tracing::debug!(%error, "connections by TLS are not ready");
        }
    }

    /// Waits until every upload that was dropped unfinished has been cancelled: for those about to end.
    pub async fn settled(&self) {
        self.shared.endings.over().await;
    }

    pub(crate) fn endings(&self) -> &Endings {
        &self.shared.endings
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    pub(crate) fn router(&self) -> &Router {
        &self.shared.router
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.shared.asked
    }

    pub(crate) fn whereabouts(&self) -> &Whereabouts {
        &self.shared.whereabouts
    }

    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    pub(crate) fn asks_mirrors(&self) -> bool {
        self.mirrors
    }

    pub(crate) fn longest_skip(&self) -> u64 {
        self.longest_skip
    }

    /// How often a host is asked in its turn.
    pub(crate) fn attempts(&self, turn: &Turn) -> u32 {
        if turn.last { self.shared.attempts } else { 1 }
    }

    /// A call to the host whose turn it is.
    pub(crate) fn call(&self, turn: &Turn, method: Method, url: Url, target: Target, access: Access) -> Call {
        Call::new(self.transport(), turn, method, url, target, access)
            .tried(self.attempts(turn))
            .pausing_at_most(self.longest_pause)
    }

    /// Sends a call; any status but success is an error.
    pub(crate) async fn succeed(&self, call: Call) -> Result<Answer, Error> {
        let target = call.target.clone();
        let answer = self.transport().send(call).await?;
        self.transport().succeeded(&target, answer).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("limit", &self.limit)
            .field("mirrors", &self.mirrors)
            .finish_non_exhaustive()
    }
}
