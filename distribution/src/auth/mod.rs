//! Authorization for registries: asked for only when a registry asks us, then kept and shared.
//!
//! Each [`Access`] has a slot. Whoever finds its grant missing, refused or expired renews it while
//! holding the slot's lock; the others wait and share the outcome, a failure included, so that a slow
//! token service is asked once and not once for each waiter. A renewal that is cancelled leaves the
//! slot as it was, and the next waiter takes over.
//!
//! A registry that has asked before is answered in advance for its other repositories: that saves
//! them the refused first request.

mod access;
mod challenge;
mod error;
mod token;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};

use crate::credentials::{Credential, Credentials};
use crate::hosts::Dial;
use crate::http::Http;
use crate::limits;

pub(crate) use access::Access;
pub use error::AuthError;
use token::TokenService;

/// Of a token's life, the last part in which it is no longer used, so that it outlives its request.
const MARGIN: u32 = 10;
/// Logins tried for one grant.
pub(crate) const LOGINS: usize = 4;

/// Who asks for authorization: the host that a call goes to.
#[derive(Clone, Copy)]
pub(crate) struct Peer<'a> {
    pub(crate) url: &'a Url,
    pub(crate) dial: &'a Dial,
}

/// Something to send as `Authorization`.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) header: HeaderValue,
    pub(crate) obtained: Instant,
    expires: Option<Instant>,
    /// The login behind it; none was anonymous.
    login: Option<Credential>,
}

/// How a registry authenticates.
#[derive(Clone, Debug)]
enum Scheme {
    Basic,
    Bearer(TokenService),
}

#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<State>,
    /// Renewals that have ended; equal before and after a wait, nothing happened meanwhile.
    renewals: AtomicU64,
}

#[derive(Default)]
struct State {
    scheme: Option<Scheme>,
    grant: Option<Grant>,
    failure: Option<Arc<AuthError>>,
}

/// Holds every grant of a client.
pub(crate) struct Authenticator {
    http: Http,
    credentials: Credentials,
    slots: Mutex<LruCache<Access, Arc<Slot>>>,
    /// What hosts asked for last, by origin.
    schemes: Mutex<LruCache<String, Scheme>>,
}

impl Authenticator {
    /// Whether there is a login, as far as that can be told.
    pub(crate) async fn has_login(&self, host: &str, repository: &str) -> bool {
        self.credentials.find(host, repository).await.is_ok_and(|found| found.is_some())
    }

    /// Whether there is a login besides that of a grant, and of those that were tried before it.
    pub(crate) async fn has_other_login(&self, access: &Access, refused: &Grant, tried: &[Grant]) -> bool {
        let Some(login) = &refused.login else { return false };
        let other = self.login(access, Some(login)).await.ok().flatten();
        other.is_some_and(|other| {
            other != *login && tried.iter().all(|grant| grant.login.as_ref() != Some(&other))
        })
    }

    pub(crate) fn new(http: Http, credentials: Credentials) -> Self {
        let capacity = NonZeroUsize::new(limits::GRANTS).unwrap_or(NonZeroUsize::MIN);
        let (slots, schemes) = (LruCache::new(capacity), LruCache::new(capacity));
        Self { http, credentials, slots: Mutex::new(slots), schemes: Mutex::new(schemes) }
    }

    /// What to send with a request: `None` when the registry has not asked for anything yet.
    pub(crate) async fn authorize(
        &self,
        access: &Access,
        peer: Peer<'_>,
    ) -> Result<Option<Grant>, Arc<AuthError>> {
        let slot = self.slot(access);
        let arrived = slot.renewals.load(Ordering::Acquire);
        let mut state = slot.state.lock().await;
        if slot.renewals.load(Ordering::Acquire) != arrived {
            return state.outcome();
        }
        if let Some(grant) = state.grant.as_ref().filter(|grant| grant.is_usable()) {
            return Ok(Some(grant.clone()));
        }
        if let Some(scheme) = state.scheme.clone() {
            return self.renew_slot(&slot, &mut state, access, peer, scheme, None).await;
        }
        let Some(scheme) = self.scheme_of(access.origin()) else { return Ok(None) };
        match self.renew_slot(&slot, &mut state, access, peer, scheme, None).await {
            // A guess from another repository must not fail what anonymous access might allow.
            Err(error) => {
                tracing::debug!(registry = access.registry(), %error, "no authorization in advance");
                (state.scheme, state.failure) = (None, None);
                Ok(None)
            }
            granted => granted,
        }
    }

    /// After a refusal: another grant than `refused`, or `None` when there is none to try.
    pub(crate) async fn renew(
        &self,
        access: &Access,
        peer: Peer<'_>,
        refusal: &HeaderMap,
        refused: Option<&Grant>,
    ) -> Result<Option<Grant>, Arc<AuthError>> {
        let slot = self.slot(access);
        let arrived = slot.renewals.load(Ordering::Acquire);
        let mut state = slot.state.lock().await;
        let is_other = |grant: &Grant| refused.is_none_or(|refused| refused.header != grant.header);
        if slot.renewals.load(Ordering::Acquire) != arrived {
            return state.outcome().map(|grant| grant.filter(is_other));
        }
        if let Some(grant) = state.grant.as_ref().filter(|grant| is_other(grant) && grant.is_usable()) {
            return Ok(Some(grant.clone()));
        }
        let secure = peer.url.scheme() == "https";
        let Some(scheme) = Scheme::of(refusal, secure)?.or_else(|| state.scheme.clone()) else {
            return Ok(None);
        };
        let login = refused.and_then(|refused| refused.login.as_ref());
        let renewed = self.renew_slot(&slot, &mut state, access, peer, scheme, login).await?;
        Ok(renewed.filter(is_other))
    }

    /// Renews a slot whose lock is held, and records the outcome for those who wait. `refused` is a login that the registry
    /// would not have.
    async fn renew_slot(
        &self,
        slot: &Slot,
        state: &mut State,
        access: &Access,
        peer: Peer<'_>,
        scheme: Scheme,
        refused: Option<&Credential>,
    ) -> Result<Option<Grant>, Arc<AuthError>> {
        let outcome = self.obtain(access, peer, &scheme, refused).await;
        lock(&self.schemes).put(access.origin().to_owned(), scheme.clone());
        state.scheme = Some(scheme);
        match outcome {
            Ok(grant) => (state.grant, state.failure) = (grant, None),
            Err(error) => (state.grant, state.failure) = (None, Some(Arc::new(error))),
        }
        slot.renewals.fetch_add(1, Ordering::Release);
        state.outcome()
    }

    /// A grant by the first login that is good for one. A token service that will not have one is asked with the next.
    async fn obtain(
        &self,
        access: &Access,
        peer: Peer<'_>,
        scheme: &Scheme,
        refused: Option<&Credential>,
    ) -> Result<Option<Grant>, AuthError> {
        let mut login = self.login(access, refused).await?;
        let mut tried: Vec<Credential> = Vec::new();
        loop {
            let error = match self.obtain_with(access, peer, scheme, login.clone()).await {
                Err(error) if tried.len() < LOGINS && error.is_of_the_login() => error,
                outcome => return outcome,
            };
            let Some(useless) = login else { return Err(error) };
            tried.push(useless.clone());
            login = self.login(access, Some(&useless)).await?;
            if login.as_ref().is_none_or(|login| tried.contains(login)) {
                return Err(error);
            }
        }
    }

    async fn login(
        &self,
        access: &Access,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, AuthError> {
        let (registry, repository) = (access.registry(), access.repository());
        Ok(match refused {
            None => self.credentials.find(registry, repository).await?,
            Some(refused) => self.credentials.next(registry, repository, refused).await?,
        })
    }

    async fn obtain_with(
        &self,
        access: &Access,
        peer: Peer<'_>,
        scheme: &Scheme,
        login: Option<Credential>,
    ) -> Result<Option<Grant>, AuthError> {
        let (header, life) = match (scheme, &login) {
            (Scheme::Basic, None) => return Ok(None),
            (Scheme::Basic, Some(Credential::Password { username, password })) => {
                (token::basic(username, password)?, None)
            }
            (Scheme::Basic, Some(Credential::IdentityToken(_) | Credential::RegistryToken(_))) => {
                return Err(AuthError::NoPassword { registry: access.registry().to_owned() });
            }
            (Scheme::Bearer(_), Some(Credential::RegistryToken(token))) => (token::bearer(token)?, None),
            (Scheme::Bearer(service), login) => {
                let scopes = access.scopes_with(service.scope.as_deref());
                let token = service.fetch(&self.http, peer, login.as_ref(), &scopes).await?;
                (token::bearer(&token.secret)?, Some(token.life))
            }
        };
        Ok(Some(Grant { login, ..Grant::new(header, life) }))
    }

    fn slot(&self, access: &Access) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        match slots.get(access) {
            Some(slot) => Arc::clone(slot),
            None => Arc::clone(slots.get_or_insert(access.clone(), Arc::default)),
        }
    }

    /// How a host authenticates; the scope it named was another repository's.
    fn scheme_of(&self, origin: &str) -> Option<Scheme> {
        match lock(&self.schemes).get(origin)?.clone() {
            Scheme::Bearer(mut service) => {
                service.scope = None;
                Some(Scheme::Bearer(service))
            }
            basic => Some(basic),
        }
    }
}

impl State {
    fn outcome(&self) -> Result<Option<Grant>, Arc<AuthError>> {
        match &self.failure {
            Some(failure) => Err(Arc::clone(failure)),
            None => Ok(self.grant.clone()),
        }
    }
}

impl Grant {
    fn new(header: HeaderValue, life: Option<Duration>) -> Self {
        let now = Instant::now();
        Self { header, obtained: now, expires: life.map(|life| now + (life - life / MARGIN)), login: None }
    }

    fn is_usable(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

impl Scheme {
    /// The scheme a refusal asks for: Bearer rather than Basic, `None` when it names neither.
    fn of(refusal: &HeaderMap, secure: bool) -> Result<Option<Self>, AuthError> {
        let challenges = challenge::challenges(refusal);
        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        match (find("bearer"), find("basic")) {
            (Some(bearer), _) => TokenService::from_challenge(bearer, secure).map(Self::Bearer).map(Some),
            (None, Some(_)) => Ok(Some(Self::Basic)),
            (None, None) => Ok(None),
        }
    }
}

/// A panic elsewhere cannot leave these maps half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
