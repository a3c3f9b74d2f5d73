//! The client itself: what its calls share. The calls are in `manifest`, `blob`, `referrers`, `push`
//! and `upload`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};

use crate::auth::Access;
use crate::config::ClientConfig;
use crate::credentials::Credentials;
use crate::endpoint::{Endpoints, InvalidHost};
use crate::error::Error;
use crate::http::{Answer, Http};
use crate::redirect::SignedUrls;
use crate::request::{Call, Transport};
use crate::target::Target;

/// A client of every registry. Cheap to clone; clones share connections, tokens and signed URLs.
///
/// Must be used within a tokio runtime. Dropping a call's future cancels it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// The time each call may take.
    limit: Option<Duration>,
}

struct Shared {
    transport: Transport,
    endpoints: Endpoints,
    signed_urls: SignedUrls,
    attempts: u32,
}

impl Client {
    /// A client with these settings. No connection is made yet.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let http = Http::new(&config).map_err(|source| Error::Setup { source })?;
        let transport = Transport::new(http, Credentials::new(config.docker_config));
        let endpoints = Endpoints::new(config.plain_http);
        let attempts = config.attempts.max(1);
        Ok(Self {
            shared: Arc::new(Shared { transport, endpoints, signed_urls: SignedUrls::new(), attempts }),
            limit: None,
        })
    }

    /// The same client for calls that must be done within `limit`, tokens, retries, redirects and body
    /// included; else they end in [`Error::Deadline`]. Of a stream or an upload, it limits the opening.
    ///
    /// Without it a call ends as well, but only the silences in it are limited, and its slowness: see
    /// [`ClientConfig::read_timeout`] and [`limits::SLOWEST_DOWNLOAD`](crate::limits::SLOWEST_DOWNLOAD).
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), limit: Some(limit) }
    }

    /// Runs a call within the time it may take.
    pub(crate) async fn bounded<T>(
        &self,
        target: &Target,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(after) = self.limit else { return call.await };
        let late = |_| Err(Error::Deadline { target: Box::new(target.clone()), after });
        tokio::time::timeout(after, call).await.unwrap_or_else(late)
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.shared.endpoints
    }

    pub(crate) fn signed_urls(&self) -> &SignedUrls {
        &self.shared.signed_urls
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.shared.attempts
    }

    /// A call to a URL of this client's making.
    pub(crate) fn call(
        &self,
        method: Method,
        url: Result<Url, InvalidHost>,
        target: Target,
        access: Access,
    ) -> Result<Call, Error> {
        match url {
            Ok(url) => Ok(Call::new(self.transport(), method, url, target, access)),
            Err(InvalidHost) => {
                let reason = "the registry's host is not valid in a URL";
                Err(Error::InvalidName { target: Box::new(target), reason })
            }
        }
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
        f.debug_struct("Client").field("endpoints", self.endpoints()).finish_non_exhaustive()
    }
}
