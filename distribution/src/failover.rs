//! Which host a call goes to, and which next when that one fails.
//!
//! Mirrors first, in the order of the settings, then the registry itself, and last the mirrors that have
//! been in trouble of late. What is read by digest is verified, so any host that has it will do; what only
//! the registry can say goes to hosts that are trusted for it. A host with another behind it gets one try
//! and its share of the call's time; the last gets all there is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use jaunt_formats::Digest;

use crate::client::Client;
use crate::error::Error;
use crate::hosts::{Capabilities, HostsError, Route, Routes};
use crate::repository::Repository;
use crate::target::Target;
use crate::turn::{Deadline, Turn};

/// What a host must be capable of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Content by digest.
    Pull,
    /// A tag.
    Resolve,
    /// Who refers to a manifest.
    Referrers,
    /// To take what is written; the registry itself only.
    Push,
}

/// The hosts that may answer a call and have not been asked yet.
pub(crate) struct Candidates {
    target: Target,
    left: VecDeque<Arc<Route>>,
    own: Arc<Route>,
    several: bool,
    deadline: Option<Deadline>,
    /// What the registry itself said: it counts for more than what mirrors say.
    own_error: Option<Error>,
}

impl Client {
    /// The hosts to read from.
    pub(crate) async fn candidates(&self, target: &Target, need: Need) -> Result<Candidates, Error> {
        let routes = self.routes(target).await?;
        let mirrors = routes.mirrors.iter().filter(|_| self.asks_mirrors());
        let able = mirrors.filter(|mirror| need.is_met_by(mirror.capabilities));
        let (resting, mut left): (VecDeque<_>, VecDeque<_>) =
            able.cloned().partition(|route| route.standing.rests());
        if need.is_met_by(routes.own.capabilities) {
            left.push_back(Arc::clone(&routes.own));
        }
        left.extend(resting);
        if left.is_empty() {
            return Err(Error::Incapable { target: Box::new(target.clone()), what: need.name() });
        }
        let (target, own, several) = (target.clone(), Arc::clone(&routes.own), left.len() > 1);
        Ok(Candidates { target, left, own, several, deadline: self.deadline(), own_error: None })
    }

    /// Notes that somebody gave up waiting for what he had asked for of a blob from `start` on. A mirror that kept him waiting is asked
    /// after the others for minutes; where it was the registry itself, none is any more. This client gives hosts as much time as a reader of
    /// several sources does, and so may never come to see it itself.
    pub fn kept_silent(&self, repository: &Repository, blob: &Digest, start: u64) {
        let key = (repository.clone(), *blob);
        self.whereabouts().forget_all(&key);
        let asked = self.asked().take(&key, start);
        let Some((asked, routes)) = asked.zip(self.router().known(repository.host())) else { return };
        if asked.api() == routes.own.api() {
            routes.mirrors.iter().for_each(|mirror| mirror.standing.may_be_asked_again());
        } else if asked.standing.kept_silent() {
            tracing::warn!(mirror = asked.host(), %blob, "a mirror kept a reader waiting in vain: others are asked before it");
        }
    }

    /// The registry itself: for what is written, and for what must not be missed.
    pub(crate) async fn own(&self, target: &Target, need: Need) -> Result<Turn, Error> {
        let route = Arc::clone(&self.routes(target).await?.own);
        if !need.is_met_by(route.capabilities) {
            return Err(Error::Incapable { target: Box::new(target.clone()), what: need.name() });
        }
        Ok(Turn { route, begun: Instant::now(), last: true, deadline: self.deadline() })
    }

    /// Asks one host after the other until one answers well.
    pub(crate) async fn ask_any<T, F>(
        &self,
        target: &Target,
        need: Need,
        ask: impl Fn(Turn) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut candidates = self.candidates(target, need).await?;
        let mut turn = candidates.first();
        loop {
            match turn.bounded(target, ask(turn.clone())).await {
                Ok(answer) => {
                    turn.route.standing.rose(turn.begun);
                    return Ok(answer);
                }
                Err(error) => turn = candidates.next_after(&turn, error)?,
            }
        }
    }

    async fn routes(&self, target: &Target) -> Result<Arc<Routes>, Error> {
        let host = target.repository.host();
        self.router().routes(host).await.map_err(|source| match *source {
            HostsError::NoHost { .. } => {
                let reason = "the registry's host is not valid in a URL";
                Error::InvalidName { target: Box::new(target.clone()), reason }
            }
            _ => Error::Hosts { target: Box::new(target.clone()), source },
        })
    }

    fn deadline(&self) -> Option<Deadline> {
        let limit = self.limit()?;
        Some(Deadline { end: Instant::now().checked_add(limit)?, limit })
    }
}

impl Candidates {
    /// The first host's turn.
    pub(crate) fn first(&mut self) -> Turn {
        // There is one at least, or this would not exist.
        self.turn().unwrap_or_else(|| Turn {
            route: Arc::clone(&self.own),
            begun: Instant::now(),
            last: true,
            deadline: self.deadline,
        })
    }

    /// Another host's turn after one has failed; the call's error when there is none.
    pub(crate) fn next_after(&mut self, failed: &Turn, error: Error) -> Result<Turn, Error> {
        let is_own = Arc::ptr_eq(&failed.route, &self.own);
        if !is_own {
            self.note(&failed.route, &error);
        }
        let Some(turn) = self.turn() else {
            return Err(if is_own { error } else { self.own_error.take().unwrap_or(error) });
        };
        if is_own {
            self.own_error = Some(error);
        }
        Ok(turn)
    }

    /// Puts a host before the others, where it is one of them and not in trouble.
    pub(crate) fn prefer(&mut self, api: &str) {
        let found = self.left.iter().position(|route| route.api().as_str() == api && !route.standing.rests());
        if let Some(route) = found.and_then(|at| self.left.remove(at)) {
            self.left.push_front(route);
        }
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether there was a choice to begin with.
    pub(crate) fn had_others(&self) -> bool {
        self.several
    }

    /// Lets the call take as long as it will.
    pub(crate) fn unbounded(&mut self) {
        self.deadline = None;
    }

    fn turn(&mut self) -> Option<Turn> {
        let route = self.left.pop_front()?;
        let others = u32::try_from(self.left.len()).unwrap_or(u32::MAX);
        let deadline = self.deadline.map(|whole| whole.share(others));
        Some(Turn { route, begun: Instant::now(), last: others == 0, deadline })
    }

    fn note(&self, mirror: &Route, error: &Error) {
        if error.is_transient() && mirror.standing.fell() {
            tracing::warn!(mirror = mirror.host(), target = %self.target, %error, "a mirror is in trouble");
        } else {
            tracing::debug!(mirror = mirror.host(), %error, "a mirror did not give what it was asked for");
        }
    }
}

impl Need {
    fn is_met_by(self, capabilities: Capabilities) -> bool {
        match self {
            Self::Pull => capabilities.pull,
            Self::Resolve => capabilities.resolve,
            // Where there is no API for them, they are listed under a tag.
            Self::Referrers => capabilities.referrers || capabilities.resolve,
            Self::Push => capabilities.push,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pull => "for content",
            Self::Resolve => "for tags",
            Self::Referrers => "for referrers",
            Self::Push => "to take what is written",
        }
    }
}
