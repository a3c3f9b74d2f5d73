//! Reads a blob, or a range of one, from wherever the registry keeps it.
//!
//! ```text
//! closed -> open -> ... -> closed (the body broke: resume where it ended) -> open -> ... -> done
//! ```

use std::ops::Range;

use bytes::{Buf as _, Bytes};
use jaunt_formats::Digest;
use reqwest::header::{ACCEPT_ENCODING, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use crate::auth::Access;
use crate::blob::content_range::{ContentRange, header};
use crate::client::Client;
use crate::error::Error;
use crate::http::{Answer, Backoff, Body, drain};
use crate::redirect::{BlobKey, is_spent};
use crate::repository::Repository;
use crate::request::Call;
use crate::target::Target;

pub(crate) struct Reader {
    client: Client,
    blob: BlobKey,
    target: Target,
    /// The blob offset of the next byte to hand out.
    next: u64,
    /// Where to stop: asked for, or learnt from the first answer.
    end: Option<u64>,
    /// Whether the caller asked for a range.
    ranged: bool,
    body: Option<Incoming>,
    /// The tries left to reopen a body that broke.
    backoff: Backoff,
}

struct Incoming {
    body: Body,
    /// Bytes in front of the wanted ones, when the server ignores ranges.
    skip: u64,
}

impl Reader {
    /// Reads a whole blob, whose length the server will tell.
    pub(crate) fn whole(client: Client, repository: &Repository, digest: &Digest) -> Self {
        Self::new(client, repository, digest, 0, None)
    }

    /// Reads a range that is not empty.
    pub(crate) fn range(client: Client, repository: &Repository, digest: &Digest, range: Range<u64>) -> Self {
        Self::new(client, repository, digest, range.start, Some(range.end))
    }

    fn new(client: Client, repository: &Repository, digest: &Digest, next: u64, end: Option<u64>) -> Self {
        let backoff = Backoff::new(client.attempts());
        let (blob, target) = ((repository.clone(), *digest), Target::blob(repository, digest));
        Self { client, blob, target, next, end, ranged: end.is_some(), body: None, backoff }
    }

    /// Sends the first request; tells where the bytes end, if that is known.
    pub(crate) async fn open(&mut self) -> Result<Option<u64>, Error> {
        if self.body.is_none() {
            self.body = Some(self.request().await?);
        }
        Ok(self.end)
    }

    /// The next bytes, none twice and none left out; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.end != Some(self.next) {
            self.open().await?;
            let Some(incoming) = &mut self.body else { continue };
            match incoming.body.next().await {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.wanted_part(piece) {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => match self.end {
                    None => self.end = Some(self.next),
                    Some(end) => {
                        let (target, ended) = (Box::new(self.target.clone()), self.next);
                        self.pause_after(Error::Truncated { target, end, ended }).await?;
                    }
                },
                Err(failure) => self.pause_after(Error::from_failure(&self.target, failure)).await?,
            }
        }
        // Its last byte read, the connection is free for the next request.
        self.body = None;
        Ok(None)
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

    /// Drops the broken body and waits, or gives up with the error.
    async fn pause_after(&mut self, error: Error) -> Result<(), Error> {
        self.body = None;
        let Some(pause) = self.backoff.after_failure() else { return Err(error) };
        tracing::debug!(%error, ?pause, "will resume");
        tokio::time::sleep(pause).await;
        Ok(())
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

    /// Asks where the blob was last found; if that is no longer so, the registry.
    async fn fetch(&self) -> Result<Answer, Error> {
        let urls = self.client.signed_urls();
        if let Some(url) = urls.of(&self.blob) {
            match self.client.transport().send(self.call()?.elsewhere(url.clone()).tried_once()).await {
                Ok(answer) if !is_spent(answer.status()) => return Ok(answer),
                Ok(answer) => {
                    tracing::debug!(target = %self.target, status = %answer.status(), "signed URL spent");
                    drain(answer.response).await;
                }
                Err(error) => tracing::debug!(%error, "signed URL failed"),
            }
            urls.forget(&self.blob, &url);
        }
        let answer = self.client.transport().send(self.call()?).await?;
        if let Some(url) = answer.elsewhere.clone().filter(|_| answer.status().is_success()) {
            urls.remember(self.blob.clone(), url);
        }
        Ok(answer)
    }

    fn call(&self) -> Result<Call, Error> {
        let (repository, digest) = &self.blob;
        let url = self.client.endpoints().blob(repository, digest);
        let access = Access::pull(repository);
        let call = self.client.call(Method::GET, url, self.target.clone(), access)?;
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
