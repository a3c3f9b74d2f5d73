//! HTTP as this crate uses it: one request, sent until answered, redirects followed by hand.
//!
//! Knows nothing of registries or tokens. Invariant: the `authorization` of a [`Request`] goes to the
//! origin of its URL only; once a redirect has left that origin it is not sent again, even if a later
//! redirect leads back.

mod body;
mod expiry;
mod failure;
mod retry;

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, ClientBuilder, Method, Response, StatusCode, Url, redirect};

use crate::config::ClientConfig;
use crate::endpoint::is_loopback;
use crate::limits;

pub(crate) use body::{Body, drain, read_whole};
use expiry::expiry;
pub(crate) use failure::{BodyError, Failure, host_of};
pub(crate) use retry::{Backoff, passes};

/// Bandwidth times delay of 1 Gbit/s over 30 ms: a smaller window would throttle one HTTP/2 stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Room for four streams at full speed on the one connection HTTP/2 opens.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// Sends requests over two pools of connections: one that honours the system's proxies, and one for
/// loopback, which no proxy can serve.
#[derive(Clone)]
pub(crate) struct Http {
    proxied: Client,
    direct: Client,
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
    /// Whether sending it again is harmless when the first try may have been acted upon.
    pub(crate) repeatable: bool,
    /// Longest wait for the answer's headers.
    pub(crate) patience: Duration,
    /// How often it is tried.
    pub(crate) attempts: u32,
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

impl Http {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, reqwest::Error> {
        // Fails only when the process has chosen a provider already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let direct = builder(config).no_proxy().tls_certs_only([]).build()?;
        let proxied = builder(config).build().or_else(|error| {
            tracing::warn!(%error, "no CA certificates found: HTTPS registries cannot be trusted");
            builder(config).tls_certs_only([]).build()
        })?;
        Ok(Self { proxied, direct, attempts: config.attempts.max(1), patience: config.read_timeout })
    }

    /// Sends until answered, following redirects of GET and HEAD.
    pub(crate) async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        let mut elsewhere: Option<Elsewhere> = None;
        for _ in 0..=limits::REDIRECTS {
            let authorization = request.authorization.as_ref().filter(|_| elsewhere.is_none());
            let response = self.send_until_answered(request, &url, authorization).await?;
            let Some(target) = redirect_target(&request.method, &response)? else {
                return Ok(Answer { response, elsewhere });
            };
            if elsewhere.is_some() || target.origin() != request.url.origin() {
                let expires = expiry(&target, response.headers());
                elsewhere = Some(Elsewhere { url: target.clone(), expires });
            }
            drain(response).await;
            url = target;
        }
        Err(Failure::Redirect(format!("more than {} redirects", limits::REDIRECTS)))
    }

    /// Sends a body that exists only once: no retry, no redirect, and no limit on the time taken,
    /// which is the body's producer's to set.
    pub(crate) async fn send_stream(&self, request: Request, body: reqwest::Body) -> Result<Answer, Failure> {
        let built = self.build(&request, &request.url, request.authorization.as_ref()).body(body);
        let response = built.send().await.map_err(|error| Failure::sending(&request.url, error))?;
        match redirect_target(&request.method, &response)? {
            Some(_) => Err(Failure::Redirect(format!("a {} was redirected", request.method))),
            None => Ok(Answer { response, elsewhere: None }),
        }
    }

    async fn send_until_answered(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut backoff = Backoff::new(request.attempts);
        loop {
            let outcome = self.send_once(request, url, authorization).await;
            let pause = match &outcome {
                Ok(response) if request.repeatable => backoff.after_answer(response),
                Err(failure) if failure.may_repeat(request.repeatable) => backoff.after_failure(),
                _ => None,
            };
            let Some(pause) = pause else { return outcome };
            match outcome {
                Ok(response) => {
                    tracing::debug!(host = url.host_str(), status = %response.status(), ?pause, "will retry");
                    drain(response).await;
                }
                Err(failure) => tracing::debug!(host = url.host_str(), %failure, ?pause, "will retry"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn send_once(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut built = self.build(request, url, authorization);
        if !request.body.is_empty() {
            built = built.body(request.body.clone());
        }
        match tokio::time::timeout(request.patience, built.send()).await {
            Ok(outcome) => outcome.map_err(|error| Failure::sending(url, error)),
            Err(_) => Err(Failure::silent(url, request.patience)),
        }
    }

    fn build(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> reqwest::RequestBuilder {
        let loopback = url.scheme() == "http" && url.host_str().is_some_and(is_loopback);
        let client = if loopback { &self.direct } else { &self.proxied };
        let built = client.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        match authorization {
            Some(value) => built.header(AUTHORIZATION, value),
            None => built,
        }
    }
}

fn builder(config: &ClientConfig) -> ClientBuilder {
    Client::builder()
        .redirect(redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        .connect_timeout(config.connect_timeout)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .user_agent(&config.user_agent)
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
