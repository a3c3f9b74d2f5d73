//! One blob, from a registry into containerd's content store.
//!
//! containerd's writer is the one that checks: it hashes all that it was given, earlier attempts included, and commits
//! nothing but the blob of that digest. It keeps what an attempt has written for as long as the lease, and says where to
//! go on.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use jaunt_distribution::{Client, Repository};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::error::{OriginalsError, refused};
use super::image::Layer;
use super::node::Node;
use super::pace::Pace;
use crate::lease::Lease;
use crate::proto::containerd::services::content::v1::{
    AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};

/// Bytes in one message: far from gRPC's limit of 4 MiB, and few messages.
const PIECE: usize = 512 << 10;
/// Where containerd notes what a blob's repositories are, which a push to the same registry makes use of.
const SOURCE: &str = "containerd.io/distribution.source.";

/// Brings blobs to one namespace, under one lease.
pub(super) struct Carrier<'a> {
    pub node: &'a Node,
    pub lease: &'a Lease,
    pub client: &'a Client,
    pub pace: &'a Pace,
}

/// How a blob got there.
enum Outcome {
    Written,
    /// Somebody else was faster, or another namespace has it.
    Present,
    Wrong,
}

impl Carrier<'_> {
    /// Brings a layer from the first repository that has it; `told` hears of every byte that is there.
    pub async fn bring(
        &self,
        layer: Layer,
        repositories: &[Repository],
        told: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), OriginalsError> {
        let mut failed = None;
        for repository in repositories {
            match self.from(layer, repository, told).await {
                Ok(()) => return Ok(()),
                Err(OriginalsError::Fetch { source, .. }) if source.is_not_found() => {}
                Err(error @ (OriginalsError::Fetch { .. } | OriginalsError::Wrong { .. })) => {
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let names: Vec<String> = repositories.iter().map(Repository::to_string).collect();
        let gone = || match names.is_empty() {
            true => OriginalsError::NoSource(layer.digest),
            false => OriginalsError::Gone { layer: layer.digest, repositories: names.join(", ") },
        };
        Err(failed.unwrap_or_else(gone))
    }

    /// What came wrong may be a mirror's doing, or an earlier attempt's: the registry itself is asked for all of it.
    async fn from(
        &self,
        layer: Layer,
        repository: &Repository,
        told: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), OriginalsError> {
        for client in [self.client.clone(), self.client.without_mirrors()] {
            match self.write(&client, layer, repository, told).await? {
                Outcome::Written | Outcome::Present => return Ok(()),
                Outcome::Wrong => self.abort(layer).await?,
            }
        }
        Err(OriginalsError::Wrong { layer: layer.digest, repository: repository.to_string() })
    }

    async fn write(
        &self,
        client: &Client,
        layer: Layer,
        repository: &Repository,
        told: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Outcome, OriginalsError> {
        let Some(mut writer) = Writer::open(self, layer).await? else {
            told(layer.size);
            return Ok(Outcome::Present);
        };
        if writer.offset > layer.size {
            return Ok(Outcome::Wrong);
        }
        told(writer.offset);
        let mut pieces = client.blob_range_stream(repository, &layer.digest, writer.offset..layer.size);
        let mut gathered = BytesMut::with_capacity(PIECE);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|source| OriginalsError::Fetch { layer: layer.digest, source })?;
            self.pace.take(piece.len()).await;
            gathered.extend_from_slice(&piece);
            while gathered.len() >= PIECE {
                writer.write(gathered.split_to(PIECE).freeze()).await?;
                told(writer.offset);
            }
        }
        writer.write(gathered.freeze()).await?;
        told(writer.offset);
        writer.commit(repository).await
    }

    async fn abort(&self, layer: Layer) -> Result<(), OriginalsError> {
        let abort = self.node.request(AbortRequest { r#ref: name(layer) });
        match self.node.content().abort(abort).await {
            Err(status) if status.code() != Code::NotFound => Err(refused("drop what was written")(status)),
            _ => Ok(()),
        }
    }
}

/// What containerd calls the blob while it is being written.
fn name(layer: Layer) -> String {
    format!("jaunt-original-{}", layer.digest)
}

/// A write under way. containerd lets nobody else write the same one meanwhile.
struct Writer {
    layer: Layer,
    offset: u64,
    send: mpsc::Sender<WriteContentRequest>,
    receive: Streaming<WriteContentResponse>,
}

impl Writer {
    /// Begins, or goes on; `None` where the blob is there.
    async fn open(carrier: &Carrier<'_>, layer: Layer) -> Result<Option<Self>, OriginalsError> {
        let (send, outgoing) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: name(layer),
            total: signed(layer.size),
            expected: layer.digest.to_string(),
            ..WriteContentRequest::default()
        };
        // The channel is new and has room.
        let _ = send.try_send(first);
        let request = carrier.lease.cover(carrier.node.request(ReceiverStream::new(outgoing)));
        let opened = async {
            let mut receive = carrier.node.content().write(request).await?.into_inner();
            let answer = receive.message().await?.ok_or_else(ended)?;
            Ok::<_, Status>((receive, u64::try_from(answer.offset).unwrap_or(0)))
        };
        match opened.await {
            Ok((receive, offset)) => Ok(Some(Self { layer, offset, send, receive })),
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => Err(refused("begin to write a blob")(status)),
        }
    }

    async fn write(&mut self, data: Bytes) -> Result<(), OriginalsError> {
        if data.is_empty() {
            return Ok(());
        }
        let end = self.offset + data.len() as u64;
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: signed(self.offset),
            data: data.into(),
            ..WriteContentRequest::default()
        };
        self.call(message).await.map_err(refused("write a blob"))?;
        self.offset = end;
        Ok(())
    }

    async fn commit(mut self, repository: &Repository) -> Result<Outcome, OriginalsError> {
        let source = (format!("{SOURCE}{}", repository.host()), repository.name().to_owned());
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: signed(self.offset),
            total: signed(self.layer.size),
            expected: self.layer.digest.to_string(),
            labels: [source].into(),
            ..WriteContentRequest::default()
        };
        match self.call(message).await {
            Ok(()) => Ok(Outcome::Written),
            Err(status) if status.code() == Code::AlreadyExists => Ok(Outcome::Present),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(Outcome::Wrong),
            Err(status) => Err(refused("commit a blob")(status)),
        }
    }

    async fn call(&mut self, message: WriteContentRequest) -> Result<(), Status> {
        // A closed channel is a call that has ended: its answer says why.
        let _ = self.send.send(message).await;
        self.receive.message().await?.map(drop).ok_or_else(ended)
    }
}

fn ended() -> Status {
    Status::unavailable("the call ended without an answer")
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
