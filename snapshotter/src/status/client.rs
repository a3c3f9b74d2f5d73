//! The command's side.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::proto::jaunt::status::v1::status_client::StatusClient;
use crate::proto::jaunt::status::v1::{GetRequest, GetResponse};
use crate::unix_channel::{self, Unreachable};

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The daemon does not run, or listens elsewhere.
    #[error("the daemon is {0}")]
    Unreachable(#[source] Unreachable),
    /// It does not answer.
    #[error("the daemon at {socket} does not answer within {} s", LIMIT.as_secs(), socket = .0.display())]
    Silent(PathBuf),
    /// It answered with an error.
    #[error("the daemon refuses to tell its status: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
}

/// With thousands of snapshots an answer outgrows gRPC's usual 4 MiB.
const ANSWER_MAX: usize = 256 << 20;

/// A worker that takes over may serve hundreds of mounts before it answers; one that hangs does not.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the daemon that listens on `socket`, for some seconds at most.
pub async fn fetch(socket: &Path) -> Result<GetResponse, StatusError> {
    let asked = tokio::time::timeout(LIMIT, ask(socket)).await;
    asked.unwrap_or_else(|_| Err(StatusError::Silent(socket.to_owned())))
}

async fn ask(socket: &Path) -> Result<GetResponse, StatusError> {
    let channel = unix_channel::connect(socket).await.map_err(StatusError::Unreachable)?;
    let mut client = StatusClient::new(channel).max_decoding_message_size(ANSWER_MAX);
    let answer = client.get(GetRequest {}).await.map_err(|status| StatusError::Refused(Box::new(status)))?;
    Ok(answer.into_inner())
}
