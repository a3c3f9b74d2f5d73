//! HTTP as this crate uses it: one request, sent until answered, redirects followed by hand.
//!
//! Knows nothing of tokens or of what is in a registry. Invariant: the `authorization` of a [`Request`]
//! and its host's own headers go to the origin of its URL only; once a redirect has left that origin they
//! are not sent again, even if a later redirect leads back. A client certificate is for its host only.

mod body;
mod connections;
mod expiry;
mod failure;
mod retry;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use crate::config::ClientConfig;
use crate::hosts::{Dial, Router};
use crate::limits;

pub(crate) use body::{Body, drain, read_whole};
use connections::Connections;
use expiry::expiry;
pub(crate) use failure::{BodyError, Failure};
pub(crate) use retry::{Backoff, passes, retry_after};

/// Sends requests.
#[derive(Clone)]
pub(crate) struct Http {
    connections: Arc<Connections>,
    router: Router,
    pub(crate) attempts: u32,
    /// Longest silence tolerated from a server that owes us an answer.
    pub(crate) patience: Duration,
}

/// A request that can be sent more than once.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) authorization: Option<HeaderValue>,
    /// For the origin of the URL only, like the authorization.
    pub(crate) host_headers: HeaderMap,
    /// How the origin of the URL is connected to.
    pub(crate) dial: Dial,
    /// Whether sending it again is harmless when the first try may have been acted upon.
    pub(crate) repeatable: bool,
    /// Longest wait for the answer's headers.
    pub(crate) patience: Duration,
    /// How often it is tried.
    pub(crate) attempts: u32,
    /// The longest pause that a server may ask for.
    pub(crate) longest_pause: Duration,
    /// No pause before another try may reach beyond this.
    pub(crate) deadline: Option<Instant>,
}

/// An answer of any status but a redirect.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Where it came from, when a redirect led to another origin.
    pub(crate) elsewhere: Option<Elsewhere>,
}

/// A URL of another origin that a redirect led to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) url: Url,
    /// When it stops being good, where it says so.
    pub(crate) expires: Option<Instant>,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }
}

impl Request {
    /// A request without a body, to be sent as often as `http` sends one.
    pub(crate) fn new(http: &Http, method: Method, url: Url, dial: Dial) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            authorization: None,
            host_headers: HeaderMap::new(),
            dial,
            repeatable: true,
            patience: http.patience,
            attempts: http.attempts,
            longest_pause: limits::RETRY_AFTER,
            deadline: None,
        }
    }
}

/// One hop of a request: the request itself, or one that a redirect led to.
struct Hop<'a> {
    request: &'a Request,
    url: Url,
    dial: Dial,
    elsewhere: Option<Elsewhere>,
}

impl Http {
    pub(crate) fn new(config: &ClientConfig, router: Router) -> Result<Self, reqwest::Error> {
        let connections = Arc::new(Connections::new(&config.user_agent, config.connect_timeout)?);
        Ok(Self { connections, router, attempts: config.attempts.max(1), patience: config.read_timeout })
    }

    /// Makes what the first request to an HTTPS host without settings of its own waits for.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        let dial = self.router.ordinary().await.map_err(|source| Failure::Settings { source })?;
        // Never asked: it stands for all of them.
        let Ok(url) = Url::parse("https://registry.invalid/") else { return Ok(()) };
        // Where there is nobody to trust yet, the first request looks again.
        let made = self.connections.made_by(&url, &dial, Connections::dialled).await;
        made.map(drop).map_err(|error| Failure::dialling(&url, error))
    }

    /// How to connect to a URL that a host connected to by `from` led to; `there` is of that host.
    pub(crate) async fn dial(&self, url: &Url, there: &Url, from: &Dial) -> Result<Dial, Failure> {
        if url.origin() == there.origin() {
            return Ok(from.clone());
        }
        self.router.elsewhere(url, from).await.map_err(|source| Failure::Settings { source })
    }

    /// Sends until answered, following redirects of GET and HEAD.
    pub(crate) async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let (url, dial) = (request.url.clone(), request.dial.clone());
        let mut hop = Hop { request, url, dial, elsewhere: None };
        for _ in 0..=limits::REDIRECTS {
            let response = self.send_until_answered(&hop).await?;
            let Some(target) = redirect_target(&request.method, &response)? else {
                return Ok(Answer { response, elsewhere: hop.elsewhere });
            };
            hop.dial = self.dial(&target, &hop.url, &hop.dial).await?;
            if hop.elsewhere.is_some() || target.origin() != request.url.origin() {
                let expires = expiry(&target, response.headers());
                hop.elsewhere = Some(Elsewhere { url: target.clone(), expires });
            }
            drain(response).await;
            hop.url = target;
        }
        Err(Failure::Redirect(format!("more than {} redirects", limits::REDIRECTS)))
    }

    /// Sends a body that exists only once: no retry, no redirect, and no limit on the time taken,
    /// which is the body's producer's to set.
    pub(crate) async fn send_stream(&self, request: Request, body: reqwest::Body) -> Result<Answer, Failure> {
        let (url, dial) = (request.url.clone(), request.dial.clone());
        let hop = Hop { request: &request, url, dial, elsewhere: None };
        let built = self.build(&hop).await?.body(body);
        let response = built.send().await.map_err(|error| Failure::sending(&request.url, error))?;
        match redirect_target(&request.method, &response)? {
            Some(_) => Err(Failure::Redirect(format!("a {} was redirected", request.method))),
            None => Ok(Answer { response, elsewhere: None }),
        }
    }

    async fn send_until_answered(&self, hop: &Hop<'_>) -> Result<Response, Failure> {
        let request = hop.request;
        let mut backoff = Backoff::new(request.attempts).with_longest(request.longest_pause);
        loop {
            let outcome = self.send_once(hop).await;
            let pause = match &outcome {
                Ok(response) if request.repeatable => backoff.after_answer(response),
                Err(failure) if failure.may_repeat(request.repeatable) => backoff.after_failure(),
                _ => None,
            };
            // Nothing is gained by waiting for what comes too late: what is known now says more.
            let in_time = |pause: &Duration| request.deadline.is_none_or(|end| Instant::now() + *pause < end);
            let Some(pause) = pause.filter(in_time) else { return outcome };
            match outcome {
                Ok(response) => {
                    tracing::debug!(host = hop.url.host_str(), status = %response.status(), ?pause, "will retry");
                    drain(response).await;
                }
                Err(failure) => tracing::debug!(host = hop.url.host_str(), %failure, ?pause, "will retry"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn send_once(&self, hop: &Hop<'_>) -> Result<Response, Failure> {
        let mut built = self.build(hop).await?;
        if !hop.request.body.is_empty() {
            built = built.body(hop.request.body.clone());
        }
        match tokio::time::timeout(hop.request.patience, built.send()).await {
            Ok(outcome) => outcome.map_err(|error| Failure::sending(&hop.url, error)),
            Err(_) => Err(Failure::silent(&hop.url, hop.request.patience)),
        }
    }

    async fn build(&self, hop: &Hop<'_>) -> Result<reqwest::RequestBuilder, Failure> {
        let Hop { request, url, dial, elsewhere } = hop;
        let client = self.connections.to(url, dial).await.map_err(|error| Failure::dialling(url, error))?;
        let mut headers = HeaderMap::new();
        if elsewhere.is_none() {
            headers.extend(request.host_headers.clone());
            headers.extend(request.authorization.clone().map(|value| (AUTHORIZATION, value)));
        }
        headers.extend(request.headers.clone());
        Ok(client.request(request.method.clone(), url.clone()).headers(headers))
    }
}

/// Where a response redirects to, if it does.
fn redirect_target(method: &Method, response: &Response) -> Result<Option<Url>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Failure::Redirect(format!("a {method} was redirected")));
    }
    location(response).map(Some)
}

/// The `Location` of a response, resolved against the URL it came from. Its text may hold a signature
/// and so appears in no failure.
pub(crate) fn location(response: &Response) -> Result<Url, Failure> {
    let bad = |why: &str| Failure::Redirect(format!("{} {why}", response.status().as_u16()));
    let value = response.headers().get(LOCATION).ok_or_else(|| bad("without a Location header"))?;
    let url = value
        .to_str()
        .ok()
        .and_then(|text| response.url().join(text).ok())
        .ok_or_else(|| bad("with a malformed Location header"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(bad("to something other than HTTP")),
    }
}
