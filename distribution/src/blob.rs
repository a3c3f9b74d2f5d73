//! Blobs: whole and verified, as a stream, or a range of one.
//!
//! All three read through one [`Reader`], which follows redirects to signed URLs, and resumes with a
//! range request where a body broke off. What it hands out is contiguous and exactly what was asked
//! for, but not verified: only [`Client::blob`] does that.

mod content_range;
mod reader;

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt as _, stream};
use jaunt_formats::Digest;
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::failover::Need;
use crate::http::drain;
use crate::limits;
use crate::manifest::verify;
use crate::repository::Repository;
use crate::target::Target;
use reader::Reader;

/// A blob's bytes as they arrive. **Unverified**: the consumer checks their digest.
pub struct BlobStream {
    content_length: Option<u64>,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

impl BlobStream {
    /// The blob's length, when the registry states it. The stream then ends after exactly so many
    /// bytes or with an error.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.as_mut().poll_next(context)
    }
}

impl Client {
    /// A whole blob of at most `limit` bytes, verified against its digest.
    pub async fn blob(&self, repository: &Repository, digest: &Digest, limit: u64) -> Result<Bytes, Error> {
        let target = Target::blob(repository, digest);
        let mut reader = Reader::whole(self, repository, digest).await?;
        loop {
            let read = read_up_to(&mut reader, &target, limit).await;
            let verified = read.and_then(|bytes| {
                verify(&target, *digest, Digest::of(&bytes))?;
                Ok(bytes)
            });
            match verified {
                Ok(bytes) => return Ok(bytes),
                // What failed in the reading has been asked of every host; these bytes came, and are wrong.
                Err(error @ (Error::DigestMismatch { .. } | Error::TooLarge { .. })) => {
                    reader.distrust(error)?
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A blob's bytes as they arrive. **Unverified**: the caller checks their digest.
    pub async fn blob_stream(&self, repository: &Repository, digest: &Digest) -> Result<BlobStream, Error> {
        let mut reader = Reader::whole(self, repository, digest).await?;
        let content_length = reader.open().await?;
        reader.unbounded();
        Ok(BlobStream { content_length, pieces: Box::pin(pieces(reader)) })
    }

    /// Exactly the bytes of a range, or an error. **Unverified**: the caller checks them, against the
    /// digest of a span.
    pub async fn blob_range(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut bytes = reserved(range.end - range.start);
        let mut reader = Reader::range(self, repository, digest, range).await?;
        while let Some(piece) = reader.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The bytes of a range as they arrive: all of them, or an error at the end. **Unverified**: the caller checks
    /// them, against the digest of a span. Nothing is asked for before the stream is polled, and nobody waits for
    /// a stream that is not: the server is held back, as far as buffers allow.
    pub fn blob_range_stream(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: Range<u64>,
    ) -> BlobStream {
        let content_length = Some(range.end.saturating_sub(range.start));
        if range.is_empty() {
            return BlobStream { content_length, pieces: Box::pin(stream::empty()) };
        }
        let (client, repository, digest) = (self.clone(), repository.clone(), *digest);
        let reader = async move {
            let mut reader = Reader::range(&client, &repository, &digest, range).await?;
            reader.open().await?;
            reader.unbounded();
            Ok(pieces(reader))
        };
        BlobStream { content_length, pieces: Box::pin(stream::once(reader).try_flatten()) }
    }

    /// A blob's length, or `None` when the repository does not have it.
    pub async fn blob_exists(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, Error> {
        let target = &Target::blob(repository, digest);
        let length = self.ask_any(target, Need::Pull, |turn| async move {
            let url = turn.route.url(repository, &format!("blobs/{digest}"));
            let access = Access::pull(&turn.route, repository);
            let call = self.call(&turn, Method::HEAD, url, target.clone(), access);
            // Without it, a compressing proxy may leave out the length.
            let call = call.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            let answer = self.succeed(call).await?;
            let length = stated_length(answer.response.headers());
            drain(answer.response).await;
            length.ok_or_else(|| Error::malformed(target, "the registry states no length"))
        });
        match length.await {
            Ok(length) => Ok(Some(length)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a reader gives, as it arrives.
fn pieces(reader: Reader) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    stream::try_unfold(reader, async |mut reader| Ok(reader.next().await?.map(|piece| (piece, reader))))
}

/// All that a reader gives, unless that is too much.
async fn read_up_to(reader: &mut Reader, target: &Target, limit: u64) -> Result<Bytes, Error> {
    let too_large = || Error::TooLarge { target: Box::new(target.clone()), limit };
    let length = reader.open().await?;
    if length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = reserved(length.unwrap_or_default());
    while let Some(piece) = reader.next().await? {
        if u64::try_from(bytes.len() + piece.len()).is_ok_and(|length| length > limit) {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// A buffer for `length` bytes to come, of which a hostile length reserves only some.
fn reserved(length: u64) -> BytesMut {
    let length = length.min(limits::RESERVED_BYTES);
    BytesMut::with_capacity(usize::try_from(length).unwrap_or_default())
}

/// The `Content-Length` header: for a HEAD, the HTTP client itself knows no body's length.
fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
