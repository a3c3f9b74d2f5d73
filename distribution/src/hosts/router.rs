//! From a registry's name to its routes: settings loaded, checked, and kept for a while.
//!
//! HTTPS unless the registry is on loopback and has no TLS settings of its own, or was named in
//! `plain_http`; there is no falling back from one to the other. `docker.io` is a name of images, its API
//! lives on another host.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use reqwest::Url;

use crate::hosts::dial::Dial;
use crate::hosts::directory::{self, Found};
use crate::hosts::error::HostsError;
use crate::hosts::name::{host_of, is_loopback, without_port};
use crate::hosts::route::{DOCKER_API, Route, is_docker};
use crate::hosts::settings::{Host, HostSettings, RegistryHosts, TlsSettings};
use crate::hosts::standing::Standing;
use crate::limits;

/// How long settings are used before they are looked at again.
const FRESH: Duration = Duration::from_secs(30);

/// Every way to one registry.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Best first.
    pub(crate) mirrors: Vec<Arc<Route>>,
    /// The registry itself.
    pub(crate) own: Arc<Route>,
    /// Whether its TLS settings were made for this host, and are not everybody's.
    tls_is_own: bool,
}

/// Knows the routes to every registry. Cheap to clone; clones share what they have loaded.
#[derive(Clone)]
pub(crate) struct Router(Arc<Inner>);

struct Inner {
    settings: HostSettings,
    plain_http: BTreeSet<String>,
    connect_timeout: Duration,
    routes: Mutex<LruCache<String, Known>>,
    /// By the URL of the API.
    standings: Mutex<LruCache<String, Standing>>,
}

#[derive(Clone)]
struct Known {
    routes: Arc<Routes>,
    read: Instant,
}

impl Router {
    pub(crate) fn new(
        settings: HostSettings,
        plain_http: BTreeSet<String>,
        connect_timeout: Duration,
    ) -> Self {
        let capacity = NonZeroUsize::new(limits::HOSTS).unwrap_or(NonZeroUsize::MIN);
        Self(Arc::new(Inner {
            settings,
            plain_http,
            connect_timeout,
            routes: Mutex::new(LruCache::new(capacity)),
            standings: Mutex::new(LruCache::new(capacity)),
        }))
    }

    /// The routes to a registry.
    pub(crate) async fn routes(&self, registry: &str) -> Result<Arc<Routes>, Arc<HostsError>> {
        let known = lock(&self.0.routes).get(registry).cloned();
        if let Some(known) = known.as_ref().filter(|known| self.is_fresh(known)) {
            return Ok(Arc::clone(&known.routes));
        }
        let (inner, name) = (Arc::clone(&self.0), registry.to_owned());
        // Directories may be on a file system that is slow or gone.
        let loaded = tokio::task::spawn_blocking(move || inner.load(&name)).await;
        let routes = match (loaded, known) {
            (Ok(Ok(routes)), _) => Arc::new(routes),
            // Somebody may be writing the file just now, and what was read before still works.
            (Ok(Err(error)), Some(known)) => {
                tracing::warn!(registry, %error, "the settings are as they were before");
                known.routes
            }
            (Ok(Err(error)), None) => return Err(Arc::new(error)),
            (Err(_), Some(known)) => known.routes,
            (Err(stopped), None) => return Err(Arc::new(HostsError::Interrupted { source: stopped })),
        };
        let known = Known { routes: Arc::clone(&routes), read: Instant::now() };
        lock(&self.0.routes).put(registry.to_owned(), known);
        Ok(routes)
    }

    /// The routes to a registry as they were last read, if they were.
    pub(crate) fn known(&self, registry: &str) -> Option<Arc<Routes>> {
        lock(&self.0.routes).peek(registry).map(|known| Arc::clone(&known.routes))
    }

    /// How to connect to hosts that have no settings of their own.
    pub(crate) async fn ordinary(&self) -> Result<Dial, Arc<HostsError>> {
        let inner = Arc::clone(&self.0);
        let load =
            move || Dial::load(&TlsSettings::default(), &inner.settings.tls, inner.connect_timeout, None);
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.unwrap_or_else(|source| Err(HostsError::Interrupted { source })).map_err(Arc::new)
    }

    /// How to connect to a URL that a host connected to by `from` led to, on another origin.
    pub(crate) async fn elsewhere(&self, url: &Url, from: &Dial) -> Result<Dial, Arc<HostsError>> {
        let routes = self.routes(&host_of(url)).await?;
        Ok(if routes.tls_is_own { routes.own.dial.clone() } else { from.elsewhere() })
    }

    fn is_fresh(&self, known: &Known) -> bool {
        let settings = &self.0.settings;
        let reads_files =
            !settings.directories.is_empty() || !settings.tls.is_empty() || !settings.registries.is_empty();
        !reads_files || known.read.elapsed() < FRESH
    }
}

impl Inner {
    fn load(&self, registry: &str) -> Result<Routes, HostsError> {
        let (found, hosts) = self.settings_of(registry)?;
        let tls_is_own = found == Found::Own && !hosts.server.tls.is_empty();
        let own = self.route(registry, &hosts.server, tls_is_own)?;
        let mirrors = hosts
            .mirrors
            .iter()
            .map(|mirror| self.route(registry, mirror, false))
            .collect::<Result<_, _>>()?;
        Ok(Routes { mirrors, own, tls_is_own })
    }

    fn settings_of(&self, registry: &str) -> Result<(Found, RegistryHosts), HostsError> {
        if let Some(hosts) = self.settings.registries.get(registry) {
            return Ok((Found::Own, hosts.clone()));
        }
        for directory in &self.settings.directories {
            if let Some(found) = directory::read(directory, registry)? {
                return Ok(found);
            }
        }
        Ok((Found::Default, RegistryHosts::default()))
    }

    fn route(&self, registry: &str, host: &Host, has_tls: bool) -> Result<Arc<Route>, HostsError> {
        let api = match &host.api {
            Some(api) => api.url().clone(),
            None => self.default_api(registry, has_tls)?,
        };
        let own_tls = match &host.api {
            // A mirror without TLS settings may have some under its own name.
            Some(_) if host.tls.is_empty() => self.tls_of(&host_of(&api))?,
            _ => host.tls.clone(),
        };
        let connect_timeout = host.connect_timeout.unwrap_or(self.connect_timeout);
        let dial = Dial::load(&own_tls, &self.settings.tls, connect_timeout, host.proxy.clone())?;
        let standing = lock(&self.standings).get_or_insert(api.to_string(), Standing::default).clone();
        let route = Route::new(registry, api, host.capabilities, host.headers.clone(), dial, standing);
        Ok(Arc::new(route))
    }

    fn tls_of(&self, host: &str) -> Result<TlsSettings, HostsError> {
        match self.settings_of(host)? {
            (Found::Own, hosts) => Ok(hosts.server.tls),
            (Found::Default, _) => Ok(TlsSettings::default()),
        }
    }

    fn default_api(&self, registry: &str, has_tls: bool) -> Result<Url, HostsError> {
        let scheme = if self.is_plain(registry, has_tls) { "http" } else { "https" };
        let host = if is_docker(registry) { DOCKER_API } else { registry };
        Url::parse(&format!("{scheme}://{host}/v2"))
            .map_err(|_| HostsError::NoHost { registry: registry.to_owned() })
    }

    fn is_plain(&self, registry: &str, has_tls: bool) -> bool {
        let name = without_port(registry);
        self.plain_http.contains(registry) || self.plain_http.contains(name) || is_loopback(name) && !has_tls
    }
}

/// A panic elsewhere cannot leave these maps half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
