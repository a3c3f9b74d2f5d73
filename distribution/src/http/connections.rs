//! Pools of connections: one for each way of dialling hosts, and of each several: those that trust authorities, which plain HTTP
//! has no use for, and those past the system's proxies, for loopback, which no proxy can serve.
//!
//! A pool is made when it is first needed, once, by a thread that may block: reading the system's authorities takes tens of
//! milliseconds, and nobody who asks another host waits for it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jaunt_formats::Digest;
use lru::LruCache;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, Url, redirect};
use tokio::sync::OnceCell;

use crate::hosts::{Dial, is_loopback};
use crate::limits;

/// Bandwidth times delay of 1 Gbit/s over 30 ms: a smaller window would throttle one HTTP/2 stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Room for two streams at full speed on the one connection HTTP/2 opens, beside four whose bytes nobody takes for the time
/// being: those hold a window each.
const CONNECTION_WINDOW: u32 = 6 * STREAM_WINDOW;

/// What tells the way to a proxy for plain HTTP, as reqwest reads it.
const PROXY_VARIABLES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Every pool there is.
pub(crate) struct Connections {
    user_agent: String,
    connect_timeout: Duration,
    /// Whether the system's proxy for plain HTTP is one to be trusted first.
    proxy_is_tls: bool,
    pools: Mutex<LruCache<Pool, Arc<OnceCell<Client>>>>,
    /// How often authorities were read.
    #[cfg(test)]
    trusting: std::sync::atomic::AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pool {
    /// Plain HTTP on loopback.
    Plain,
    /// A way of dialling.
    Dialled(Digest, Way),
}

/// What differs between URLs whose hosts are dialled alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    /// Past all proxies.
    loopback: bool,
    /// With authorities to trust.
    trusts: bool,
}

impl Connections {
    /// No pool yet but the one that needs nothing; so an unusable user agent is found at once.
    pub(crate) fn new(user_agent: &str, connect_timeout: Duration) -> Result<Self, reqwest::Error> {
        // Fails only when the process has chosen a provider already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut pools = LruCache::new(NonZeroUsize::new(limits::DIALS).unwrap_or(NonZeroUsize::MIN));
        let plain = builder(user_agent, connect_timeout).no_proxy().tls_certs_only([]).build()?;
        pools.put(Pool::Plain, Arc::new(OnceCell::new_with(Some(plain))));
        let proxies = PROXY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
        let proxy_is_tls = proxies.into_iter().any(|proxy| proxy.to_ascii_lowercase().starts_with("https:"));
        let user_agent = user_agent.to_owned();
        Ok(Self {
            user_agent,
            connect_timeout,
            proxy_is_tls,
            pools: Mutex::new(pools),
            #[cfg(test)]
            trusting: Default::default(),
        })
    }

    /// The pool for a URL whose host is dialled so.
    pub(crate) async fn to(self: &Arc<Self>, url: &Url, dial: &Dial) -> Result<Client, reqwest::Error> {
        self.made_by(url, dial, Self::dialled_anyhow).await
    }

    /// The same, made by a function where there is none yet. One that fails leaves that to the next.
    pub(crate) async fn made_by(
        self: &Arc<Self>,
        url: &Url,
        dial: &Dial,
        make: fn(&Self, &Dial, Way) -> Result<Client, reqwest::Error>,
    ) -> Result<Client, reqwest::Error> {
        let way = self.way(url, dial);
        let parts = dial.parts();
        let ordinary = parts.proxy.is_none() && parts.connect_timeout == self.connect_timeout;
        let pool = match way {
            Way { loopback: true, trusts: false } if ordinary => Pool::Plain,
            way => Pool::Dialled(dial.fingerprint(), way),
        };
        let cell = self.lock().get_or_insert(pool, Arc::default).clone();
        let made = || async {
            let (this, its_dial) = (self.clone(), dial.clone());
            let made = tokio::task::spawn_blocking(move || make(&this, &its_dial, way)).await;
            // Threads are refused only while the runtime ends.
            made.unwrap_or_else(|_| make(self, dial, way))
        };
        cell.get_or_try_init(made).await.cloned()
    }

    fn way(&self, url: &Url, dial: &Dial) -> Way {
        let loopback = url.host_str().is_some_and(is_loopback);
        let proxy_is_tls = match &dial.parts().proxy {
            Some(proxy) => proxy.scheme() == "https",
            None => self.proxy_is_tls && !loopback,
        };
        Way { loopback, trusts: url.scheme() != "http" || proxy_is_tls }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Pool, Arc<OnceCell<Client>>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dialled(&self, dial: &Dial, way: Way) -> Result<Client, reqwest::Error> {
        let builder = self.builder(dial, way)?;
        if !way.trusts {
            return builder.tls_certs_only([]).build();
        }
        #[cfg(test)]
        self.trusting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        builder.build()
    }

    /// The same, also where there is nobody to trust.
    fn dialled_anyhow(&self, dial: &Dial, way: Way) -> Result<Client, reqwest::Error> {
        self.dialled(dial, way).or_else(|error| {
            tracing::warn!(%error, "no CA certificates found: HTTPS registries cannot be trusted");
            self.builder(dial, way)?.tls_certs_only([]).build()
        })
    }

    fn builder(&self, dial: &Dial, way: Way) -> Result<ClientBuilder, reqwest::Error> {
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
            None if way.loopback => builder.no_proxy(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::TlsSettings;

    #[tokio::test]
    async fn plain_http_reads_no_authorities_and_who_needs_them_has_them_read_once() {
        let pools = Arc::new(Connections::new("test", Duration::from_secs(1)).unwrap());
        let none = TlsSettings::default();
        let dial = Dial::load(&none, &none, Duration::from_secs(1), None).unwrap();
        let way = |url: &str, dial: &Dial| pools.way(&url.parse().unwrap(), dial);
        let (plain, tls) = (way("http://r.example/v2/", &dial), way("https://r.example/v2/", &dial));
        assert_eq!((plain.trusts, plain.loopback, tls.trusts), (false, false, true));
        assert!(way("http://127.0.0.1:5000/v2/", &dial).loopback);
        let proxy = Some("https://proxy.example:3128".parse().unwrap());
        let proxied = Dial::load(&none, &none, Duration::from_secs(1), proxy).unwrap();
        assert!(way("http://r.example/v2/", &proxied).trusts, "its proxy is to be trusted");

        let read = || pools.trusting.load(std::sync::atomic::Ordering::Relaxed);
        let [plain, tls] = ["http://r.example/v2/", "https://r.example/v2/"].map(|url| url.parse().unwrap());
        pools.to(&plain, &dial).await.unwrap();
        assert_eq!(read(), 0);
        let both = tokio::join!(pools.to(&tls, &dial), pools.to(&tls, &dial));
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(read(), 1);
    }
}
