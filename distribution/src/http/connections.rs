//! Pools of connections: one for each way of dialling hosts, and of each two: one that honours the
//! system's proxies, and one for loopback, which no proxy can serve.
//!
//! A pool is made when it is first needed: reading the system's authorities takes milliseconds.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jaunt_formats::Digest;
use lru::LruCache;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, Url, redirect};

use crate::hosts::{Dial, is_loopback};
use crate::limits;

/// Bandwidth times delay of 1 Gbit/s over 30 ms: a smaller window would throttle one HTTP/2 stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Room for four streams at full speed on the one connection HTTP/2 opens.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// Every pool there is.
pub(crate) struct Connections {
    user_agent: String,
    connect_timeout: Duration,
    pools: Mutex<LruCache<Pool, Client>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pool {
    /// Plain HTTP on loopback.
    Plain,
    /// A way of dialling, and whether past all proxies.
    Dialled(Digest, bool),
}

impl Connections {
    /// No pool yet but the one that needs nothing; so an unusable user agent is found at once.
    pub(crate) fn new(user_agent: &str, connect_timeout: Duration) -> Result<Self, reqwest::Error> {
        // Fails only when the process has chosen a provider already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut pools = LruCache::new(NonZeroUsize::new(limits::DIALS).unwrap_or(NonZeroUsize::MIN));
        let plain = builder(user_agent, connect_timeout).no_proxy().tls_certs_only([]).build()?;
        pools.put(Pool::Plain, plain);
        Ok(Self { user_agent: user_agent.to_owned(), connect_timeout, pools: Mutex::new(pools) })
    }

    /// The pool for a URL whose host is dialled so.
    pub(crate) fn to(&self, url: &Url, dial: &Dial) -> Result<Client, reqwest::Error> {
        let loopback = url.host_str().is_some_and(is_loopback);
        let parts = dial.parts();
        let ordinary = parts.proxy.is_none() && parts.connect_timeout == self.connect_timeout;
        let pool = match (loopback, url.scheme()) {
            (true, "http") if ordinary => Pool::Plain,
            _ => Pool::Dialled(dial.fingerprint(), loopback),
        };
        let lock = || self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = lock().get(&pool) {
            return Ok(client.clone());
        }
        let client = self.dialled(dial, loopback)?;
        // Whoever else made it meanwhile has made the same.
        Ok(lock().get_or_insert(pool, || client).clone())
    }

    fn dialled(&self, dial: &Dial, loopback: bool) -> Result<Client, reqwest::Error> {
        self.builder(dial, loopback)?.build().or_else(|error| {
            tracing::warn!(%error, "no CA certificates found: HTTPS registries cannot be trusted");
            self.builder(dial, loopback)?.tls_certs_only([]).build()
        })
    }

    fn builder(&self, dial: &Dial, loopback: bool) -> Result<ClientBuilder, reqwest::Error> {
        let parts = dial.parts();
        let mut builder = builder(&self.user_agent, parts.connect_timeout);
        let authorities = parts.authorities.iter().map(|authority| Certificate::from_der(authority));
        builder = builder.tls_certs_merge(authorities.collect::<Result<Vec<_>, _>>()?);
        if let Some(identity) = &parts.identity {
            builder = builder.identity(Identity::from_pem(identity)?);
        }
        if parts.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        Ok(match &parts.proxy {
            Some(proxy) => builder.proxy(Proxy::all(proxy.clone())?),
            None if loopback => builder.no_proxy(),
            None => builder,
        })
    }
}

fn builder(user_agent: &str, connect_timeout: Duration) -> ClientBuilder {
    Client::builder()
        .redirect(redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        .connect_timeout(connect_timeout)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .user_agent(user_agent)
}
