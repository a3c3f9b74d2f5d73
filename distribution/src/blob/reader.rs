//! Reads a blob, or a range of one, from wherever the registry keeps it.
//!
//! ```text
//! closed -> open -> ... -> closed (the body broke: resume where it ended) -> open -> ... -> done
//! ```
//!
//! A host that fails is left for the next one, in the middle of the bytes as well: a blob is the same
//! everywhere. Only with the last host left is the same one asked again.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use jaunt_formats::Digest;
use reqwest::header::{ACCEPT_ENCODING, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use crate::auth::Access;
use crate::blob::content_range::{ContentRange, header};
use crate::client::Client;
use crate::error::Error;
use crate::failover::{Candidates, Need};
use crate::http::{Answer, Backoff, Body, drain};
use crate::repository::Repository;
use crate::request::Call;
use crate::target::Target;
use crate::turn::Turn;
use crate::whereabouts::{BlobKey, is_spent};

pub(crate) struct Reader {
    client: Client,
    blob: BlobKey,
    target: Target,
    /// Where the reading began.
    start: u64,
    /// The blob offset of the next byte to hand out.
    next: u64,
    /// Where to stop: asked for, or learnt from the first answer.
    end: Option<u64>,
    /// Whether the caller asked for a range.
    ranged: bool,
    body: Option<Incoming>,
    /// The host that is being read from.
    turn: Turn,
    /// Those that may be read from when it fails.
    others: Candidates,
    /// The tries left to reopen a body that broke, once no other host is left.
    backoff: Backoff,
}

struct Incoming {
    body: Body,
    /// Bytes in front of the wanted ones, when the server ignores ranges.
    skip: u64,
}

impl Reader {
    /// Reads a whole blob, whose length the server will tell.
    pub(crate) async fn whole(
        client: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Self, Error> {
        Self::new(client, repository, digest, 0, None).await
    }

    /// Reads a range that is not empty.
    pub(crate) async fn range(
        client: &Client,
        repository: &Repository,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Self, Error> {
        Self::new(client, repository, digest, range.start, Some(range.end)).await
    }

    async fn new(
        client: &Client,
        repository: &Repository,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<Self, Error> {
        let (blob, target) = ((repository.clone(), *digest), Target::blob(repository, digest));
        let mut others = client.candidates(&target, Need::Pull).await?;
        if let Some(found) = client.whereabouts().of(&blob) {
            others.prefer(&found.api);
        }
        let turn = others.first();
        client.asked().note(&blob, start, &turn.route);
        let backoff = Backoff::new(client.attempts(&turn));
        let client = client.clone();
        let (next, ranged) = (start, end.is_some());
        Ok(Self { client, blob, target, start, next, end, ranged, body: None, turn, others, backoff })
    }

    /// Lets the reading take as long as it will.
    pub(crate) fn unbounded(&mut self) {
        self.turn.unbounded();
        self.others.unbounded();
    }

    /// Sends the first request; tells where the bytes end, if that is known.
    pub(crate) async fn open(&mut self) -> Result<Option<u64>, Error> {
        while self.body.is_none() {
            let (turn, target) = (self.turn.clone(), self.target.clone());
            match turn.bounded(&target, self.request()).await {
                Ok(body) => {
                    turn.route.standing.rose(turn.begun);
                    self.body = Some(body);
                }
                Err(error) => self.ask_next(error)?,
            }
        }
        Ok(self.end)
    }

    /// The next bytes, none twice and none left out; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.end != Some(self.next) {
            self.open().await?;
            let Some(incoming) = &mut self.body else { continue };
            let piece = async {
                let piece = incoming.body.next().await;
                piece.map_err(|failure| Error::from_failure(&self.target, failure))
            };
            match self.turn.bounded(&self.target, piece).await {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.wanted_part(piece) {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => match self.end {
                    None => self.end = Some(self.next),
                    Some(end) => {
                        let (target, ended) = (Box::new(self.target.clone()), self.next);
                        self.resume_after(Error::Truncated { target, end, ended }).await?;
                    }
                },
                Err(error) => self.resume_after(error).await?,
            }
        }
        // Its last byte read, the connection is free for the next request.
        self.body = None;
        Ok(None)
    }

    /// Begins again at another host, because the bytes that this one gave are not the blob's; gives the
    /// error back when there is none.
    pub(crate) fn distrust(&mut self, error: Error) -> Result<(), Error> {
        self.client.whereabouts().forget_all(&self.blob);
        self.ask_next(error)?;
        (self.next, self.end) = (self.start, self.end.filter(|_| self.ranged));
        Ok(())
    }

    /// Turns to another host, or gives up with the error.
    fn ask_next(&mut self, error: Error) -> Result<(), Error> {
        self.body = None;
        self.turn = self.others.next_after(&self.turn, error)?;
        self.client.asked().note(&self.blob, self.start, &self.turn.route);
        self.backoff = Backoff::new(self.client.attempts(&self.turn));
        Ok(())
    }

    /// Cuts off what lies in front of the wanted bytes, and behind them.
    fn wanted_part(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let incoming = self.body.as_mut()?;
        let skipped = usize::try_from(incoming.skip).unwrap_or(usize::MAX).min(piece.len());
        piece.advance(skipped);
        incoming.skip -= skipped as u64;
        if let Some(end) = self.end {
            piece.truncate(usize::try_from(end - self.next).unwrap_or(usize::MAX));
        }
        self.next += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }

    /// After a body that broke: on to another host, or after a pause to the same; or gives up.
    async fn resume_after(&mut self, error: Error) -> Result<(), Error> {
        if self.others.has_more() {
            return self.ask_next(error);
        }
        self.body = None;
        let in_time = |pause: &Duration| self.turn.end().is_none_or(|end| Instant::now() + *pause < end);
        match self.backoff.after_failure().filter(in_time) {
            Some(pause) => {
                tracing::debug!(%error, ?pause, "will resume");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => self.ask_next(error),
        }
    }

    async fn request(&mut self) -> Result<Incoming, Error> {
        let answer = self.fetch().await?;
        let asked = self.asks_range();
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if asked => self.accept_part(answer),
            StatusCode::OK => self.accept_whole(answer),
            StatusCode::RANGE_NOT_SATISFIABLE if asked => {
                drain(answer.response).await;
                Err(self.outside())
            }
            status if status.is_success() => {
                Err(Error::malformed(&self.target, format!("the registry answered {status} to a GET")))
            }
            _ => {
                let failed = self.client.transport().succeeded(&self.target, answer).await;
                failed.and_then(|_| Err(Error::malformed(&self.target, "neither success nor failure")))
            }
        }
    }

    /// Checks a 206: it starts where it must and ends where the wanted bytes do.
    fn accept_part(&mut self, answer: Answer) -> Result<Incoming, Error> {
        let text = header(answer.response.headers());
        let wrong = || Error::WrongRange {
            target: Box::new(self.target.clone()),
            range: self.next..self.end.unwrap_or(u64::MAX),
            answered: text.chars().take(100).collect(),
        };
        let answered = ContentRange::parse(text).ok_or_else(wrong)?;
        let length = answered.range.end - answered.range.start;
        if answered.range.start != self.next
            || answer.response.content_length().is_some_and(|stated| stated != length)
        {
            return Err(wrong());
        }
        match self.end {
            Some(end) if answered.range.end == end => {}
            // The server cut the range at the blob's end, as it should: the range is what is wrong.
            Some(end) if answered.range.end < end && answered.total == Some(answered.range.end) => {
                return Err(self.outside());
            }
            Some(_) => return Err(wrong()),
            None => self.end = Some(answered.range.end),
        }
        Ok(self.incoming(answer, 0))
    }

    /// A 200: the whole blob, whether or not a range was asked for.
    fn accept_whole(&mut self, answer: Answer) -> Result<Incoming, Error> {
        match (self.end, answer.response.content_length()) {
            (Some(end), Some(length)) if length < end => return Err(self.outside()),
            _ if self.ranged && self.next > self.client.longest_skip() => {
                let target = Box::new(self.target.clone());
                return Err(Error::RangesIgnored { target, skipped: self.next });
            }
            (None, length) => self.end = length,
            _ => {}
        }
        Ok(self.incoming(answer, self.next))
    }

    fn incoming(&self, answer: Answer, skip: u64) -> Incoming {
        Incoming { body: Body::new(answer.response, self.client.transport().http.patience), skip }
    }

    fn outside(&self) -> Error {
        let range = self.next..self.end.unwrap_or(self.next);
        Error::RangeNotSatisfiable { target: Box::new(self.target.clone()), range }
    }

    /// A whole blob's first request names no range: a plain GET is what caches and registries like best.
    fn asks_range(&self) -> bool {
        self.ranged || self.next > 0
    }

    /// Asks where the blob was last found; if that is no longer so, the host: one reader for all who find it out.
    async fn fetch(&self) -> Result<Answer, Error> {
        let whereabouts = self.client.whereabouts();
        let api = self.turn.route.api().as_str();
        let known = || whereabouts.of(&self.blob).filter(|found| found.api == api);
        let found = known();
        let mut refused = None;
        if let Some(url) = found.as_ref().and_then(|found| found.url.clone()) {
            if let Some(answer) = self.fetch_elsewhere(&url).await? {
                return Ok(answer);
            }
            refused = Some(url);
        }
        let mut asks = None;
        if let Some(found) = found.filter(|found| found.redirects) {
            let turn = Arc::clone(&found.turn).try_lock_owned().ok();
            if turn.is_none() {
                drop(found.turn.lock().await);
            }
            asks = turn;
            let newer = known().and_then(|found| found.url).filter(|url| Some(url) != refused.as_ref());
            if let Some(url) = newer {
                asks = None;
                if let Some(answer) = self.fetch_elsewhere(&url).await? {
                    return Ok(answer);
                }
            }
        }
        let answer = self.client.transport().send(self.call()?).await?;
        if answer.status().is_success() && (answer.elsewhere.is_some() || self.others.had_others()) {
            whereabouts.remember(self.blob.clone(), &self.turn.route, answer.elsewhere.clone());
        }
        drop(asks);
        Ok(answer)
    }

    /// Asks where the host led to before; `None` when it is to be asked again.
    async fn fetch_elsewhere(&self, url: &Url) -> Result<Option<Answer>, Error> {
        match self.client.transport().send(self.call()?.elsewhere(url.clone()).tried(1)).await {
            Ok(answer) if !is_spent(answer.status()) => return Ok(Some(answer)),
            Ok(answer) => {
                tracing::debug!(target = %self.target, status = %answer.status(), "signed URL spent");
                drain(answer.response).await;
            }
            Err(error) => tracing::debug!(%error, "signed URL failed"),
        }
        self.client.whereabouts().forget(&self.blob, url);
        Ok(None)
    }

    fn call(&self) -> Result<Call, Error> {
        let (repository, digest) = &self.blob;
        let url = self.turn.route.url(repository, &format!("blobs/{digest}"));
        let access = Access::pull(&self.turn.route, repository);
        let call = self.client.call(&self.turn, Method::GET, url, self.target.clone(), access);
        let call = call.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if !self.asks_range() {
            return Ok(call);
        }
        let last = self.end.map(|end| (end - 1).to_string()).unwrap_or_default();
        let range = HeaderValue::try_from(format!("bytes={}-{last}", self.next))
            .map_err(|_| Error::malformed(&self.target, "a range is not valid in a header"))?;
        Ok(call.header(RANGE, range))
    }
}
