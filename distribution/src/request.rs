//! One call to a registry: authorized when it asks for that, and judged by its status.
//!
//! A refusal (401, or 403 on a grant from before the call) is met with a new grant and one more try; where there are several
//! logins, with one try for each.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};

use crate::auth::{Access, Authenticator, Grant, Peer};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::http::{Answer, Http, Request, drain, read_whole, retry_after};
use crate::limits;
use crate::repository::Repository;
use crate::target::Target;
use crate::turn::Turn;

/// Sends calls.
pub(crate) struct Transport {
    pub(crate) http: Http,
    auth: Authenticator,
}

/// A call: what it is about, what it needs, what it sends.
pub(crate) struct Call {
    pub(crate) target: Target,
    /// `None` for a call to another origin than the host's.
    access: Option<Access>,
    /// The host's URL, for a call to another origin that it led to.
    led_by: Option<Url>,
    request: Request,
}

impl Call {
    /// A call without a body that may be sent again.
    pub(crate) fn new(
        transport: &Transport,
        turn: &Turn,
        method: Method,
        url: Url,
        target: Target,
        access: Access,
    ) -> Self {
        let mut request = Request::new(&transport.http, method, url, turn.route.dial.clone());
        request.host_headers = turn.route.headers.clone();
        request.deadline = turn.end();
        Self { target, access: Some(access), led_by: None, request }
    }

    pub(crate) fn header(mut self, name: reqwest::header::HeaderName, value: HeaderValue) -> Self {
        self.request.headers.insert(name, value);
        self
    }

    fn peer(&self) -> Peer<'_> {
        Peer { url: &self.request.url, dial: &self.request.dial }
    }

    /// Sends it to another origin, a signed URL say, which gets no authorization.
    pub(crate) fn elsewhere(mut self, url: Url) -> Self {
        self.led_by = Some(std::mem::replace(&mut self.request.url, url));
        self.request.host_headers.clear();
        self.access = None;
        self
    }

    /// Adds a body, and the time that the slowest link needs for it.
    pub(crate) fn body(mut self, body: Bytes) -> Self {
        let seconds = u64::try_from(body.len()).unwrap_or(u64::MAX) / limits::SLOWEST_UPLOAD;
        self.request.patience += Duration::from_secs(seconds);
        self.request.body = body;
        self
    }

    /// Allows the registry the time it needs to digest and store `len` bytes it has received.
    pub(crate) fn commits(mut self, len: u64) -> Self {
        self.request.patience *= 3;
        self.request.patience += Duration::from_secs(len / limits::SLOWEST_COMMIT);
        self
    }

    /// Limits how often it is tried: once, where there is another way to get the same.
    pub(crate) fn tried(mut self, attempts: u32) -> Self {
        self.request.attempts = attempts;
        self
    }

    /// Limits the pauses that the registry may ask for.
    pub(crate) fn pausing_at_most(mut self, longest: Duration) -> Self {
        self.request.longest_pause = longest;
        self
    }

    /// Forbids sending it again when the first try may have been acted upon.
    pub(crate) fn once(mut self) -> Self {
        self.request.repeatable = false;
        self
    }
}

impl Transport {
    pub(crate) fn new(http: Http, credentials: Credentials) -> Self {
        let auth = Authenticator::new(http.clone(), credentials);
        Self { http, auth }
    }

    /// Sends a call until it is answered and, as far as that can be had, authorized. The answer may
    /// have any status.
    pub(crate) async fn send(&self, mut call: Call) -> Result<Answer, Error> {
        let started = Instant::now();
        self.dial(&mut call).await?;
        let mut grant = self.authorize(&call).await?;
        let (mut tried, mut renewed_once) = (Vec::<Grant>::new(), false);
        loop {
            let answer = self.send_with(&mut call, grant.as_ref()).await?;
            let may_help = match (renewed_once, &grant) {
                (false, grant) if is_refusal(&answer, grant.as_ref(), started) => true,
                // The same login would do no better: only another one is worth a further try.
                (_, Some(grant)) => is_denial(&answer) && self.has_other_login(&call, grant, &tried).await,
                (_, None) => false,
            };
            if !may_help {
                return Ok(answer);
            }
            let renewed = self.renew(&call, &answer, grant.as_ref()).await?;
            if renewed.is_none() {
                return Ok(answer);
            }
            drain(answer.response).await;
            tried.extend(grant.take());
            (grant, renewed_once) = (renewed, true);
        }
    }

    async fn has_other_login(&self, call: &Call, refused: &Grant, tried: &[Grant]) -> bool {
        let Some(access) = &call.access else { return false };
        tried.len() < crate::auth::LOGINS && self.auth.has_other_login(access, refused, tried).await
    }

    /// Sends a call whose body exists only once, with the grant at hand.
    pub(crate) async fn send_stream(&self, mut call: Call, body: reqwest::Body) -> Result<Answer, Error> {
        self.dial(&mut call).await?;
        call.request.authorization = self.authorize(&call).await?.map(|grant| grant.header);
        let sent = self.http.send_stream(call.request, body).await;
        sent.map_err(|failure| Error::from_failure(&call.target, failure))
    }

    /// A call to where another host led is connected as suits that place.
    async fn dial(&self, call: &mut Call) -> Result<(), Error> {
        if let Some(there) = &call.led_by {
            let dialled = self.http.dial(&call.request.url, there, &call.request.dial).await;
            call.request.dial = dialled.map_err(|failure| Error::from_failure(&call.target, failure))?;
        }
        Ok(())
    }

    async fn authorize(&self, call: &Call) -> Result<Option<Grant>, Error> {
        let Some(access) = &call.access else { return Ok(None) };
        let granted = self.auth.authorize(access, call.peer()).await;
        granted.map_err(|source| Error::Auth { target: Box::new(call.target.clone()), source })
    }

    async fn renew(
        &self,
        call: &Call,
        refusal: &Answer,
        refused: Option<&Grant>,
    ) -> Result<Option<Grant>, Error> {
        let Some(access) = &call.access else { return Ok(None) };
        let renewed = self.auth.renew(access, call.peer(), refusal.response.headers(), refused).await;
        renewed.map_err(|source| Error::Auth { target: Box::new(call.target.clone()), source })
    }

    async fn send_with(&self, call: &mut Call, grant: Option<&Grant>) -> Result<Answer, Error> {
        call.request.authorization = grant.map(|grant| grant.header.clone());
        let sent = self.http.send(&call.request).await;
        sent.map_err(|failure| Error::from_failure(&call.target, failure))
    }

    /// Turns an answer that is not a success into the error it stands for.
    pub(crate) async fn succeeded(&self, target: &Target, answer: Answer) -> Result<Answer, Error> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let is_registrys = answer.elsewhere.is_none();
        let retry_after = retry_after(answer.response.headers());
        let message = match read_whole(answer.response, limits::ERROR_BODY_BYTES, self.http.patience).await {
            Ok(body) => registry_words(&body),
            Err(_) => String::new(),
        };
        let target = Box::new(target.clone());
        Err(match status {
            StatusCode::NOT_FOUND => Error::NotFound { target },
            // Storage that a registry led to gets no login.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_registrys => {
                let message = [message, self.login_of(&target.repository).await.to_owned()];
                let message =
                    message.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
                Error::Unauthorized { target, status, message }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Unauthorized { target, status, message }
            }
            _ => Error::Status { target, status, message, retry_after },
        })
    }
}

impl Transport {
    /// Whether a login was refused or missing, for whoever has to look for it.
    async fn login_of(&self, repository: &Repository) -> &'static str {
        match self.auth.has_login(repository.host(), repository.name()).await {
            true => "with the login that is configured",
            false => "no login for it is configured",
        }
    }
}

/// Whether another grant could help. Only the registry itself may ask for one; storage that it
/// redirected to may not.
fn is_refusal(answer: &Answer, grant: Option<&Grant>, started: Instant) -> bool {
    let may_be_stale = || grant.is_some_and(|grant| grant.obtained < started);
    answer.elsewhere.is_none()
        && match answer.status() {
            StatusCode::UNAUTHORIZED => true,
            StatusCode::FORBIDDEN => may_be_stale(),
            _ => false,
        }
}

/// Whether the registry itself will not have the login.
fn is_denial(answer: &Answer) -> bool {
    answer.elsewhere.is_none() && matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

#[derive(serde::Deserialize)]
struct Envelope {
    errors: Vec<EnvelopeError>,
}

#[derive(serde::Deserialize)]
struct EnvelopeError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the distribution API's error envelope says, fit for one line; nothing for other bodies.
fn registry_words(body: &[u8]) -> String {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return String::new() };
    let Some(first) = envelope.errors.first() else { return String::new() };
    let words = [&first.code, &first.message].map(|word| word.trim()).into_iter().filter(|w| !w.is_empty());
    let words = words.collect::<Vec<_>>().join(": ");
    words.chars().filter(|char| !char.is_control()).take(limits::ERROR_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_the_registrys_words_on_one_line() {
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(1000));
        for (body, want) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"requested access\n denied"}]}"#,
                "DENIED: requested access denied",
            ),
            (r#"{"errors":[{"code":"UNKNOWN"}]}"#, "UNKNOWN"),
            (r#"{"errors":[]}"#, ""),
            ("<html>", ""),
            (&long, &"x".repeat(limits::ERROR_TEXT_CHARS)),
        ] {
            assert_eq!(registry_words(body.as_bytes()), want);
        }
    }
}
