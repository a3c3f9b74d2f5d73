//! Reading bodies: piece by piece, whole under a limit, or only to keep the connection.
//!
//! A server that falls silent is given up, and so is one that trickles: the time spent waiting is
//! bought with bytes, at [`limits::SLOWEST_DOWNLOAD`] the second. Only waiting counts, so a reader that
//! is slow itself takes nothing from its server.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use crate::http::failure::{BodyError, Failure};
use crate::limits;

/// How long the rest of a body nobody wants may take before its connection is given up instead.
const DRAIN: Duration = Duration::from_millis(500);

/// A body on its way.
pub(crate) struct Body {
    response: Response,
    patience: Duration,
    /// What is left of the patience: waiting takes from it, bytes give back.
    left: Duration,
}

impl Body {
    pub(crate) fn new(response: Response, patience: Duration) -> Self {
        Self { response, patience, left: patience }
    }

    /// The next piece, `None` at the end. Cancel safe: no piece is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let began = Instant::now();
        let outcome = tokio::time::timeout(self.left, self.response.chunk()).await;
        let piece = match outcome {
            Ok(outcome) => outcome.map_err(|error| Failure::receiving(self.response.url(), error))?,
            Err(_) => return Err(self.ran_out()),
        };
        let bought = piece.as_ref().map_or(0, Bytes::len) as f64 / limits::SLOWEST_DOWNLOAD as f64;
        let left = self.left.saturating_sub(began.elapsed());
        self.left = left.saturating_add(Duration::from_secs_f64(bought)).min(self.patience);
        Ok(piece)
    }

    fn ran_out(&self) -> Failure {
        if self.left == self.patience {
            Failure::silent(self.response.url(), self.patience)
        } else {
            Failure::trickling(self.response.url())
        }
    }
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn read_whole(
    response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, BodyError> {
    let too_long = BodyError::TooLong { limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_long);
    }
    let mut body = Body::new(response, patience);
    let Some(first) = body.next().await? else { return Ok(Bytes::new()) };
    let mut rest = BytesMut::new();
    let fits = |len: usize| u64::try_from(len).is_ok_and(|len| len <= limit);
    if !fits(first.len()) {
        return Err(too_long);
    }
    while let Some(piece) = body.next().await? {
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        if !fits(rest.len() + piece.len()) {
            return Err(too_long);
        }
        rest.extend_from_slice(&piece);
    }
    // A body of one piece, which most are, is not copied.
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Reads a short body to its end, so that its connection serves the next request.
pub(crate) async fn drain(response: Response) {
    let _ = tokio::time::timeout(DRAIN, read_whole(response, limits::ERROR_BODY_BYTES, DRAIN)).await;
}
