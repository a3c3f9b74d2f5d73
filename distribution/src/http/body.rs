//! Reading bodies: piece by piece, whole under a limit, or only to keep the connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use crate::http::failure::{BodyError, Failure};
use crate::limits;

/// How long the rest of a body nobody wants may take before its connection is given up instead.
const DRAIN: Duration = Duration::from_millis(500);

/// The next piece of a body, `None` at its end. Cancel safe: no piece is lost.
pub(crate) async fn next_piece(
    response: &mut Response,
    patience: Duration,
) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(patience, response.chunk()).await {
        Ok(outcome) => outcome.map_err(|error| Failure::receiving(response.url(), error)),
        Err(_) => Err(Failure::silent(response.url(), patience)),
    }
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn read_whole(
    mut response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, BodyError> {
    let too_long = BodyError::TooLong { limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_long);
    }
    let Some(first) = next_piece(&mut response, patience).await? else { return Ok(Bytes::new()) };
    let mut rest = BytesMut::new();
    let fits = |len: usize| u64::try_from(len).is_ok_and(|len| len <= limit);
    if !fits(first.len()) {
        return Err(too_long);
    }
    while let Some(piece) = next_piece(&mut response, patience).await? {
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
