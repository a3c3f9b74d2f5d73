//! Uploading a blob whose digest and length are known only at its end.
//!
//! POST opens a session, one PATCH streams the bytes as they are written, PUT names the digest. That
//! is how `docker push` does it, so every registry accepts it, which cannot be said of several PATCHes
//! with ranges. The PATCH runs in its own task and is fed through a short queue: a writer faster than
//! the network waits.
//!
//! ```text
//! open --write--> streaming --finish--> committed
//!   \------------------\-----abort or drop----> cancelled
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use jaunt_formats::Digest;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::error::Error;
use crate::failover::Need;
use crate::limits;
use crate::push::{OCTETS, Session};
use crate::repository::Repository;
use crate::target::Target;
use crate::turn::Turn;

/// Writes that may wait in the queue.
const QUEUE: usize = 4;

/// A blob on its way. Dropped unfinished, it is cancelled.
#[must_use = "an upload counts only once it is finished"]
pub struct BlobUpload {
    client: Client,
    turn: Turn,
    repository: Repository,
    /// Where the session's next request goes; `None` once it is over.
    session: Option<Session>,
    stream: Option<Streaming>,
    written: u64,
    /// Bytes of the largest write.
    largest: u64,
}

/// A PATCH under way.
struct Streaming {
    queue: mpsc::Sender<Bytes>,
    /// Ends with the session as the answer leaves it.
    task: JoinHandle<Result<Session, Error>>,
}

impl Client {
    /// Opens an upload.
    pub async fn start_upload(&self, repository: &Repository) -> Result<BlobUpload, Error> {
        let target = Target::upload(repository);
        let mut turn = self.own(&target, Need::Push).await?;
        let session = Some(turn.bounded(&target, self.open_session(&turn, repository)).await?);
        // Only the opening is limited: how long the rest takes is its writer's to say.
        turn.unbounded();
        let (client, repository) = (self.clone(), repository.clone());
        Ok(BlobUpload { client, turn, repository, session, stream: None, written: 0, largest: 0 })
    }
}

impl BlobUpload {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Sends more bytes; waits while the network is behind. After an error the upload is over.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.largest = self.largest.max(length);
        let patience = self.patience();
        let queue = self.queue()?;
        match queue.send_timeout(bytes, patience).await {
            Ok(()) => {
                self.written += length;
                Ok(())
            }
            Err(SendTimeoutError::Timeout(_)) => Err(self.stuck(patience)),
            Err(SendTimeoutError::Closed(_)) => {
                drop(queue);
                let early = "the registry answered before the upload was complete";
                Err(self.end_stream(patience).await.err().unwrap_or_else(|| self.malformed(early)))
            }
        }
    }

    /// Ends the upload: the blob exists under `digest` when this returns. `len` must be what was
    /// written; the registry checks the digest.
    pub async fn finish(mut self, digest: &Digest, len: u64) -> Result<(), Error> {
        if self.written != len {
            let (target, written) = (Box::new(self.target()), self.written);
            return Err(Error::WrongLength { target, expected: len, written });
        }
        if self.stream.is_some() {
            // What is on its way still, and then the registry's own work.
            let patience = self.patience() + Duration::from_secs(len / limits::SLOWEST_COMMIT);
            self.session = Some(self.end_stream(patience).await?);
        }
        let Some(session) = self.session.clone() else { return Err(self.malformed("the upload is over")) };
        self.client.put_blob(&self.turn, &self.repository, session, digest, Bytes::new(), len).await?;
        self.session = None;
        Ok(())
    }

    /// Cancels the upload. Best effort: what the registry does not hear of, it expires.
    pub async fn abort(mut self) {
        cancel(&self.client, &self.turn, &self.repository, self.session.take(), self.stream.take()).await;
    }

    /// Where to put bytes. The PATCH begins with the first: an empty blob has none.
    fn queue(&mut self) -> Result<mpsc::Sender<Bytes>, Error> {
        if let Some(stream) = &self.stream {
            return Ok(stream.queue.clone());
        }
        let session = self.session.clone().ok_or_else(|| self.malformed("the upload is over"))?;
        let (queue, pieces) = mpsc::channel(QUEUE);
        let (client, turn, repository) = (self.client.clone(), self.turn.clone(), self.repository.clone());
        let task = tokio::spawn(patch(client, turn, repository, session, pieces));
        Ok(self.stream.insert(Streaming { queue, task }).queue.clone())
    }

    /// Ends the body and waits for the registry's answer to it.
    async fn end_stream(&mut self, patience: Duration) -> Result<Session, Error> {
        let Some(stream) = self.stream.take() else { return Err(self.malformed("the upload is over")) };
        let ended = stream.end(patience).await;
        if !matches!(ended, Some(Ok(_))) {
            // Nobody knows what the session holds now; cancelling it would only be refused.
            self.session = None;
        }
        ended.unwrap_or_else(|| Err(self.stuck(patience)))
    }

    /// How long a full queue may take on the slowest link, and then a silence.
    fn patience(&self) -> Duration {
        let on_the_way = self.largest.saturating_mul(QUEUE as u64 + 1);
        self.client.transport().http.patience + Duration::from_secs(on_the_way / limits::SLOWEST_UPLOAD)
    }

    fn stuck(&self, after: Duration) -> Error {
        let host = self.repository.host().to_owned();
        Error::TimedOut { target: Box::new(self.target()), host, after }
    }

    fn malformed(&self, reason: &str) -> Error {
        Error::malformed(&self.target(), reason)
    }

    fn target(&self) -> Target {
        Target::upload(&self.repository)
    }
}

impl Drop for BlobUpload {
    fn drop(&mut self) {
        let (session, stream) = (self.session.take(), self.stream.take());
        if session.is_none() {
            return;
        }
        // Outside a runtime there is nothing to send with; the registry expires the session.
        let Ok(runtime) = Handle::try_current() else { return };
        let (client, turn, repository) = (self.client.clone(), self.turn.clone(), self.repository.clone());
        let ending = self.client.endings().begin();
        runtime.spawn(async move {
            cancel(&client, &turn, &repository, session, stream).await;
            drop(ending);
        });
    }
}

impl Streaming {
    /// Ends the body; `None` when the registry's answer does not come in time.
    async fn end(self, patience: Duration) -> Option<Result<Session, Error>> {
        let Self { queue, mut task } = self;
        drop(queue);
        match tokio::time::timeout(patience, &mut task).await {
            // The task ends in no other way than by returning, unless the runtime is shutting down.
            Ok(ended) => ended.ok(),
            Err(_) => {
                task.abort();
                None
            }
        }
    }
}

/// Cancels a session, for which the registry must be told its current URL: the one that the answer
/// to the PATCH names.
async fn cancel(
    client: &Client,
    turn: &Turn,
    repository: &Repository,
    session: Option<Session>,
    stream: Option<Streaming>,
) {
    let session = match stream {
        Some(stream) => stream.end(client.transport().http.patience).await.and_then(Result::ok),
        None => session,
    };
    if let Some(session) = session {
        client.cancel_session(turn, repository, session).await;
    }
}

async fn patch(
    client: Client,
    turn: Turn,
    repository: Repository,
    session: Session,
    pieces: mpsc::Receiver<Bytes>,
) -> Result<Session, Error> {
    let target = Target::upload(&repository);
    let body = stream::unfold(pieces, async |mut pieces| {
        pieces.recv().await.map(|piece| (Ok::<_, std::convert::Infallible>(piece), pieces))
    });
    let call = client.session_call(&turn, Method::PATCH, session.clone(), target.clone());
    let call = call.header(CONTENT_TYPE, OCTETS);
    let answer = client.transport().send_stream(call, reqwest::Body::wrap_stream(body)).await?;
    let answer = client.transport().succeeded(&target, answer).await.map_err(Error::of_session)?;
    Session::of(answer, &target, Some(&session)).await
}
